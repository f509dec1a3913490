package edge

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
)

// proxy carries HTTP requests over streams of routes. Streams are kept for the
// next request like connections to any upstream; the pool's key is the route's id,
// which a name that is bound again does not keep, so a pooled stream never leads to
// another agent than the name does.
type proxy struct {
	registry *registry.Registry
	log      *slog.Logger
	reverse  httputil.ReverseProxy
	h1, h2c  *http.Transport
}

// passage is what belongs to one request on its way.
type passage struct {
	route   *registry.Route
	visitor endpoint.Visitor
}

type passageKey struct{}

func newProxy(reg *registry.Registry, log *slog.Logger) *proxy {
	p := &proxy{registry: reg, log: log}
	transport := func(protocols func(*http.Protocols)) *http.Transport {
		t := &http.Transport{
			DialContext:           p.dial,
			Protocols:             new(http.Protocols),
			MaxIdleConnsPerHost:   256,
			IdleConnTimeout:       90 * time.Second,
			ExpectContinueTimeout: 5 * time.Second,
			DisableCompression:    true, // the visitor negotiates with the upstream
			WriteBufferSize:       16 << 10,
			ReadBufferSize:        16 << 10,
		}
		protocols(t.Protocols)
		return t
	}
	p.h1 = transport(func(ps *http.Protocols) { ps.SetHTTP1(true) })
	p.h2c = transport(func(ps *http.Protocols) { ps.SetUnencryptedHTTP2(true) })
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

func (p *proxy) close() {
	p.h1.CloseIdleConnections()
	p.h2c.CloseIdleConnections()
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
	ctx := context.WithValue(r.Context(), passageKey{}, &passage{route: route, visitor: v})
	start := time.Now()
	p.reverse.ServeHTTP(w, r.WithContext(ctx))
	if now, ok := p.registry.Find(route.Name); !ok || now != route {
		p.close() // the stream went back to the pool after its agent had left
	}
	p.log.Debug("request served", "visitor", v.ID, "remote", r.RemoteAddr, "method", r.Method, "host", route.Name.Host,
		"path", r.URL.Path, "endpoint", route.ID, "session", route.Owner.SessionID, "duration", time.Since(start).String())
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
	// An upgrade to HTTP/2 would make the connection one nobody here can read.
	if strings.EqualFold(out.Header.Get("Upgrade"), "h2c") {
		out.Header.Del("Upgrade")
		out.Header.Del("Connection")
	}
	out.Header.Del("Http2-Settings")
	// The server fills in this very map when the body has ended; the clone in out
	// would be sent empty.
	out.Trailer = pr.In.Trailer
	setForwarded(out.Header, pr.In, pass.visitor)
	if _, ok := pr.In.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // not even net/http's own
	}
}

func passageOf(ctx context.Context) *passage {
	p, _ := ctx.Value(passageKey{}).(*passage)
	return p
}

// RoundTrip implements http.RoundTripper. A request that found no session, so that
// nothing of it was sent, waits for the agent's next one.
func (p *proxy) RoundTrip(r *http.Request) (*http.Response, error) {
	pass := passageOf(r.Context())
	if r.Body != nil && r.Body != http.NoBody {
		// Transport closes the body also when it has not sent a byte.
		r.Body = keepOpen{r.Body}
	}
	for {
		t := p.h1
		if pass.route.Spec.UpstreamProtocol == endpoint.H2C {
			t = p.h2c
		}
		res, err := t.RoundTrip(r)
		if !errors.Is(err, registry.ErrSessionGone) {
			return res, err
		}
		route, err := p.registry.LookupAfter(r.Context(), pass.route.Name, pass.route)
		if err != nil {
			return nil, err
		}
		pass = &passage{route: route, visitor: pass.visitor}
		r = r.WithContext(context.WithValue(r.Context(), passageKey{}, pass))
		u := *r.URL
		u.Host = route.ID
		r.URL = &u
	}
}

// dial opens a stream in place of a connection.
func (p *proxy) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	pass := passageOf(ctx)
	return pass.route.Open(ctx, pass.visitor, nil)
}

// fail answers a request that no upstream answered.
func (p *proxy) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // the visitor is gone, or the server is closing: nobody to tell
	}
	code := codeOf(err)
	pass := passageOf(r.Context())
	p.log.Debug("request not served", "visitor", pass.visitor.ID, "endpoint", pass.route.ID, "code", code, "error", err)
	writeError(w, r, code)
}

type keepOpen struct{ io.Reader }

func (keepOpen) Close() error { return nil }

type copyBuffers struct{}

var copyPool = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

func (copyBuffers) Get() []byte { return *copyPool.Get().(*[]byte) }

func (copyBuffers) Put(b []byte) { copyPool.Put(&b) }
