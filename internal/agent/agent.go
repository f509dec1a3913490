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
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/datagram"
	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Endpoint is one public URL and what stands behind it.
type Endpoint struct {
	Spec     endpoint.Spec
	Upstream Upstream
	Listener *Listener // takes the visitors in the place of Upstream, if set
}

// Config of an agent. Servers, Token, ID, Endpoints and Logger must be set.
type Config struct {
	Servers    []string // host:port; of several, two have sessions; the next one is dialled when one can't be reached, and behind the last those that a server tells of
	Links      int      // connections to the server that streams are spread over; default 1
	Token      tunnel.Token
	Roots      *x509.CertPool // trusted when the token has no fingerprint; nil: the system's
	Resolver   *net.Resolver  // nil: the system's
	Proxy      Proxy          // nil: servers are dialled directly
	Transport  link.Transport // empty: link.Auto
	State      string         // directory that keeps what got through to which server; empty: none
	Reprobe    time.Duration  // between looks for a better transport than the one in use; default 5 min
	ID         string         // persistent
	Generation uint64         // grows with every run
	Endpoints  []Endpoint
	Metadata   *tunnel.Metadata
	Drain      time.Duration // how long streams may go on after Run's context ended; default 10 s
	Logger     *slog.Logger

	// Certify returns what has the certificate for a host, and begins to get it; nil:
	// no endpoint has a Terminator with ACME. See package acme.
	Certify func(host string, how ACME) Certificates
	// Watch is handed each connection to the upstream of an http endpoint, and returns
	// what is to be used in its place; nil: nobody watches. visitor is who opened the
	// stream.
	Watch func(name, visitor string, up net.Conn) net.Conn
	// Unreached is told of each stream of an http endpoint whose upstream could not be
	// dialled, with what had come of the request by then; nil: nobody watches.
	Unreached func(name, visitor string, request []byte, err error)

	// Online is told each time an endpoint can be used.
	Online func(name string, urls []string)
	// Lost is told when an endpoint is given up: it was refused for good (before it
	// was ever online), or a newer run of the agent took it over.
	Lost func(name string, err *tunnel.BindError)
	// Connected is told of each session, with nil, and of why it ended or could not
	// be made; the agent dials again then.
	Connected func(err error)
}

// Proxy finds the way to a server that is not the direct one; a nil URL: there is none.
type Proxy = func(address string) (*url.URL, error)

// ErrNoEndpoints says that the agent lost its last endpoint for good.
var ErrNoEndpoints = errors.New("no endpoint is left to serve")

// Agent serves endpoints. Make one with New, then call Run once.
type Agent struct {
	cfg       Config
	endpoints table
	servers   servers
	seats     []*seat
	probe     func(ctx context.Context, address string) bool // whether the best transport gets through
	queued    *datagram.Budget                               // datagrams that wait for the link
	sessions  sync.WaitGroup                                 // one that serves, and those that were left
	abort     sync.Once
	aborted   chan struct{}

	mu struct {
		sync.Mutex
		welcomed bool // by some server, in this run
		draining bool
		bound    chan struct{} // closed and replaced whenever an endpoint comes online
	}
}

// New makes an agent that does nothing yet.
func New(cfg Config) *Agent {
	cfg.Links = max(cfg.Links, 1)
	if cfg.Drain <= 0 {
		cfg.Drain = 10 * time.Second
	}
	if cfg.Reprobe <= 0 {
		cfg.Reprobe = 5 * time.Minute
	}
	dialer := link.Dialer{
		Fingerprint: cfg.Token.Fingerprint, Roots: cfg.Roots, Resolver: cfg.Resolver, Proxy: cfg.Proxy, Transport: cfg.Transport,
	}
	known := newKnown(cfg.State, cfg.Servers)
	dialer.Last, dialer.Worked = known.last, known.worked
	a := &Agent{cfg: cfg, probe: dialer.Probe, queued: datagram.NewBudget(maxQueued), aborted: make(chan struct{})}
	a.servers.given = cfg.Servers
	a.servers.dial = func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := dialer.Dial(ctx, address)
		if err != nil {
			return nil, err
		}
		return conn, nil
	}
	a.mu.bound = make(chan struct{})
	for i := range min(len(cfg.Servers), maxSeats) {
		a.seats = append(a.seats, &seat{agent: a, number: uint32(i), server: cfg.Servers[i]}) //nolint:gosec // few
	}
	for _, e := range cfg.Endpoints { // nobody else knows the table yet
		a.endpoints.all = append(a.endpoints.all, a.endpoints.newLocked(e, cfg.Logger, false))
	}
	return a
}

