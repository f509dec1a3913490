// Package control accepts agents: the handshake, the control stream, the binding
// of endpoints. It makes sessions and puts their routes into the registry; it
// never sees a visitor.
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/server/auth"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/server/session"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Config of a Control. Authenticate and Registry must be set.
type Config struct {
	Authenticate func(credential string) (auth.Grant, error)
	Registry     *registry.Registry
	URLs         URLs
	Bound        func(*registry.Route) // told of each route after its agent was; must not block
	Node, Region string
	Version      string // of the server
	Domain       string
	Others       func() []string // host:port of other nodes that take agents in; nil: there are none
	Heartbeat    time.Duration   // default link.DefaultHeartbeat
	ResumeWindow time.Duration   // how long links wait for their agent's next connection; default link.ResumeWindow
	MaxSessions  int             // default 10,000
	MaxEndpoints int             // per session; default 1,000
	MaxPending   int             // links whose Hello is not there yet; default 4,096
	Logger       *slog.Logger
	// Event, if set, is told what happens. It must not wait.
	Event func(Event)
}

// handshakeTimeout bounds the time from a link's TLS handshake to its Hello.
const handshakeTimeout = 10 * time.Second

// Control accepts agents. Make one with New.
type Control struct {
	cfg     Config
	pending chan struct{}    // a place for each link without a Hello
	windows *link.Budget     // of all links
	kept    *link.KeptBudget // likewise

	lost, resumed atomic.Int64 // links

	mu struct {
		sync.Mutex
		sessions map[string]*agentSession
		links    map[uuid.UUID]*agentLink
		usage    map[string]*usage // by token, while it has sessions
		in, out  int64             // bytes of all links that have ended
		draining bool
	}
}

// agentSession is a session with its control stream.
type agentSession struct {
	*session.Session
	grant auth.Grant
	seat  uint32
	usage *usage // of the token, set by Control.enter
	cfg   *Config
	log   *slog.Logger

	write sync.Mutex // one message at a time on the control stream
	ctl   link.Stream

	mu struct {
		sync.Mutex
		routes map[string]*registry.Route
		joined int // links beside the first
		ended  bool
	}
}

// maxWindows bounds what all agents together may have under way to this node's visitors
// beyond the first window of each stream, in bytes.
const maxWindows = 1 << 30

// New makes a Control that has no sessions yet.
func New(cfg Config) *Control {
	if cfg.Heartbeat <= 0 {
		cfg.Heartbeat = link.DefaultHeartbeat
	}
	if cfg.ResumeWindow <= 0 {
		cfg.ResumeWindow = link.ResumeWindow
	}
	if cfg.MaxSessions <= 0 {
		cfg.MaxSessions = 10_000
	}
	if cfg.MaxEndpoints <= 0 {
		cfg.MaxEndpoints = 1_000
	}
	if cfg.MaxPending <= 0 {
		cfg.MaxPending = 4096
	}
	if cfg.Others == nil {
		cfg.Others = func() []string { return nil }
	}
	c := &Control{cfg: cfg, pending: make(chan struct{}, cfg.MaxPending), windows: link.NewBudget(maxWindows), kept: link.NewKeptBudget(maxKept)}
	c.mu.sessions, c.mu.usage = make(map[string]*agentSession), make(map[string]*usage)
	c.mu.links = make(map[uuid.UUID]*agentLink)
	return c
}

