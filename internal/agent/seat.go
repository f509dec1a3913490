package agent

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// maxSeats is how many sessions an agent has at a time, each at another of the servers that
// it was given.
const maxSeats = 2

// seat is one of the sessions that an agent has at a time, one after the other. All of them
// serve all endpoints.
type seat struct {
	agent  *Agent
	number uint32
	left   []*session // of run alone

	// Of Agent.mu.
	server    string // of the session, or of the next attempt
	connected bool
	node      string
	region    string
	transport link.Transport // of the link that was made or resumed last
	since     time.Time      // of the session, or of the loss of the last one
	retry     time.Time      // when the next attempt to connect is made
	latency   time.Duration
	lastError string
	lastClass any // of lastError, see class

	spare struct {
		sync.Mutex
		server string // has answered where another did not
		conn   net.Conn
	}
}

// run connects and serves until ctx ends, as Run says. The errors of a seat that is not the
// first end nothing but it, while the first goes on. Ready is called with the first session.
func (s *seat) run(ctx context.Context, ready func()) error {
	a := s.agent
	var r retries
	for server := a.servers.begin(s.number); ; {
		r.attempt()
		worked, err := s.connect(ctx, server, ready)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // asked to stop, and drained
		}
		if s.ends(err) {
			return err
		}
		pause := r.failed(worked, err)
		moved, leaving := errors.AsType[*movedError](err)
		at := server
		if spare := s.hasSpare(); spare != "" {
			server, pause = spare, 0
		} else if !worked || leaving && !moved.successor {
			again := false
			if server, again = a.servers.after(s.number); !worked && !again {
				pause = 0 // there is another server to be tried
			}
		}
		if !leaving { // else the session that was left serves until there is another
			s.disconnected(at, err, pause, worked)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// ends reports whether connecting again can't help, or not any more.
func (s *seat) ends(err error) bool {
	var bind *tunnel.BindError
	if errors.As(err, &bind) || errors.Is(err, ErrNoEndpoints) {
		return true // of the agent as a whole
	}
	if s.number > 0 {
		return false
	}
	if refusal, ok := errors.AsType[*tunnel.RefusalError](err); ok {
		return !refusal.Retryable
	}
	s.agent.mu.Lock()
	defer s.agent.mu.Unlock()
	return !s.agent.mu.welcomed && link.Untrusted(err)
}

// keep makes conn the spare connection, in place of the one that there was; nil: none.
func (s *seat) keep(server string, conn net.Conn) {
	s.spare.Lock()
	before := s.spare.conn
	s.spare.server, s.spare.conn = server, conn
	s.spare.Unlock()
	if before != nil {
		_ = before.Close()
	}
}

// hasSpare returns the server that there is a connection to; empty: there is none.
func (s *seat) hasSpare() string {
	s.spare.Lock()
	defer s.spare.Unlock()
	return s.spare.server
}

// take returns the spare connection to a server, nil if there is none. One to another server
// is closed.
func (s *seat) take(server string) (conn net.Conn) {
	s.spare.Lock()
	if s.spare.server == server {
		conn, s.spare.conn = s.spare.conn, nil
	}
	s.spare.Unlock()
	s.keep("", nil)
	return conn
}

// reach looks for another server that answers, and reports whether the seat moves there.
func (s *seat) reach(ctx context.Context, others []string) bool {
	server, conn := s.agent.servers.reach(ctx, others)
	if conn == nil {
		return false
	}
	if ctx.Err() != nil || !s.agent.servers.use(s.number, server) { // or another seat was faster
		_ = conn.Close()
		return false
	}
	s.keep(server, conn)
	return true
}

// connect makes one session, serves it to its end, and reports whether it had come so
// far as to be welcomed.
func (s *seat) connect(ctx context.Context, server string, ready func()) (worked bool, err error) {
	a := s.agent
	a.servers.use(s.number, server)
	conn := s.take(server)
	if conn == nil {
		if conn, err = a.servers.dial(ctx, server); err != nil {
			return false, err
		}
	}
	welcome, err := greet(ctx, conn, a.hello(tunnel.LinkMode_LINK_MODE_NEW, s.number))
	if err != nil {
		return false, err
	}
	a.mu.Lock()
	a.mu.welcomed = true
	alone := !a.connectedLocked()
	s.connected, s.server, s.lastError = true, server, ""
	s.node, s.region = tunnel.Clean(welcome.GetNode()), tunnel.Clean(welcome.GetRegion())
	s.since, s.latency = time.Now(), 0
	a.mu.Unlock()
	a.servers.tell(welcome.GetServers())
	life := a.newLifeline(s, server, welcome)
	if alone {
		a.tellConnected(nil)
	}
	ready()
	life.log.Info("connected", "server", server, "transport", string(transportOf(conn)), "node", tunnel.Clean(welcome.GetNode()),
		"server_version", tunnel.Clean(welcome.GetServerVersion()))
	n := &session{agent: a, seat: s, life: life, link: life.link(conn), log: life.log, moved: make(chan *movedError, 1), ended: make(chan error, 1)}
	a.sessions.Go(func() { n.run(ctx) })
	select {
	case err := <-n.ended:
		return true, err
	case moved := <-n.moved:
		s.leave(n)
		return true, moved
	}
}

// disconnected notes and says that there is no link, be it that one was lost or that none
// could be made. Attempts that fail like the one before are said only once.
func (s *seat) disconnected(server string, err error, pause time.Duration, lost bool) {
	a := s.agent
	a.mu.Lock()
	same := s.lastClass == class(err)
	if s.connected && (lost || !s.leftServes()) {
		s.connected, s.since = false, time.Now()
	}
	s.retry = time.Now().Add(pause)
	s.lastError, s.lastClass = err.Error(), class(err)
	if lost {
		s.lastClass = nil // the first failure after a loss is news
	}
	alone := !a.connectedLocked()
	a.mu.Unlock()
	if alone {
		a.tellConnected(err)
	}
	log := a.cfg.Logger.With("server", server, "error", err, "retry_in", pause.Round(time.Millisecond).String())
	switch {
	case lost:
		log.Warn("connection to the server lost")
	case same:
		log.Debug("server still not reachable")
	default:
		log.Warn("server not reachable")
	}
}

// interrupted notes that the connection is gone for the time being.
func (s *seat) interrupted(err error) {
	s.agent.mu.Lock()
	defer s.agent.mu.Unlock()
	s.connected, s.lastError = false, err.Error()
	s.since, s.retry = time.Now(), time.Time{} // the link says when, to nobody
}

func (s *seat) resumed() {
	s.agent.mu.Lock()
	defer s.agent.mu.Unlock()
	s.connected, s.lastError, s.since = true, "", time.Now()
}

// class is what two failures to connect have in common when nothing has changed in
// between: texts differ, because some name the local port of the attempt.
func class(err error) any {
	if refusal, ok := errors.AsType[*tunnel.RefusalError](err); ok {
		return refusal.Code
	}
	for _, known := range []error{link.ErrWrongNode, link.ErrExpired, link.ErrNotANode, link.ErrNoAnswer, link.ErrNoWebSocket, link.ErrNoQUIC, link.ErrQUICProxied, link.ErrProxyAuth, link.ErrProxy} {
		if errors.Is(err, known) {
			return known
		}
	}
	if link.Untrusted(err) {
		return "untrusted"
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return "unreachable"
}
