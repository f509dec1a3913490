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
	"time"

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

	mu struct {
		sync.Mutex
		connected bool
		node      string
		latency   time.Duration
		lastError string
		bound     chan struct{} // closed and replaced whenever an endpoint comes online
	}
}

// New makes an agent that does nothing yet.
func New(cfg Config) *Agent {
	if cfg.Drain <= 0 {
		cfg.Drain = 10 * time.Second
	}
	a := &Agent{cfg: cfg}
	a.mu.bound = make(chan struct{})
	for _, e := range cfg.Endpoints {
		a.endpoints = append(a.endpoints, newServed(e, cfg.Logger))
	}
	return a
}

// Back-off between attempts to connect: the first is made at once, and so is the
// first after a session that had worked; from there on the wait doubles up to
// maxWait, of which a random half is taken off so that agents of a restarted node
// don't come in one wave.
const (
	minWait = 50 * time.Millisecond
	maxWait = 15 * time.Second
)

// Run connects and serves until ctx ends, and connects again whenever the link is
// lost, for ever. Then it drains: names are given back, streams may go on for
// Config.Drain. It returns nil after that, or an error that
// trying again would not change: *tunnel.RefusalError, *tunnel.BindError,
// ErrNoEndpoints, or one that link.Untrusted knows.
func (a *Agent) Run(ctx context.Context) error {
	wait := time.Duration(0)
	for {
		worked, err := a.connect(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // asked to stop, and drained
		}
		if permanent(err) {
			return err
		}
		if worked {
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
	return errors.As(err, &bind) || errors.Is(err, ErrNoEndpoints) || link.Untrusted(err)
}

// disconnected notes and says that the link is gone. Attempts that fail like the
// one before are said only once.
func (a *Agent) disconnected(err error, pause time.Duration) {
	a.mu.Lock()
	had := a.mu.connected
	same := a.mu.lastError == err.Error()
	a.mu.connected = false
	a.mu.lastError = err.Error()
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
	dialer := link.Dialer{Fingerprint: a.cfg.Token.Fingerprint, Roots: a.cfg.Roots}
	conn, err := dialer.Dial(ctx, a.cfg.Server)
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
	a.cfg.Logger.Info("connected", "server", a.cfg.Server, "node", tunnel.Clean(welcome.GetNode()),
		"server_version", tunnel.Clean(welcome.GetServerVersion()))

	l := link.Client(conn, link.Config{Heartbeat: time.Duration(welcome.GetHeartbeatMs()) * time.Millisecond})
	s := &session{agent: a, link: l, log: a.cfg.Logger}
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
