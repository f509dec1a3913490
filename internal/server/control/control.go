// Package control accepts agents: the handshake, the control stream, the binding
// of endpoints. It makes sessions and puts their routes into the registry; it
// never sees a visitor.
package control

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/google/uuid"

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
	Node, Region string
	Version      string // of the server
	Domain       string
	Heartbeat    time.Duration // default link.DefaultHeartbeat
	MaxSessions  int           // default 10,000
	MaxEndpoints int           // per session; default 1,000
	MaxPending   int           // links whose Hello is not there yet; default 4,096
	Logger       *slog.Logger
}

// handshakeTimeout bounds the time from a link's TLS handshake to its Hello.
const handshakeTimeout = 10 * time.Second

// Control accepts agents. Make one with New.
type Control struct {
	cfg     Config
	pending chan struct{} // a place for each link without a Hello
	windows *link.Budget  // of all links

	mu struct {
		sync.Mutex
		sessions map[string]*agentSession
		draining bool
	}
}

// agentSession is a session with its control stream.
type agentSession struct {
	*session.Session
	grant auth.Grant
	cfg   *Config
	log   *slog.Logger

	write sync.Mutex // one message at a time on the control stream
	ctl   link.Stream

	mu struct {
		sync.Mutex
		routes map[string]*registry.Route
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
	if cfg.MaxSessions <= 0 {
		cfg.MaxSessions = 10_000
	}
	if cfg.MaxEndpoints <= 0 {
		cfg.MaxEndpoints = 1_000
	}
	if cfg.MaxPending <= 0 {
		cfg.MaxPending = 4096
	}
	c := &Control{cfg: cfg, pending: make(chan struct{}, cfg.MaxPending), windows: link.NewBudget(maxWindows)}
	c.mu.sessions = make(map[string]*agentSession)
	return c
}

// Serve serves one link from its handshake to its end. conn is authenticated to
// the agent (TLS) but the agent not yet to the node. Serve closes conn.
func (c *Control) Serve(ctx context.Context, conn net.Conn) error {
	defer conn.Close() //nolint:errcheck // ended either way
	s, err := c.handshake(conn)
	if err != nil {
		return err
	}
	defer c.remove(s)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := link.Server(conn, link.Config{Heartbeat: c.cfg.Heartbeat, Budget: c.windows})
	s.Add(l)
	s.log.Info("agent connected", "agent", s.AgentID, "remote", conn.RemoteAddr().String(),
		"token", s.TokenID, "generation", s.Generation, "agent_version", tunnel.Clean(s.Metadata.GetVersion()))

	var tasks sync.WaitGroup
	tasks.Go(func() {
		if err := s.serveControl(ctx, l); err != nil && ctx.Err() == nil {
			s.log.Debug("control stream ended", "error", err)
		}
		// A session without its control stream can't be told anything any more.
		_ = l.Close()
	})
	err = l.Run(ctx)
	cancel()
	tasks.Wait()
	s.Remove(l)
	s.end()
	s.log.Info("agent disconnected", "agent", s.AgentID, "error", err)
	return nil
}

// handshake reads the Hello and answers it.
func (c *Control) handshake(conn net.Conn) (*agentSession, error) {
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, err
	}
	select {
	case c.pending <- struct{}{}:
	default:
		return nil, errPending // without a word: who sends a Hello first is the agent
	}
	var hello tunnel.Hello
	err := tunnel.Read(conn, &hello, tunnel.MaxHandshake)
	<-c.pending
	if err != nil {
		if errors.Is(err, tunnel.ErrTooLarge) || errors.Is(err, tunnel.ErrMalformed) {
			c.refuse(conn, &tunnel.RefusalError{Code: tunnel.CodeBadHello, Message: "the handshake could not be read"})
		}
		return nil, err
	}
	s, refusal := c.admit(&hello)
	if refusal != nil {
		c.refuse(conn, refusal)
		c.cfg.Logger.Warn("agent refused", "code", refusal.Code, "remote", conn.RemoteAddr().String(),
			"agent", tunnel.Clean(hello.GetAgentId()))
		return nil, refusal
	}
	id, err := uuid.MustParse(s.ID).MarshalBinary()
	if err == nil {
		err = tunnel.Write(conn, &tunnel.HelloReply{Reply: &tunnel.HelloReply_Welcome{Welcome: &tunnel.Welcome{
			SessionId:     id,
			Node:          c.cfg.Node,
			Region:        c.cfg.Region,
			ServerVersion: c.cfg.Version,
			HeartbeatMs:   uint32(c.cfg.Heartbeat.Milliseconds()), //nolint:gosec // seconds
			Limits:        &tunnel.Limits{Endpoints: uint32(c.cfg.MaxEndpoints)},
			LinkId:        id,
			Domain:        c.cfg.Domain,
		}}}, tunnel.MaxHandshake)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		c.remove(s)
		return nil, err
	}
	return s, nil
}

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

// admit judges a Hello and makes the session.
func (c *Control) admit(hello *tunnel.Hello) (*agentSession, *tunnel.RefusalError) {
	if hello.GetVersion() != tunnel.Version {
		return nil, &tunnel.RefusalError{Code: tunnel.CodeVersionUnsupported, Message: "this server speaks another version of the protocol: update the older of the two"}
	}
	if id := hello.GetAgentId(); id == "" || len(id) > 64 {
		return nil, &tunnel.RefusalError{Code: tunnel.CodeBadHello, Message: "the agent id must have 1 to 64 bytes"}
	}
	if hello.GetMode() != tunnel.LinkMode_LINK_MODE_NEW {
		return nil, &tunnel.RefusalError{Code: tunnel.CodeModeUnsupported, Message: "this server knows no such session: start a new one", Retryable: true}
	}
	grant, err := c.cfg.Authenticate(hello.GetToken())
	switch {
	case errors.Is(err, auth.ErrDenied):
		return nil, refuseToken()
	case err != nil:
		c.cfg.Logger.Error("token can't be judged", "error", err)
		return nil, &tunnel.RefusalError{Code: tunnel.CodeInternal, Message: "the server can't judge this token: its operator finds the reason in its log", Retryable: true, RetryAfter: 5 * time.Second}
	}
	s := &agentSession{
		Session: &session.Session{
			ID: uuid.NewString(), AgentID: hello.GetAgentId(), Generation: hello.GetGeneration(),
			TokenID: grant.TokenID, Metadata: hello.GetMetadata(), Since: time.Now(),
		},
		grant: grant,
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
	c.mu.sessions[s.ID] = s
	return nil
}

func (c *Control) remove(s *agentSession) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.mu.sessions, s.ID)
}

// Sessions is how many agents are connected.
func (c *Control) Sessions() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.mu.sessions)
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

// Drain tells all agents that this node goes away and refuses new ones.
func (c *Control) Drain(reason string, deadline time.Duration) {
	c.mu.Lock()
	c.mu.draining = true
	sessions := make([]*agentSession, 0, len(c.mu.sessions))
	for _, s := range c.mu.sessions {
		sessions = append(sessions, s)
	}
	c.mu.Unlock()
	m := &tunnel.Control{Message: &tunnel.Control_Drain{Drain: &tunnel.Drain{
		Reason: reason, DeadlineMs: uint32(deadline.Milliseconds()), //nolint:gosec // minutes
	}}}
	for _, s := range sessions {
		go func() { _ = s.send(m) }() // bounded by send's own deadline
	}
}
