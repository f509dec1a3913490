// Package edge is the public side of a node: it takes visitors in by TCP port, by
// TLS server name and by HTTP host, finds their route in the registry, and joins
// them to a stream of it. It is the first room of the walk and knows agents only as
// routes; a link that arrives on the shared TLS port is handed on unread.
package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-tunnel/culvert/internal/crew"
	"github.com/culvert-tunnel/culvert/internal/datagram"
	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/server/certs"
	"github.com/culvert-tunnel/culvert/internal/server/edge/compress"
	"github.com/culvert-tunnel/culvert/internal/server/edge/http3"
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
	// Listen and ListenPacket open the ports of tcp and udp endpoints; default those of net.
	Listen       func(ctx context.Context, network, address string) (net.Listener, error)
	ListenPacket func(ctx context.Context, network, address string) (net.PacketConn, error)
	TCPHost      string // the address that tcp and udp endpoints listen on; empty: all

	HelloTimeout  time.Duration // for the TLS ClientHello and handshake; default 10 s
	HeaderTimeout time.Duration // for the head of an HTTP request; default 10 s
	IdleTimeout   time.Duration // of HTTP connections between requests; default 2 min
	BodyTimeout   time.Duration // without a byte of a request's body that is waited for; default 2 min
	WriteTimeout  time.Duration // for one piece of an answer, 64 KiB at most, to be taken; default 2 min
	MaxPending    int           // connections whose ClientHello is not there yet; default 4,096
	Proxies       Proxies       // in front of the node; default none
	FlowTimeout   time.Duration // silence that ends a flow of a udp endpoint without a limit of its own; default 1 min

	MaxFlows         int // of udp endpoints together; default 16,384
	MaxEndpointFlows int // of each; default 1,024

	Access AccessLog
	Served func(endpoint.Visit) // told of each visit that is over, and waited for; nil: nobody is
	Pages  *Pages               // for errors; nil: the built-in one alone
	Logger *slog.Logger
}

// Edge serves visitors. Make one with New.
type Edge struct {
	cfg     Config
	tls     *tls.Config // of visitors
	linkTLS *tls.Config // of agents
	http3   *http3.Server
	altSvc  []string // announces http3; nil: not served
	proxy   *proxy
	encoder compress.Encoders
	streams *pool
	watch   *watch
	pending chan struct{} // a place for each connection without a ClientHello
	arrived tally.Tally   // connections from the moment on that they are accepted, but for links
	visits  tally.Tally
	opened  tally.Tally // streams
	ports   tally.Tally // accept loops of tcp endpoints, and read loops of udp ones

	beginners crew.Crew        // begin to serve connections
	handed    atomic.Bool      // the sockets are another process's
	flows     atomic.Int64     // of udp endpoints
	queued    *datagram.Budget // what their queues hold
	counters  counters
}

// maxQueued bounds the datagrams that wait for links, in bytes.
const maxQueued = 64 << 20

// New makes an edge that serves nothing yet.
func New(cfg Config) *Edge {
	var lc net.ListenConfig
	if cfg.Listen == nil {
		cfg.Listen = lc.Listen
	}
	if cfg.ListenPacket == nil {
		cfg.ListenPacket = lc.ListenPacket
	}
	if cfg.Served == nil {
		cfg.Served = func(endpoint.Visit) {}
	}
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
	if cfg.BodyTimeout <= 0 {
		cfg.BodyTimeout = 2 * time.Minute
	}
	if cfg.WriteTimeout <= 0 {
		cfg.WriteTimeout = 2 * time.Minute
	}
	if cfg.FlowTimeout <= 0 {
		cfg.FlowTimeout = time.Minute
	}
	if cfg.MaxFlows <= 0 {
		cfg.MaxFlows = 16_384
	}
	if cfg.MaxEndpointFlows <= 0 {
		cfg.MaxEndpointFlows = 1024
	}
	e := &Edge{cfg: cfg, pending: make(chan struct{}, cfg.MaxPending), queued: datagram.NewBudget(maxQueued)}
	e.streams = newPool(cfg.Registry, &e.opened)
	e.watch = newWatch(cfg.HeaderTimeout, cfg.IdleTimeout, cfg.BodyTimeout, cfg.WriteTimeout)
	e.proxy = newProxy(cfg.Registry, &e.opened, cfg.Pages, cfg.Logger)
	e.tls, e.linkTLS = e.tlsConfig(), link.ServerConfig(cfg.Certs.Link)
	e.http3 = http3.New(http3.Config{
		Handler: http.HandlerFunc(e.serveHTTP), TLS: e.tls, Link: cfg.Link, LinkTLS: e.linkTLS, ResetKey: cfg.Certs.ResetKey(),
		HandshakeTimeout: cfg.HelloTimeout, HeaderTimeout: cfg.HeaderTimeout, IdleTimeout: cfg.IdleTimeout, MaxHeaderBytes: maxHeaderBytes, MaxStreams: maxStreams, Logger: cfg.Logger,
	})
	return e
}

