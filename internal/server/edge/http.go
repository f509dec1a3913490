package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// maxHeaderBytes of a visitor's request.
const maxHeaderBytes = 64 << 10

func (e *Edge) newHTTPServer() *http.Server {
	return &http.Server{
		Handler: http.HandlerFunc(e.serveHTTP),
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12,
			NextProtos: []string{"h2", "http/1.1", "http/1.0"},
			GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
				return e.certificate(hello.ServerName)
			},
		},
		ReadHeaderTimeout: e.cfg.HeaderTimeout,
		IdleTimeout:       e.cfg.IdleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 250},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		DisableGeneralOptionsHandler: true, // "OPTIONS *" is the upstream's to answer
		ErrorLog:                     slog.NewLogLogger(e.cfg.Logger.Handler(), slog.LevelDebug),
	}
}

// serveHTTP serves one request of a visitor.
func (e *Edge) serveHTTP(w http.ResponseWriter, r *http.Request) {
	e.visits.Enter()
	defer e.visits.Leave()
	if r.Method == http.MethodConnect || r.Method == http.MethodTrace {
		writeError(w, r, tunnel.CodeMethodRefused)
		return
	}
	host, err := endpoint.ParseHost(r.Host)
	if err != nil {
		writeError(w, r, tunnel.CodeBadRequest)
		return
	}
	if r.TLS != nil {
		// The certificate shown was the server name's; a request for another host on
		// the same connection must not reach that host's endpoint (RFC 9110, 7.4).
		if sni, err := endpoint.ParseHost(r.TLS.ServerName); err != nil || sni != host {
			writeError(w, r, tunnel.CodeMisdirected)
			return
		}
	}
	name := endpoint.Name{Kind: endpoint.HTTP, Host: host}
	route, err := e.cfg.Registry.Lookup(r.Context(), name)
	if err != nil {
		writeError(w, r, codeOf(err))
		return
	}
	switch {
	case r.TLS != nil && route.Spec.PlainOnly:
		writeError(w, r, tunnel.CodeEndpointNotFound)
	case r.TLS == nil && e.redirects(route):
		e.redirect(w, r, host)
	default:
		e.proxy.serve(w, r, route)
	}
}

// redirects reports whether the plain port sends visitors of route to https.
func (e *Edge) redirects(route *registry.Route) bool {
	switch route.Spec.Redirect {
	case endpoint.RedirectAlways:
		return true
	case endpoint.RedirectNever:
		return false
	case endpoint.RedirectAuto:
	}
	return !route.Spec.PlainOnly && e.cfg.Certs.Trusted(route.Name.Host)
}

func (e *Edge) redirect(w http.ResponseWriter, r *http.Request, host string) {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if p := e.cfg.HTTPSPort(); p != 443 && p != 0 {
		host += ":" + strconv.Itoa(p)
	}
	// 308 keeps method and body (RFC 9110, section 15.4.9).
	http.Redirect(w, r, "https://"+host+r.URL.RequestURI(), http.StatusPermanentRedirect)
}

// codeOf finds the code a visitor is told for an error on the way to the upstream.
func codeOf(err error) tunnel.Code {
	var stream *tunnel.StreamError
	var timeout net.Error
	switch {
	case errors.As(err, &stream):
		if _, ok := visitorErrors[stream.Code]; ok {
			return stream.Code
		}
		return tunnel.CodeUpstreamUnreachable
	case errors.Is(err, registry.ErrNotFound):
		return tunnel.CodeEndpointNotFound
	case errors.Is(err, registry.ErrOffline), errors.Is(err, registry.ErrSessionGone):
		return tunnel.CodeEndpointOffline
	case errors.As(err, &timeout) && timeout.Timeout():
		return tunnel.CodeUpstreamTimeout
	}
	return tunnel.CodeUpstreamClosed
}