// Serve serves one connection from its handshake to the end of the link that it begins,
// or until it has taken its place in a link that there is. conn is authenticated to the
// agent (TLS) but the agent not yet to the node. Serve closes conn, or sees to it that
// the link does.
func (c *Control) Serve(ctx context.Context, conn net.Conn) error {
	hello, err := c.hear(conn)
	if err == nil {
		switch hello.GetMode() {
		case tunnel.LinkMode_LINK_MODE_NEW:
			err = c.begin(ctx, conn, hello)
		case tunnel.LinkMode_LINK_MODE_JOIN:
			err = c.join(ctx, conn, hello)
		case tunnel.LinkMode_LINK_MODE_RESUME:
			if err = c.resume(conn, hello); err == nil {
				return nil
			}
		default:
			err = refuseLink()
		}
	}
	if refusal, ok := errors.AsType[*tunnel.RefusalError](err); ok {
		c.refuse(conn, refusal)
		c.cfg.Logger.Warn("agent refused", "code", refusal.Code, "remote", conn.RemoteAddr().String(),
			"agent", tunnel.Clean(hello.GetAgentId()))
		c.cfg.tell(Event{Kind: AgentRefused, Agent: tunnel.Clean(hello.GetAgentId()), Code: string(refusal.Code), Remote: conn.RemoteAddr().String()})
	}
	_ = conn.Close() // ended either way
	return err
}

// begin makes a session and serves its first link to the end, and the session with it.
func (c *Control) begin(ctx context.Context, conn net.Conn, hello *tunnel.Hello) error {
	s, err := c.admit(hello)
	if err != nil {
		return err
	}
	defer c.remove(s)
	l, err := c.newLink(conn, s, hello)
	if err != nil {
		return err
	}
	c.addLink(l)
	c.endGhosts(s)
	s.log.Info("agent connected", "agent", s.AgentID, "remote", conn.RemoteAddr().String(),
		"token", s.TokenID, "generation", s.Generation, "agent_version", tunnel.Clean(s.Metadata.GetVersion()))

	if !s.grant.Expires.IsZero() {
		defer time.AfterFunc(time.Until(s.grant.Expires), func() {
			s.log.Info("session ended: its token expired", "token", s.TokenID)
			s.revoked()
		}).Stop()
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var tasks sync.WaitGroup
	tasks.Go(func() {
		if err := s.serveControl(ctx, l.link); err != nil && ctx.Err() == nil {
			s.log.Debug("control stream ended", "error", err)
		} else if err == nil {
			// The agent is done. Its last bytes are here or, on other links, on their way;
			// visitors may not have them yet.
			finish, cancel := context.WithTimeout(ctx, finishTimeout)
			s.Finish(finish)
			cancel()
		}
		// A session without its control stream can't be told anything any more.
		_ = l.link.Close()
	})
	c.cfg.tell(Event{Kind: AgentConnected, Agent: s.AgentID, Token: s.TokenID, Remote: conn.RemoteAddr().String()})
	err = l.link.Run(ctx)
	cancel()
	tasks.Wait()
	c.removeLink(l)
	s.end()
	c.cfg.tell(Event{Kind: AgentDisconnected, Agent: s.AgentID, Token: s.TokenID, Remote: conn.RemoteAddr().String()})
	s.log.Info("agent disconnected", "agent", s.AgentID, "error", err)
	return nil
}

// finishTimeout bounds the wait for the last bytes of an agent that is done.
const finishTimeout = 2 * time.Second

// hear reads the Hello.
func (c *Control) hear(conn net.Conn) (*tunnel.Hello, error) {
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, err
	}
	select {
	case c.pending <- struct{}{}:
	default:
		return nil, errPending // without a word: who sends a Hello first is the agent
	}
	hello := new(tunnel.Hello)
	err := tunnel.Read(conn, hello, tunnel.MaxHandshake)
	<-c.pending
	switch {
	case errors.Is(err, tunnel.ErrTooLarge) || errors.Is(err, tunnel.ErrMalformed):
		return hello, fmt.Errorf("%w: %w", &tunnel.RefusalError{Code: tunnel.CodeBadHello, Message: "the handshake could not be read"}, err)
	case err != nil:
		return nil, err
	case hello.GetVersion() != tunnel.Version:
		return hello, &tunnel.RefusalError{Code: tunnel.CodeVersionUnsupported, Message: "this server speaks another version of the protocol: update the older of the two"}
	}
	if id := hello.GetAgentId(); id == "" || len(id) > 64 {
		return hello, &tunnel.RefusalError{Code: tunnel.CodeBadHello, Message: "the agent id must have 1 to 64 bytes"}
	}
	if hello.GetSeat() >= maxSeats {
		return hello, &tunnel.RefusalError{Code: tunnel.CodeBadHello, Message: "a run of an agent has at most 8 sessions at a time"}
	}
	return hello, nil
}

