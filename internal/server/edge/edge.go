// Package edge is the public side of a node: it takes visitors in by TCP port, by
// TLS server name and by HTTP host, finds their route in the registry, and joins
// them to a stream of it. It is the first room of the walk and knows agents only as
// routes; a link that arrives on the shared TLS port is handed on unread.
package edge

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/certs"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/splice"
	"github.com/culvert-tunnel/culvert/internal/tally"
)

// Config of an Edge. Registry, Certs and Logger must be set.
type Config struct {
	Registry *registry.Registry
	Certs    *certs.Manager
	// Link serves the link of an agent from its handshake to its end.
	Link func(context.Context, net.Conn) error
	// HTTPSPort is the port that redirects to https name.
	HTTPSPort func() int
	TCPHost   string // the address that tcp endpoints listen on; empty: all

	HelloTimeout  time.Duration // for the TLS ClientHello and handshake; default 10 s
	HeaderTimeout time.Duration // for the head of an HTTP request; default 10 s
	IdleTimeout   time.Duration // of HTTP connections between requests; default 2 min
	MaxPending    int           // connections whose ClientHello is not there yet; default 4,096
	Logger        *slog.Logger
}

// Edge serves visitors. Make one with New.
type Edge struct {
	cfg     Config
	http    *http.Server
	proxy   *proxy
	secure  *handoff      // TLS connections on their way to http
	pending chan struct{} // a place for each connection without a ClientHello
	visits  tally.Tally
	streams tally.Tally
	ports   tally.Tally // accept loops of tcp endpoints
}

// New makes an edge that serves nothing yet.
func New(cfg Config) *Edge {
	if cfg.HelloTimeout <= 0 {
		cfg.HelloTimeout = 10 * time.Second
	}
	if cfg.HeaderTimeout <= 0 {
		cfg.HeaderTimeout = 10 * time.Second
	}
	if cfg.IdleTimeout <= 0 {
		cfg.IdleTimeout = 2 * time.Minute
	}
	if cfg.MaxPending <= 0 {
		cfg.MaxPending = 4096
	}
	e := &Edge{cfg: cfg, secure: newHandoff(), pending: make(chan struct{}, cfg.MaxPending)}
	e.proxy = newProxy(cfg.Registry, &e.streams, cfg.Logger)
	e.http = e.newHTTPServer()
	return e
}

// Serve serves visitors on the plain HTTP port and on the TLS port, and agents on
// the TLS port and on the link ports, until Shutdown. The end of ctx cuts off
// whoever is being served. Serve closes the listeners.
func (e *Edge) Serve(ctx context.Context, plain, secure net.Listener, links []net.Listener) error {
	e.http.BaseContext = func(net.Listener) context.Context { return ctx }
	var tasks sync.WaitGroup
	errs := make(chan error, 3+len(links))
	serve := func(f func() error) { tasks.Go(func() { errs <- f() }) }
	if plain != nil {
		serve(func() error { return e.http.Serve(plain) })
	}
	serve(func() error { return e.http.Serve(e.secure) })
	if secure != nil {
		serve(func() error { return e.accept(ctx, secure, e.serveTLS) })
	}
	for _, l := range links {
		serve(func() error { return e.accept(ctx, l, e.serveLinkOnly) })
	}
	tasks.Wait()
	close(errs)
	var first error
	for err := range errs {
		if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) && first == nil {
			first = err
		}
	}
	return first
}

// Shutdown waits until all visits have ended or ctx ends. The listeners of Serve
// and the ports of tcp endpoints must be closed before; agents' links are not
// visits.
func (e *Edge) Shutdown(ctx context.Context) error {
	_ = e.secure.Close()
	return errors.Join(e.http.Shutdown(ctx), e.visits.Wait(ctx), e.ports.Wait(ctx)) // idle connections are closed
}

// Close cuts off all HTTP visitors. Others end with the context of Serve, which
// must have ended. It returns when all are gone.
func (e *Edge) Close() error {
	_ = e.secure.Close()
	err := e.http.Close()
	<-e.visits.Empty()
	<-e.ports.Empty()
	e.proxy.close()
	return err
}

// CloseIdle ends the streams that are kept for HTTP requests to come. An agent that
// gave its names back waits for them.
func (e *Edge) CloseIdle() { e.proxy.closeIdle() }

// Visits is how many visitors are being served: TCP and TLS connections, HTTP requests.
func (e *Edge) Visits() int { return e.visits.Count() }

// Streams is how many streams to agents are open, idle ones of HTTP among them.
func (e *Edge) Streams() int { return e.streams.Count() }

// accept serves each connection of l in a goroutine of its own until l is closed, and
// returns when all have ended.
func (e *Edge) accept(ctx context.Context, l net.Listener, serve func(context.Context, net.Conn)) error {
	defer l.Close() //nolint:errcheck // closed already but for a fault
	var conns sync.WaitGroup
	defer conns.Wait()
	wait := time.Duration(0)
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
				return nil
			}
			// Out of descriptors, most likely: what is being served goes on, and ends.
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			e.cfg.Logger.Warn("accept visitor", "error", err, "retry_in", wait.String())
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return nil
			}
			continue
		}
		wait = 0
		conns.Go(func() { serve(ctx, c) })
	}
}

// carry joins one visitor connection to the endpoint it asked for. first are bytes
// that were read from the visitor already. It closes c; a visitor who can't be
// served is reset.
func (e *Edge) carry(ctx context.Context, c net.Conn, v endpoint.Visitor, first []byte) {
	log := e.cfg.Logger.With("visitor", v.ID, "remote", v.Remote.String(), "name", v.Name.String())
	route, err := e.cfg.Registry.Lookup(ctx, v.Name)
	for err == nil {
		var s net.Conn
		s, err = route.Open(ctx, v, first)
		if err == nil {
			e.streams.Enter()
			n, err := splice.Join(ctx, c, s, splice.Config{})
			e.streams.Leave()
			log.Debug("visitor served", "endpoint", route.ID, "session", route.Owner.SessionID,
				"bytes_in", n.Forward+int64(len(first)), "bytes_out", n.Backward, "error", err)
			return
		}
		if errors.Is(err, registry.ErrSessionGone) {
			route, err = e.cfg.Registry.LookupAfter(ctx, v.Name, route)
		}
	}
	log.Debug("visitor not served", "error", err)
	splice.Reset(c)
}

// visitor describes who is behind a connection.
func visitor(c net.Conn, name endpoint.Name) endpoint.Visitor {
	return endpoint.Visitor{
		ID:     newVisitorID(),
		Name:   name,
		Remote: addrPort(c.RemoteAddr()),
		Local:  addrPort(c.LocalAddr()),
	}
}

func newVisitorID() string { return strconv.FormatUint(rand.Uint64(), 36) } //nolint:gosec // a label, not a secret

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