// Sockets are what an edge serves. Those that are nil are not.
type Sockets struct {
	Plain  net.Listener   // visitors' HTTP
	Secure net.Listener   // visitors' TLS, and agents
	QUIC   []QUIC         // visitors' HTTP/3, and agents; that on the port of Secure is the first
	Links  []net.Listener // agents alone
}

// QUIC is a UDP socket, and who is served on it.
type QUIC = http3.Socket

// Serve serves visitors and agents until Shutdown. The end of ctx cuts off whoever is
// being served. Serve closes the listeners, Shutdown and Close the sockets of QUIC.
func (e *Edge) Serve(ctx context.Context, s Sockets) error {
	var tasks sync.WaitGroup
	errs := make(chan error, 4+len(s.Links)+len(s.QUIC))
	serve := func(f func() error) { tasks.Go(func() { errs <- f() }) }
	for _, q := range s.QUIC {
		if q.Visitors {
			e.altSvc = altSvc(q.LocalAddr())
		}
		serve(func() error { return e.http3.Serve(ctx, q) })
	}
	if s.Plain != nil {
		serve(func() error {
			return e.accept(ctx, s.Plain, func(ctx context.Context, c net.Conn, _ func()) rest { return e.serveHTTP1(ctx, c, "") })
		})
	}
	if s.Secure != nil {
		serve(func() error { return e.accept(ctx, s.Secure, e.serveTLS) })
	}
	for _, l := range s.Links {
		serve(func() error { return e.accept(ctx, l, e.serveLinkOnly) })
	}
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	var watcher sync.WaitGroup
	watcher.Go(func() { e.watch.run(watching, e.streams.sweep) })
	tasks.Wait()
	stop()
	watcher.Wait()
	close(errs)
	var first error
	for err := range errs {
		if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) && first == nil {
			first = err
		}
	}
	return first
}

// HandOver says that another process reads from the same sockets now: those for datagrams
// are left to it, ahead of Shutdown. A QUIC connection can't be served by one of two
// readers, so its visitors are told to connect again.
func (e *Edge) HandOver() {
	e.handed.Store(true)
	_ = e.http3.Close()
}

// Shutdown waits until all visits have ended or ctx ends. The listeners of Serve
// and the ports of tcp endpoints must be closed before; agents' links are not
// visits.
func (e *Edge) Shutdown(ctx context.Context) error {
	e.watch.drain()
	// Who was accepted just now is no visit yet, and would be cut off in his handshake. Who
	// says nothing is not waited for as long as he may be silent.
	arriving, cancel := context.WithTimeout(ctx, lastRequest)
	_ = e.arrived.Wait(arriving)
	cancel()
	quic := make(chan error, 1)
	go func() { quic <- e.http3.Shutdown(ctx) }()
	return errors.Join(<-quic, e.watch.gone(ctx), e.visits.Wait(ctx), e.ports.Wait(ctx))
}

// Close cuts off all HTTP visitors. Others end with the context of Serve, which
// must have ended. It returns when all are gone.
func (e *Edge) Close() error {
	err := e.http3.Close()
	<-e.visits.Empty()
	<-e.ports.Empty()
	e.beginners.End()
	e.streams.close()
	e.proxy.close()
	return err
}

// altSvc is the header that announces HTTP/3 on the port of a (RFC 7838), for a day.
func altSvc(a net.Addr) []string {
	return []string{`h3=":` + strconv.Itoa(int(addrPort(a).Port())) + `"; ma=86400`}
}

// announced is what the answer to x says of HTTP/3; nil: nothing. Who came without TLS may
// have no certificate to go by.
func (e *Edge) announced(x *exchange) []string {
	if !x.secure {
		return nil
	}
	return e.altSvc
}

