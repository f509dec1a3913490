package edge

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/splice"
	"github.com/culvert-tunnel/culvert/internal/tally"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// proxy carries HTTP requests over streams of routes. Streams are kept for the
// next request like connections to any upstream; the pool's key is the route's id,
// which a name that is bound again does not keep, so a pooled stream never leads to
// another agent than the name does.
type proxy struct {
	registry *registry.Registry
	streams  *tally.Tally // counts the open ones
	log      *slog.Logger
	reverse  httputil.ReverseProxy
	h1, h2c  *http.Transport
	// young carries requests that must not be sent twice. It keeps streams so shortly
	// that no upstream's keep-alive time-out comes before: a request that meets the
	// upstream's FIN on the way could not be told from one that was acted upon.
	young   *http.Transport
	lingers tally.Tally // closed streams whose upstream has not closed yet
}

// youth is how long a stream may be idle and still take a request that must not be
// sent twice.
const youth = time.Second

type passageKey struct{}

// destination is where a new stream leads. It is apart from passage because Transport
// may go on dialling for a request that has long been served.
type destination struct {
	route   *registry.Route
	visitor endpoint.Visitor
}

type destinationKey struct{}

func newProxy(reg *registry.Registry, streams *tally.Tally, log *slog.Logger) *proxy {
	p := &proxy{registry: reg, streams: streams, log: log}
	transport := func(idle time.Duration, protocols func(*http.Protocols)) *http.Transport {
		t := &http.Transport{
			DialContext:           p.dial,
			Protocols:             new(http.Protocols),
			MaxIdleConnsPerHost:   256,
			IdleConnTimeout:       idle,
			ExpectContinueTimeout: 5 * time.Second,
			DisableCompression:    true, // the visitor negotiates with the upstream
			WriteBufferSize:       16 << 10,
			ReadBufferSize:        16 << 10,
		}
		protocols(t.Protocols)
		return t
	}
	p.h1 = transport(90*time.Second, func(ps *http.Protocols) { ps.SetHTTP1(true) })
	p.young = transport(youth, func(ps *http.Protocols) { ps.SetHTTP1(true) })
	p.h2c = transport(90*time.Second, func(ps *http.Protocols) { ps.SetUnencryptedHTTP2(true) })
	p.reverse = httputil.ReverseProxy{
		Rewrite:       rewrite,
		Transport:     p,
		FlushInterval: -1, // events and parts of pages pass as they come
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BufferPool:    copyBuffers{},
		ErrorHandler:  p.fail,
	}
	return p
}

// closeIdle closes the streams that no request uses.
func (p *proxy) closeIdle() {
	p.h1.CloseIdleConnections()
	p.young.CloseIdleConnections()
	p.h2c.CloseIdleConnections()
}

// close is closeIdle, and waits for their ends.
func (p *proxy) close() {
	p.closeIdle()
	<-p.lingers.Empty()
}

func (p *proxy) serve(w http.ResponseWriter, r *http.Request, route *registry.Route) {
	v := endpoint.Visitor{ID: newVisitorID(), Name: route.Name}
	v.Remote, _ = netip.ParseAddrPort(r.RemoteAddr)
	v.Remote = netip.AddrPortFrom(v.Remote.Addr().Unmap(), v.Remote.Port())
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		v.Local = addrPort(a)
	}
	if r.TLS != nil {
		v.ServerName = route.Name.Host
	}
	// The upstream may answer while the body still comes; HTTP/2 does so anyway.
	_ = http.NewResponseController(w).EnableFullDuplex()
	pass := &passage{route: route, visitor: v, request: r, writer: w, over: make(chan struct{})}
	ctx := context.WithValue(r.Context(), passageKey{}, pass)
	start := time.Now()
	defer breakOff(r)
	defer close(pass.over)
	defer pass.settled()
	p.reverse.ServeHTTP(visitorWriter{w}, r.WithContext(ctx))
	if !p.isLive(route) {
		p.closeIdle() // the stream went back to the pool after its agent had left
	}
	p.log.Debug("request served", "visitor", v.ID, "remote", r.RemoteAddr, "method", r.Method, "host", route.Name.Host,
		"path", r.URL.Path, "endpoint", route.ID, "session", route.Owner.SessionID, "duration", time.Since(start).String())
}

func (p *proxy) isLive(route *registry.Route) bool {
	now, ok := p.registry.Find(route.Name)
	return ok && now == route
}

type connKey struct{}

// breakOff, deferred, makes an answer that was broken off look so to a visitor who
// speaks HTTP/1.0: there the end of the connection is the end of the body, and only a
// reset is anything else.
func breakOff(r *http.Request) {
	failure := recover()
	if failure == nil {
		return
	}
	if c, ok := r.Context().Value(connKey{}).(net.Conn); ok && !r.ProtoAtLeast(1, 1) {
		splice.Reset(c)
	}
	panic(failure)
}