// maxSeats is how many sessions of one run may share its names.
const maxSeats = 8

var errPending = errors.New("too many links without a Hello")

func (c *Control) refuse(conn net.Conn, r *tunnel.RefusalError) {
	_ = tunnel.Write(conn, &tunnel.HelloReply{Reply: &tunnel.HelloReply_Refusal{Refusal: &tunnel.Refusal{
		Code:         string(r.Code),
		Message:      r.Message,
		Retryable:    r.Retryable,
		RetryAfterMs: uint32(r.RetryAfter.Milliseconds()), //nolint:gosec // seconds
		Versions:     []uint32{tunnel.Version},
	}}}, tunnel.MaxHandshake)
	// Without an orderly end the refusal could be lost to the reset that closing
	// with unread bytes causes.
	if cw, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = cw.CloseWrite()
	}
}

// admit makes a session for an agent whose token is good.
func (c *Control) admit(hello *tunnel.Hello) (*agentSession, error) {
	grant, err := c.authenticate(hello)
	if err != nil {
		return nil, err
	}
	s := &agentSession{
		Session: &session.Session{
			ID: uuid.NewString(), AgentID: hello.GetAgentId(), Generation: hello.GetGeneration(),
			TokenID: grant.TokenID, Metadata: hello.GetMetadata(), Since: time.Now(), Grace: c.cfg.Registry.Grace(),
		},
		grant: grant,
		seat:  hello.GetSeat(),
		cfg:   &c.cfg,
	}
	s.log = c.cfg.Logger.With("session", s.ID)
	s.mu.routes = make(map[string]*registry.Route)

	if refusal := c.enter(s); refusal != nil {
		return nil, refusal
	}
	// Whoever revokes a token looks for its sessions afterwards. This one may have
	// come in between, so it is asked for once more now that it can be found.
	if _, err := c.cfg.Authenticate(hello.GetToken()); err != nil {
		c.remove(s)
		return nil, refuseToken()
	}
	return s, nil
}

func refuseToken() *tunnel.RefusalError {
	return &tunnel.RefusalError{Code: tunnel.CodeTokenInvalid, Message: "the token is unknown or was revoked: ask the server's operator for a new one"}
}

// enter puts a session among the others unless the node takes no more.
func (c *Control) enter(s *agentSession) *tunnel.RefusalError {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.draining {
		return &tunnel.RefusalError{Code: tunnel.CodeDraining, Message: "the server is shutting down", Retryable: true, RetryAfter: time.Second}
	}
	if len(c.mu.sessions) >= c.cfg.MaxSessions {
		return &tunnel.RefusalError{Code: tunnel.CodeTooManySessions, Message: "the server has too many agents", Retryable: true, RetryAfter: 5 * time.Second}
	}
	u := c.mu.usage[s.TokenID]
	if u == nil {
		u = newUsage(s.grant)
		c.mu.usage[s.TokenID] = u
	}
	if limit := s.grant.MaxSessions; limit > 0 && u.sessions >= limit {
		return &tunnel.RefusalError{Code: tunnel.CodeTooManySessions, Message: fmt.Sprintf("this token has %d agents connected, as many as it allows: stop one, or use another token", limit), Retryable: true, RetryAfter: 5 * time.Second}
	}
	u.sessions++
	s.usage, s.Admit, s.Bandwidth = u, u.admit(s.grant.MaxConnections), u.bandwidth
	c.mu.sessions[s.ID] = s
	return nil
}

func (c *Control) remove(s *agentSession) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.sessions[s.ID] != s {
		return
	}
	delete(c.mu.sessions, s.ID)
	if s.usage.sessions--; s.usage.sessions == 0 {
		delete(c.mu.usage, s.TokenID)
	}
}

// Sessions is how many agents are connected.
func (c *Control) Sessions() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.mu.sessions)
}