// appendOwn appends what the edge adds to an answer, ahead of the empty line.
func (e *Edge) appendOwn(b []byte, x *exchange) []byte {
	b = append(append(b[:len(b)-2], "X-Request-Id: "...), x.visitor.ID...)
	b = append(b, "\r\n"...)
	if announced := e.announced(x); announced != nil {
		b = append(append(append(b, "Alt-Svc: "...), announced[0]...), "\r\n"...)
	}
	if cookie := x.setMember(); cookie != "" {
		b = append(append(append(b, "Set-Cookie: "...), cookie...), "\r\n"...)
	}
	return append(b, "\r\n"...)
}

// setOwn is appendOwn for an answer of net/http.
func (e *Edge) setOwn(h http.Header, x *exchange) {
	h["X-Request-Id"] = []string{x.visitor.ID}
	if announced := e.announced(x); announced != nil {
		h["Alt-Svc"] = announced
	}
	if cookie := x.setMember(); cookie != "" {
		h.Add("Set-Cookie", cookie)
	}
}

// CloseIdle ends the streams that are kept for HTTP requests to come. An agent that
// gave its names back waits for them.
func (e *Edge) CloseIdle() {
	e.streams.closeIdle()
	e.proxy.closeIdle()
}

// Visits is how many visitors are being served: TCP and TLS connections, HTTP requests.
func (e *Edge) Visits() int { return e.visits.Count() }

// Streams is how many streams to agents are open, idle ones of HTTP among them.
func (e *Edge) Streams() int { return e.opened.Count() }

// rest goes on with a connection in goroutines of its own, and calls ended when it is over.
// What begins a connection, such as a TLS handshake, leaves a large stack behind, and it may
// be idle for long.
type rest func(ended func())

// goOn goes on if there is something left to do.
func (r rest) goOn(ended func()) {
	if r == nil {
		ended()
		return
	}
	r(ended)
}

// aside is the rest that serve is, and what that leaves.
func aside(serve func() rest) rest {
	return func(ended func()) {
		go func() { serve().goOn(ended) }()
	}
}

// server serves a connection. It calls noVisit when that is a link, for which Shutdown does
// not wait, and returns what is left to do, if anything.
type server func(ctx context.Context, c net.Conn, noVisit func()) rest

// accept serves each connection of l in a goroutine of its own until l is closed, and
// returns when all have ended.
func (e *Edge) accept(ctx context.Context, l net.Listener, serve server) error {
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
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			if !e.pause(ctx, err, wait) {
				return nil
			}
			continue
		}
		wait = 0
		conns.Add(1)
		e.welcome(ctx, c, serve, conns.Done)
	}
}

// pause lets time pass after a fault of accepting, unless ctx ends first. Out of
// descriptors, most likely: what is being served goes on, and ends.
func (e *Edge) pause(ctx context.Context, err error, wait time.Duration) bool {
	e.cfg.Logger.Warn("accept visitor", "error", err, "retry_in", wait.String())
	select {
	case <-time.After(wait):
		return true
	case <-ctx.Done():
		return false
	}
}

// welcome serves a connection in a goroutine of its own, and calls done at the end.
//
//go:noinline // accept waits all its life, by a port for each tcp endpoint, and should take little stack for that
func (e *Edge) welcome(ctx context.Context, c net.Conn, serve server, done func()) {
	e.arrived.Enter()
	leave := sync.OnceFunc(e.arrived.Leave)
	ended := func() {
		leave()
		done()
	}
	e.beginners.Go(func() {
		var left rest
		if c := e.introduced(ctx, c); c != nil {
			left = serve(ctx, c, leave)
		}
		left.goOn(ended)
	})
}

// open opens a stream to the endpoint that a visitor asks for, through its gate, which
// the caller leaves after the visit. first are bytes that were read from the visitor
// already.
func (e *Edge) open(ctx context.Context, v *endpoint.Visitor, first []byte) (net.Conn, *registry.Route, error) {
	route, err := e.cfg.Registry.Lookup(ctx, v)
	for tried := []*registry.Route(nil); err == nil; {
		var s net.Conn
		if s, err = e.openBy(ctx, route, *v, first); err == nil {
			return s, route, nil
		}
		tried = append(tried, route)
		route, err = next(ctx, e.cfg.Registry, v, tried, err)
	}
	if !isLimit(err) {
		e.counters.offline.Add(1)
	}
	return nil, nil, err
}