// Back-off between attempts to connect: the first is made at once, and so is the first
// after a session that had worked; from there on the pauses are those of link.Pause. A
// session that ends sooner than the wait before it has not worked: a node that lets
// agents in and drops them must not be dialled in a loop, so that wait doubles.
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
//
// Of several servers, the agent has sessions at two at a time. The second begins when there
// is a first, so that what ends the agent is the first one's word.
func (a *Agent) Run(ctx context.Context) error {
	running, cancel := context.WithCancel(ctx)
	defer func() {
		a.sessions.Wait()
		for _, s := range a.seats {
			s.keep("", nil) // which nobody looks for any more
		}
	}()
	errs := make(chan error, len(a.seats))
	var seats sync.WaitGroup
	defer seats.Wait()
	defer cancel() // sessions that were left drain as well
	a.sessions.Go(func() { a.checkUpstreams(running) })
	sit := func(s *seat, ready func()) {
		seats.Go(func() { errs <- s.run(running, ready) })
	}
	others := sync.OnceFunc(func() {
		for _, s := range a.seats[1:] {
			sit(s, func() {})
		}
	})
	sit(a.seats[0], others)
	return <-errs
}

// retries decides how long to wait between attempts to connect.
type retries struct {
	began time.Time     // of the attempt at hand
	since time.Time     // when things began to fail
	wait  time.Duration // after sessions that have not worked
}

func (r *retries) attempt() {
	r.began = time.Now()
	if r.since.IsZero() {
		r.since = r.began
	}
}

// failed says how long to wait after a session that ended, or never came about.
func (r *retries) failed(worked bool, err error) time.Duration {
	lasted := time.Since(r.began)
	pause := link.Pause(time.Since(r.since))
	switch {
	case worked && lasted >= min(r.wait, settled):
		r.since, r.wait, pause = time.Time{}, minWait, 0
	case worked && errors.Is(err, link.ErrGone): // the node was started again
		r.since, pause = time.Time{}, jitter(minWait)
	case worked:
		pause = jitter(r.wait)
		r.wait = min(2*r.wait, maxWait)
	}
	if refusal, ok := errors.AsType[*tunnel.RefusalError](err); ok && refusal.RetryAfter > pause {
		pause = jitter(min(2*refusal.RetryAfter, maxWait))
	}
	return pause
}

func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d/2 + rand.N(d/2+1) //nolint:gosec // spreads load, hides nothing
}

func (a *Agent) tellConnected(err error) {
	if a.cfg.Connected != nil {
		a.cfg.Connected(err)
	}
}

// Abort cuts the drain short that follows the end of Run's context.
func (a *Agent) Abort() { a.abort.Do(func() { close(a.aborted) }) }

// connectedLocked reports whether there is a session.
func (a *Agent) connectedLocked() bool {
	return slices.ContainsFunc(a.seats, func(s *seat) bool { return s.connected })
}

// handshakeTimeout bounds the answer to a Hello.
const handshakeTimeout = 10 * time.Second

// hello is a Hello of this agent.
func (a *Agent) hello(mode tunnel.LinkMode, seat uint32) *tunnel.Hello {
	return &tunnel.Hello{
		Version:    tunnel.Version,
		Token:      a.cfg.Token.Credential(),
		AgentId:    a.cfg.ID,
		Generation: a.cfg.Generation,
		Mode:       mode,
		Seat:       seat,
		Features:   []string{tunnel.FeatureResume},
		Metadata:   a.cfg.Metadata,
	}
}

// dial dials a server and says Hello.
func (a *Agent) dial(ctx context.Context, server string, hello *tunnel.Hello) (net.Conn, *tunnel.Welcome, error) {
	conn, err := a.servers.dial(ctx, server)
	if err != nil {
		return nil, nil, err
	}
	welcome, err := greet(ctx, conn, hello)
	if err != nil {
		return nil, nil, err
	}
	return conn, welcome, nil
}

// greet says Hello. It closes conn when the answer is not a Welcome.
func greet(ctx context.Context, conn net.Conn, hello *tunnel.Hello) (*tunnel.Welcome, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	welcome, err := handshake(conn, hello)
	stop()
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err == nil {
		err = ctx.Err() // the deadline of an AfterFunc that ran may just have been taken off
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return welcome, nil
}

func handshake(conn net.Conn, hello *tunnel.Hello) (*tunnel.Welcome, error) {
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, err
	}
	if err := tunnel.Write(conn, hello, tunnel.MaxHandshake); err != nil {
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