// Links are what those of all agents hold and have done since the node's start.
type Links struct {
	Open, Away    int   // of Open, those that wait to be resumed
	Lost, Resumed int64 // how often that was
	In, Out       int64 // bytes
	Queued        int   // bytes that wait to be sent
	Kept          int64 // bytes that agents may not have yet, kept for sending again
	Windows       int64 // bytes by which agents may be ahead of visitors, beyond the first of each stream
}

// Links sums up all of them.
func (c *Control) Links() Links {
	c.mu.Lock()
	links := slices.Collect(maps.Values(c.mu.links))
	n := Links{Open: len(links), In: c.mu.in, Out: c.mu.out}
	c.mu.Unlock()
	for _, l := range links {
		in, out := l.link.Moved()
		n.In, n.Out, n.Queued = n.In+in, n.Out+out, n.Queued+l.link.Queued()
		if _, back := l.link.Away(); back != nil {
			n.Away++
		}
	}
	n.Lost, n.Resumed = c.lost.Load(), c.resumed.Load()
	n.Kept, n.Windows = c.kept.Used(), c.windows.Used()
	return n
}

// Info is a session for people to see.
type Info struct {
	*session.Session
	Endpoints int
}

// List returns the sessions, the oldest first.
func (c *Control) List() []Info {
	c.mu.Lock()
	sessions := slices.Collect(maps.Values(c.mu.sessions))
	c.mu.Unlock()
	list := make([]Info, 0, len(sessions))
	for _, s := range sessions {
		list = append(list, Info{Session: s.Session, Endpoints: s.endpoints()})
	}
	slices.SortFunc(list, func(a, b Info) int { return a.Since.Compare(b.Since) })
	return list
}

// Revoke ends all sessions of a token. The token must be unknown to Authenticate
// by then: a session that is being admitted right now checks once more.
func (c *Control) Revoke(tokenID string) {
	c.mu.Lock()
	var ends []*agentSession
	for _, s := range c.mu.sessions {
		if s.TokenID == tokenID {
			ends = append(ends, s)
		}
	}
	c.mu.Unlock()
	for _, s := range ends {
		s.log.Info("session ended: its token was revoked", "token", tokenID)
		s.revoked()
	}
}

// drainEvery spreads the agents that are sent away, as each costs its next node a
// handshake.
const drainEvery = time.Millisecond

// Drain refuses new agents and tells those that are here that this node goes away, one
// after the other; with successor, that another process serves its addresses. It returns
// when all have been told, or ctx ends.
func (c *Control) Drain(ctx context.Context, reason string, deadline time.Duration, successor bool) {
	c.mu.Lock()
	c.mu.draining = true
	sessions := make([]*agentSession, 0, len(c.mu.sessions))
	for _, s := range c.mu.sessions {
		sessions = append(sessions, s)
	}
	c.mu.Unlock()
	m := &tunnel.Control{Message: &tunnel.Control_Drain{Drain: &tunnel.Drain{
		Reason: reason, DeadlineMs: uint32(deadline.Milliseconds()), Successor: successor, Addresses: c.cfg.Others(), //nolint:gosec // minutes
	}}}
	tick := time.NewTicker(drainEvery)
	defer tick.Stop()
	for _, s := range sessions {
		go func() { _ = s.send(m) }() // bounded by send's own deadline
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Notice tells the agents that serve a name that fits something their users should
// know. It doesn't wait for them.
func (c *Control) Notice(fits func(endpoint.Name) bool, code tunnel.Code, message string) {
	m := &tunnel.Control{Message: &tunnel.Control_Notice{Notice: &tunnel.Notice{
		Level: "warn", Code: string(code), Message: message,
	}}}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.mu.sessions {
		if s.serves(fits) {
			go func() { _ = s.send(m) }() // bounded by send's own deadline
		}
	}
}

func (s *agentSession) serves(fits func(endpoint.Name) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.mu.routes {
		if fits(r.Name) {
			return true
		}
	}
	return false
}
