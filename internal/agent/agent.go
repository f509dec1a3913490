// Package agent is the side that dials out: it keeps a link to a node, binds the
// endpoints it was given, and joins each stream to its upstream. It is the last
// room of the walk.
package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Endpoint is one public URL and what stands behind it.
type Endpoint struct {
	Spec     endpoint.Spec
	Upstream Upstream
}

// Config of an agent. Server, Token, ID, Endpoints and Logger must be set.
type Config struct {
	Server     string // host:port
	Token      tunnel.Token
	Roots      *x509.CertPool // trusted when the token has no fingerprint; nil: the system's
	ID         string         // persistent
	Generation uint64         // grows with every run
	Endpoints  []Endpoint
	Metadata   *tunnel.Metadata
	Drain      time.Duration // how long streams may go on after Run's context ended; default 10 s
	Logger     *slog.Logger

	// Online is told each time an endpoint can be used.
	Online func(name string, urls []string)
}

// ErrNoEndpoints says that the agent lost its last endpoint for good.
var ErrNoEndpoints = errors.New("no endpoint is left to serve")

// Agent serves endpoints. Make one with New, then call Run once.
type Agent struct {
	cfg       Config
	endpoints []*served
	dial      func(ctx context.Context, address string) (net.Conn, error)

	mu struct {
		sync.Mutex
		connected bool
		node      string
		latency   time.Duration
		lastError string
		lastClass any           // of lastError, see class
		bound     chan struct{} // closed and replaced whenever an endpoint comes online
	}
}

// New makes an agent that does nothing yet.
func New(cfg Config) *Agent {
	if cfg.Drain <= 0 {
		cfg.Drain = 10 * time.Second
	}
	dialer := link.Dialer{Fingerprint: cfg.Token.Fingerprint, Roots: cfg.Roots}
	a := &Agent{cfg: cfg, dial: func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := dialer.Dial(ctx, address)
		if err != nil {
			return nil, err
		}
		return conn, nil
	}}
	a.mu.bound = make(chan struct{})
	for _, e := range cfg.Endpoints {
		a.endpoints = append(a.endpoints, newServed(e, cfg.Logger))
	}
	return a
}

// Back-off between attempts to connect: the first is made at once, and so is the
// first after a session that had worked; from there on the wait doubles up to
// maxWait, of which a random half is taken off so that agents of a restarted node
// don't come in one wave. A session that ends sooner than the wait before it has not
// worked: a node that lets agents in and drops them must not be dialled in a loop.
const (
	minWait = 50 * time.Millisecond
	maxWait = 15 * time.Second
	settled = 5 * time.Second // a session this old has worked, whatever the wait was
)