// rewrite makes the upstream's request. ReverseProxy has removed the hop-by-hop
// headers by then, those named by Connection among them.
func rewrite(pr *httputil.ProxyRequest) {
	pass := passageOf(pr.In.Context())
	out := pr.Out
	out.URL.Scheme = "http"
	out.URL.Host = pass.route.ID
	out.Host = pr.In.Host
	if h := pass.route.Spec.HostHeader; h != "" {
		out.Host = h
	}
	asTheVisitorWrote(out.URL, pr.In)
	// An upgrade to HTTP/2 would make the connection one nobody here can read.
	if offersH2C(out.Header["Upgrade"]) {
		out.Header.Del("Upgrade")
		out.Header.Del("Connection")
	}
	out.Header.Del("Http2-Settings")
	out.Trailer = nil
	if out.Body != nil {
		body := &requestBody{Reader: out.Body, visitor: pass.request, begin: pass.beginBody}
		pass.expects = out.Header.Get("Expect") != ""
		if out.ContentLength < 0 || len(pr.In.Trailer) > 0 {
			out.ContentLength = -1 // trailers need chunks
			body.trailers = make(http.Header)
			copyTrailers(body.trailers, pr.In.Trailer, false)
			out.Trailer = body.trailers
		}
		pass.body, out.Body = body, body
	}
	setForwarded(out.Header, pr.In, pass.visitor)
	if _, ok := pr.In.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // not even net/http's own
	}
}

// asTheVisitorWrote keeps path and query byte for byte. Package url normalises a path
// that holds a byte it would have escaped, %2F among it, and ReverseProxy drops parts
// of a query that Go can't parse; upstreams read both in ways of their own.
func asTheVisitorWrote(u *url.URL, in *http.Request) {
	u.RawQuery = in.URL.RawQuery
	path, _, _ := strings.Cut(in.RequestURI, "?")
	if u.EscapedPath() != path && strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "//") {
		u.Opaque = path
	}
}

func offersH2C(upgrade []string) bool {
	for _, line := range upgrade {
		for protocol := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(protocol), "h2c") {
				return true
			}
		}
	}
	return false
}

func passageOf(ctx context.Context) *passage {
	p, _ := ctx.Value(passageKey{}).(*passage)
	return p
}

// RoundTrip implements http.RoundTripper. A request that found no session, so that
// nothing of it was sent, waits for the agent's next one.
func (p *proxy) RoundTrip(r *http.Request) (*http.Response, error) {
	pass := passageOf(r.Context())
	for {
		ctx := context.WithValue(withExchange(r.Context(), pass), destinationKey{}, destination{pass.route, pass.visitor})
		res, err := p.transport(r, pass.route).RoundTrip(r.WithContext(ctx))
		if err == nil {
			pass.settled()
			if res.Close {
				pass.finished() // the connection ends with the answer
			}
			if v := pass.request; len(res.Trailer) > 0 && v.ProtoMajor == 1 && v.ProtoAtLeast(1, 1) && v.Method != http.MethodHead {
				res.Header.Del("Content-Length") // HTTP/1.1 has trailers only behind chunks
				res.ContentLength = -1
			}
			if res.StatusCode != http.StatusSwitchingProtocols {
				pass.writer.Header()["Content-Type"] = nil // the upstream's or none, not a guess
			}
			return res, nil
		}
		if _, notSent := errors.AsType[*openError](err); !notSent || !errors.Is(err, registry.ErrSessionGone) {
			return nil, err
		}
		route, err := p.registry.LookupAfter(r.Context(), pass.route.Name, pass.route)
		if err != nil {
			return nil, err
		}
		pass.route = route
		u := *r.URL
		u.Host = route.ID
		r = r.WithContext(r.Context())
		r.URL = &u
	}
}

// transport picks the streams that may carry a request.
func (p *proxy) transport(r *http.Request, route *registry.Route) *http.Transport {
	if route.Spec.UpstreamProtocol == endpoint.H2C {
		return p.h2c
	}
	// What Transport sends again by itself when a kept stream turns out to be closed.
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		if r.Body == nil || r.Body == http.NoBody {
			return p.h1
		}
	}
	return p.young
}

// openError says that a stream was not opened, so that nothing was sent.
type openError struct{ error }

func (e *openError) Unwrap() error { return e.error }

// dial opens a stream in place of a connection.
func (p *proxy) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	to, _ := ctx.Value(destinationKey{}).(destination)
	s, err := to.route.Open(ctx, to.visitor, nil)
	if err != nil {
		return nil, &openError{err}
	}
	return newUpstreamConn(s, p.streams, &p.lingers), nil
}

// fail answers a request that no upstream answered.
func (p *proxy) fail(w http.ResponseWriter, r *http.Request, err error) {
	pass := passageOf(r.Context())
	cause := pass.cause(err)
	if cause == err && r.Context().Err() != nil { //nolint:errorlint // the very same
		panic(http.ErrAbortHandler) // the visitor is gone, or the server is closing: nobody to tell
	}
	code := codeOf(cause)
	if cause == err && pass.body != nil && pass.body.failed.Load() { //nolint:errorlint // the very same
		code = tunnel.CodeBadRequest
	}
	p.log.Debug("request not served", "visitor", pass.visitor.ID, "endpoint", pass.route.ID, "code", code, "error", cause)
	writeError(w, r, code)
}

type copyBuffers struct{}

var copyPool = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

func (copyBuffers) Get() []byte { return *copyPool.Get().(*[]byte) }

func (copyBuffers) Put(b []byte) { copyPool.Put(&b) }
