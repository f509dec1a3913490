package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// web serves HTTP whose TLS ends at the agent: HTTP/1.1 and HTTP/2 from visitors,
// HTTP/1.1 to the upstream. For such endpoints the agent is what the edge is for
// others: it owns the headers that say who a visitor is.
type web struct {
	endpoint  *served
	server    *http.Server
	transport *http.Transport
}

type visitorKey struct{}

func newWeb(e *served, watch func(name, visitor string, up net.Conn) net.Conn) *web {
	w := &web{endpoint: e}
	w.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			v, _ := ctx.Value(visitorKey{}).(endpoint.Visitor)
			c, _, err := e.dial(ctx, v)
			if err == nil && watch != nil {
				c = watch(e.name, v.Remote.String(), c)
			}
			return c, err
		},
		DisableCompression: true, MaxIdleConnsPerHost: 64, IdleConnTimeout: 90 * time.Second,
	}
	log := slog.NewLogLogger(e.log.Handler(), slog.LevelDebug)
	w.server = &http.Server{
		Handler: &httputil.ReverseProxy{
			Rewrite: w.rewrite, Transport: w.transport, FlushInterval: -1, ErrorHandler: w.failed, ErrorLog: log,
		},
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols},
		ReadHeaderTimeout: headerTimeout, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10, ErrorLog: log,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			v := endpoint.Visitor{}
			if t, ok := c.(*tls.Conn); ok {
				if visit, ok := t.NetConn().(*visit); ok {
					v = visit.visitor
				}
			}
			return context.WithValue(ctx, visitorKey{}, v)
		},
	}
	return w
}

// protocols that are agreed on with visitors.
var protocols = []string{http2, http1}

// serve serves one visitor until his connection is closed or the link is gone.
func (w *web) serve(st link.Stream, h *tunnel.StreamHeader, cfg *tls.Config, gone <-chan struct{}) {
	v := newVisit(st, w.endpoint, h)
	if !v.take() {
		return
	}
	cfg = forChallenge(cfg)
	cfg.NextProtos = append(cfg.NextProtos, protocols...)
	// Serve returns when it has handed the connection to a goroutine and asks for another.
	if err := w.server.Serve(&single{conn: tls.Server(v, cfg)}); errors.Is(err, http.ErrServerClosed) {
		_ = v.Reset()
	}
	select {
	case <-v.closed:
	case <-gone:
		_ = v.Reset()
	}
}

// webs are a session's, made when they are needed.
type webs struct {
	sync.Mutex
	of map[*served]*web
}

// web returns that of an endpoint.
func (s *session) web(e *served) *web {
	s.webs.Lock()
	defer s.webs.Unlock()
	w := s.webs.of[e]
	if w == nil {
		w = newWeb(e, s.agent.cfg.Watch)
		if s.webs.of == nil {
			s.webs.of = make(map[*served]*web)
		}
		s.webs.of[e] = w
	}
	return w
}

// drainWebs ends the connections of visitors who wait for nothing; the others may
// finish until ctx ends.
func (s *session) drainWebs(ctx context.Context) {
	s.webs.Lock()
	all := slices.Collect(maps.Values(s.webs.of))
	s.webs.Unlock()
	for _, w := range all {
		go func() { _ = w.server.Shutdown(ctx) }() // ends with ctx
	}
}

// closeWebs is for when all streams have ended.
func (s *session) closeWebs() {
	s.webs.Lock()
	defer s.webs.Unlock()
	for _, w := range s.webs.of {
		_ = w.server.Close()
		w.transport.CloseIdleConnections()
	}
}

func (w *web) rewrite(r *httputil.ProxyRequest) {
	r.SetURL(&url.URL{Scheme: "http", Host: "upstream"}) // wherever dial leads, TLS included
	r.Out.Host = r.In.Host
	if h := w.endpoint.asked.HostHeader; h != "" {
		r.Out.Host = h
	}
	for name := range r.Out.Header {
		if endpoint.IsOwned([]byte(name)) {
			delete(r.Out.Header, name)
		}
	}
	r.SetXForwarded()
	if host, _, err := net.SplitHostPort(r.In.RemoteAddr); err == nil {
		r.Out.Header.Set("X-Real-Ip", host)
	}
	if t := r.In.TLS; t != nil && len(t.VerifiedChains) > 0 {
		for _, h := range endpoint.CertificateHeaders(t.VerifiedChains[0][0]) {
			r.Out.Header.Set(h.Name, h.Value)
		}
	}
}

// failed answers for an upstream that can't.
func (w *web) failed(rw http.ResponseWriter, _ *http.Request, err error) {
	code, status := codeOf(err), http.StatusBadGateway
	if code == tunnel.CodeUpstreamTimeout {
		status = http.StatusGatewayTimeout
	}
	rw.Header().Set("Culvert-Error", string(code))
	http.Error(rw, "The service behind this endpoint can't be reached. ("+string(code)+")", status)
}

// single is a listener with one connection.
type single struct{ conn net.Conn }

func (l *single) Accept() (net.Conn, error) {
	c := l.conn
	l.conn = nil
	if c == nil {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (l *single) Close() error   { return nil }
func (l *single) Addr() net.Addr { return &net.TCPAddr{} }