// Run connects and serves until ctx ends, and connects again whenever the link is
// lost, for ever. Then it drains: names are given back, streams may go on for
// Config.Drain. It returns nil after that, or an error that
// trying again would not change: *tunnel.RefusalError, *tunnel.BindError,
// ErrNoEndpoints, or one that link.Untrusted knows. The last is final only until the
// first session: later it is a captive portal or a change at the server, which pass.
func (a *Agent) Run(ctx context.Context) error {
	wait := time.Duration(0)
	welcomed := false
	for {
		began := time.Now()
		worked, err := a.connect(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // asked to stop, and drained
		}
		welcomed = welcomed || worked
		if permanent(err) || !welcomed && link.Untrusted(err) {
			return err
		}
		if worked && time.Since(began) >= min(wait, settled) {
			wait = 0
		}
		pause := jitter(wait)
		var refusal *tunnel.RefusalError
		if errors.As(err, &refusal) && refusal.RetryAfter > pause {
			pause = jitter(min(2*refusal.RetryAfter, maxWait))
		}
		a.disconnected(err, pause)
		wait = min(max(2*wait, minWait), maxWait)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d/2 + rand.N(d/2+1) //nolint:gosec // spreads load, hides nothing
}

// permanent reports whether connecting again can't help.
func permanent(err error) bool {
	if refusal, ok := errors.AsType[*tunnel.RefusalError](err); ok {
		return !refusal.Retryable
	}
	var bind *tunnel.BindError
	return errors.As(err, &bind) || errors.Is(err, ErrNoEndpoints)
}

// class is what two failures to connect have in common when nothing has changed in
// between: texts differ, because some name the local port of the attempt.
func class(err error) any {
	if refusal, ok := errors.AsType[*tunnel.RefusalError](err); ok {
		return refusal.Code
	}
	for _, known := range []error{link.ErrWrongNode, link.ErrExpired, link.ErrNotANode, link.ErrNoAnswer} {
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

// disconnected notes and says that the link is gone. Attempts that fail like the
// one before are said only once.
func (a *Agent) disconnected(err error, pause time.Duration) {
	a.mu.Lock()
	had := a.mu.connected
	same := a.mu.lastClass == class(err)
	a.mu.connected = false
	a.mu.lastError, a.mu.lastClass = err.Error(), class(err)
	if had {
		a.mu.lastClass = nil // the first failure after a loss is news
	}
	a.mu.Unlock()
	log := a.cfg.Logger.With("server", a.cfg.Server, "error", err, "retry_in", pause.Round(time.Millisecond).String())
	switch {
	case had:
		log.Warn("connection to the server lost")
	case same:
		log.Debug("server still not reachable")
	default:
		log.Warn("server not reachable")
	}
}

// connect makes one link, serves it to its end, and reports whether it had come so
// far as to be welcomed.
func (a *Agent) connect(ctx context.Context) (worked bool, err error) {
	conn, err := a.dial(ctx, a.cfg.Server)
	if err != nil {
		return false, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	welcome, err := a.handshake(conn)
	stop()
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err == nil {
		err = ctx.Err() // the deadline of an AfterFunc that ran may just have been taken off
	}
	if err != nil {
		_ = conn.Close()
		return false, err
	}
	a.mu.Lock()
	a.mu.connected, a.mu.node, a.mu.lastError = true, welcome.GetNode(), ""
	a.mu.Unlock()
	log := a.cfg.Logger
	if id, err := uuid.FromBytes(welcome.GetSessionId()); err == nil {
		log = log.With("session", id.String())
	}
	log.Info("connected", "server", a.cfg.Server, "node", tunnel.Clean(welcome.GetNode()),
		"server_version", tunnel.Clean(welcome.GetServerVersion()))

	heartbeat := time.Duration(welcome.GetHeartbeatMs()) * time.Millisecond
	if heartbeat > 0 {
		heartbeat = min(max(heartbeat, time.Second), time.Minute) // whatever the node says
	}
	l := link.Client(conn, link.Config{Heartbeat: heartbeat})
	s := &session{agent: a, link: l, log: log}
	err = s.run(ctx)
	for _, e := range a.endpoints {
		e.offline()
	}
	return true, err
}

// handshakeTimeout bounds the answer to a Hello.
const handshakeTimeout = 10 * time.Second

func (a *Agent) handshake(conn net.Conn) (*tunnel.Welcome, error) {
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, err
	}
	err := tunnel.Write(conn, &tunnel.Hello{
		Version:    tunnel.Version,
		Token:      a.cfg.Token.Credential(),
		AgentId:    a.cfg.ID,
		Generation: a.cfg.Generation,
		Metadata:   a.cfg.Metadata,
	}, tunnel.MaxHandshake)
	if err != nil {
		return nil, err
	}
	var reply tunnel.HelloReply
	if err := tunnel.Read(conn, &reply, tunnel.MaxHandshake); err != nil {
		return nil, fmt.Errorf("read answer to handshake: %w", err)
	}
	if r := reply.GetRefusal(); r != nil {
		return nil, &tunnel.RefusalError{
			Code: tunnel.Code(r.GetCode()), Message: r.GetMessage(), Retryable: r.GetRetryable(),
			RetryAfter: time.Duration(r.GetRetryAfterMs()) * time.Millisecond,
		}
	}
	if reply.GetWelcome() == nil {
		return nil, fmt.Errorf("read answer to handshake: %w", tunnel.ErrMalformed)
	}
	return reply.GetWelcome(), nil
}
