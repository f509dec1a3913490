package edge

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
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

// proxy carries HTTP requests to upstreams that do not speak HTTP/1.1, over streams of
// routes in place of connections. They are kept by the route's id, like those of pool.
type proxy struct {
	registry *registry.Registry
	streams  *tally.Tally // counts the open ones
	pages    *Pages
	log      *slog.Logger
	reverse  httputil.ReverseProxy
	h2c      *http.Transport
	lingers  tally.Tally // closed streams whose upstream has not closed yet
}

type passageKey struct{}

// destination is where a new stream leads. It is apart from passage because Transport
// may go on dialling for a request that has long been served.
type destination struct {
	route   *registry.Route
	visitor endpoint.Visitor
}

type destinationKey struct{}

func newProxy(reg *registry.Registry, streams *tally.Tally, pages *Pages, log *slog.Logger) *proxy {
	p := &proxy{registry: reg, streams: streams, pages: pages, log: log}
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
	p.h2c.CloseIdleConnections()
}

// close is closeIdle, and waits for their ends.
func (p *proxy) close() {
	p.closeIdle()
	<-p.lingers.Empty()
}

// serve carries one exchange. If it turns out that the upstream does not speak HTTP/2 any
// more, other serves it; a body is lost by then.
func (p *proxy) serve(w http.ResponseWriter, r *http.Request, x *exchange, other http.HandlerFunc) {
	// The upstream may answer while the body still comes; HTTP/2 does so anyway.
	_ = http.NewResponseController(w).EnableFullDuplex()
	x.sent = time.Now()
	pass := &passage{x: x, visitor: x.visitor, request: r, writer: w, other: other, over: make(chan struct{})}
	ctx := context.WithValue(r.Context(), passageKey{}, pass)
	defer breakOff(r)
	defer close(pass.over)
	defer pass.settled()
	p.reverse.ServeHTTP(visitorWriter{w, pass}, r.WithContext(ctx))
	if !p.registry.Serves(x.route) {
		p.closeIdle() // the stream went back to the pool after its agent had left
	}
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
	out.URL.Host = pass.x.route.ID
	out.Host = pr.In.Host
	if h := pass.x.route.Spec.HostHeader; h != "" {
		out.Host = h
	}
	asTheVisitorWrote(out.URL, upstreamTarget(pr.In.RequestURI, pass.x.route))
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
func asTheVisitorWrote(u *url.URL, target string) {
	path, query, _ := strings.Cut(target, "?")
	u.RawQuery = query
	if strings.HasPrefix(path, "/") {
		u.Path, u.RawPath = path, ""
		if plain, err := url.PathUnescape(path); err == nil {
			u.Path, u.RawPath = plain, path
		}
	}
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
		res, err := p.roundTrip(r, pass)
		if err == nil {
			pass.settled()
			pass.bodiless.Store(res.ContentLength == 0)
			res.Header.Del("Alt-Svc") // of the upstream's own port, which visitors don't reach
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
		if unspoken(pass.x.route, err) && (r.Body == nil || r.Body == http.NoBody) {
			continue // once: what it speaks is not known any more
		}
		if _, notSent := errors.AsType[*openError](err); !notSent || !nobodyReached(err) {
			return nil, err
		}
		if err := elsewhere(r.Context(), p.registry, pass.x, err); err != nil {
			return nil, err
		}
		u := *r.URL
		u.Host = pass.x.route.ID
		r = r.WithContext(r.Context())
		r.URL = &u
	}
}

// roundTrip sends a request once.
func (p *proxy) roundTrip(r *http.Request, pass *passage) (*http.Response, error) {
	to := destination{pass.x.route, pass.visitor}
	var err error
	if to.visitor.Protocol, err = spoken(r.Context(), to.route, to.visitor); err != nil {
		return nil, err
	}
	if to.visitor.Protocol != alpnH2 {
		return nil, errSpeaksOther
	}
	ctx := context.WithValue(withExchange(r.Context(), pass), destinationKey{}, to)
	return p.h2c.RoundTrip(r.WithContext(ctx))
}

// errSpeaksOther says that an upstream ceased to speak HTTP/2 while a request was on its
// way; the next one finds out.
var errSpeaksOther = &invalidError{errors.New("the upstream speaks HTTP/2 no longer")}

// openError says that a stream was not opened, so that nothing was sent.
type openError struct{ error }

func (e *openError) Unwrap() error { return e.error }

// dial opens a stream in place of a connection.
func (p *proxy) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	to, _ := ctx.Value(destinationKey{}).(destination)
	s, err := to.route.Open(ctx, to.visitor, nil)
	if err == nil && to.route.Shared() {
		err = replied(ctx, s)
	}
	if err != nil {
		return nil, &openError{err}
	}
	return newUpstreamConn(s, p.streams, &p.lingers), nil
}

// fail answers a request that no upstream answered.
func (p *proxy) fail(w http.ResponseWriter, r *http.Request, err error) {
	pass := passageOf(r.Context())
	if errors.Is(err, errSpeaksOther) && pass.body == nil && pass.other != nil {
		pass.other(pass.writer, pass.request)
		return
	}
	cause := pass.cause(err)
	if cause == err && r.Context().Err() != nil { //nolint:errorlint // the very same
		panic(http.ErrAbortHandler) // the visitor is gone, or the server is closing: nobody to tell
	}
	code := codeOf(cause)
	if cause == err && pass.body != nil && pass.body.failed.Load() { //nolint:errorlint // the very same
		code = tunnel.CodeBadRequest
	}
	p.log.Debug("request not served", "visitor", pass.visitor.ID, "endpoint", pass.x.route.ID, "code", code, "error", cause)
	p.pages.writeError(w, r, code, pass.visitor.ID)
}

type copyBuffers struct{}

var copyPool = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

func (copyBuffers) Get() []byte { return *copyPool.Get().(*[]byte) }

func (copyBuffers) Put(b []byte) { copyPool.Put(&b) }