// openBy opens a stream by one route, through its gate. Where there may be other routes, it
// waits for the agent's word that the upstream has been reached.
func (e *Edge) openBy(ctx context.Context, route *registry.Route, v endpoint.Visitor, first []byte) (net.Conn, error) {
	if err := route.Gate.Enter(); err != nil {
		e.counters.overLimit.Add(1)
		return nil, err
	}
	if v.Name.Kind.ByPort() {
		v.PortOffset = v.Name.Port - route.Spec.Port
	}
	s, err := route.Open(ctx, v, first)
	if err == nil && route.Shared() {
		err = replied(ctx, s)
	}
	if err != nil {
		route.Gate.Leave()
		return nil, err
	}
	route.Begin()
	return s, nil
}

// leave ends a visit that open began.
func leave(route *registry.Route) {
	route.End()
	route.Gate.Leave()
}

// carry opens the endpoint that a visitor's connection asked for; the rest is to join the
// two. first are bytes that were read from the visitor already. It closes c; a visitor who
// can't be served is reset.
func (e *Edge) carry(ctx context.Context, c net.Conn, v *endpoint.Visitor, first []byte) rest {
	e.visits.Enter()
	began := time.Now()
	s, route, err := e.open(ctx, v, first)
	if err != nil {
		e.turnAway(c, v, began, err)
		return nil
	}
	e.opened.Enter()
	c, how := admit(c, route)
	return func(ended func()) {
		splice.Start(ctx, s, c, how, func(n splice.Counts, err error) {
			e.opened.Leave()
			n.Backward += int64(len(first))
			e.carried(v, route, began, n, err)
			ended()
		})
	}
}

// admit holds a visitor's connection to the endpoint's limits.
func admit(c net.Conn, route *registry.Route) (net.Conn, splice.Config) {
	limits := route.Gate.Limits()
	keepAlive(c, limits.KeepAlive)
	return route.Gate.Conn(c), splice.Config{IdleTimeout: limits.IdleTimeout}
}

// turnAway resets a visitor who can't be served.
func (e *Edge) turnAway(c net.Conn, v *endpoint.Visitor, began time.Time, err error) {
	e.cfg.Served(endpoint.Visit{Kind: v.Name.Kind, Code: string(codeOf(err)), Took: time.Since(began)})
	e.cfg.Logger.Debug("visitor not served", "visitor", v.ID, "remote", v.Remote.String(), "name", v.Name.String(), "error", err)
	splice.Reset(c)
	e.visits.Leave()
}

// carried ends a visit that open began. n.Backward is what came from the visitor.
func (e *Edge) carried(v *endpoint.Visitor, route *registry.Route, began time.Time, n splice.Counts, err error) {
	leave(route)
	e.cfg.Served(endpoint.Visit{Kind: v.Name.Kind, In: n.Backward, Out: n.Forward, Took: time.Since(began)})
	e.cfg.Logger.Debug("visitor served", "visitor", v.ID, "remote", v.Remote.String(), "name", v.Name.String(),
		"endpoint", route.ID, "session", route.Owner.SessionID, "bytes_in", n.Backward, "bytes_out", n.Forward, "error", err)
	e.visits.Leave()
}

// askAgain is how long a visitor's system may take to answer; the ninth time in vain ends it.
const askAgain = 15 * time.Second

// keepAlive sets when a visitor's connection is asked for life; 0: as it is.
func keepAlive(c net.Conn, idle time.Duration) {
	t, ok := splice.Bare(c).(*net.TCPConn)
	switch {
	case !ok || idle == 0:
	case idle < 0:
		_ = t.SetKeepAlive(false)
	default:
		_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: idle, Interval: min(idle, askAgain)})
	}
}

// visitor describes who is behind a connection.
func visitor(c net.Conn, name endpoint.Name) *endpoint.Visitor {
	return &endpoint.Visitor{
		ID:     newVisitorID(),
		Name:   name,
		Remote: addrPort(c.RemoteAddr()),
		Local:  addrPort(c.LocalAddr()),
	}
}

func newVisitorID() string { return strconv.FormatUint(rand.Uint64(), 36) } //nolint:gosec // a label, not a secret

func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	default:
		return ap
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
