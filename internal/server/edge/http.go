package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// maxHeaderBytes of a visitor's request.
const maxHeaderBytes = 64 << 10

// maxStreams of a visitor's HTTP/2 or HTTP/3 connection at a time.
const maxStreams = 250

// tlsConfig is for visitors of HTTP.
func (e *Edge) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1", "http/1.0"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return e.certificate(hello.Context(), hello.ServerName)
		},
		GetConfigForClient: e.configFor,
	}
}

// route finds where an exchange goes. Otherwise it returns the code of the error that the
// visitor gets, or where he is sent to. scheme is that of a target in absolute form.
func (e *Edge) route(ctx context.Context, x *exchange, scheme string) (code tunnel.Code, redirect string) {
	if (x.method == http.MethodConnect && !x.webSocket) || x.method == http.MethodTrace {
		return tunnel.CodeMethodRefused, ""
	}
	host, err := endpoint.ParseHost(x.host)
	if err != nil || (scheme != "" && (scheme == "https") != x.secure) {
		return tunnel.CodeBadRequest, ""
	}
	// The certificate shown was the server name's; a request for another host on the same
	// connection must not reach that host's endpoint (RFC 9110, 7.4).
	if x.secure && x.visitor.ServerName != host {
		return tunnel.CodeMisdirected, ""
	}
	// On TLS too: whatever stands in front of this node may redirect the CA.
	if x.method == http.MethodGet {
		path, _, _ := strings.Cut(x.target, "?")
		if answer, ok := e.cfg.Certs.Answer(ctx, host, path); ok {
			x.answer = append([]byte{}, answer...)
			return "", ""
		}
	}
	x.visitor.Name, err = e.cfg.Registry.Resolve(host, x.target)
	if err != nil {
		x.err = err
		return codeOf(err), ""
	}
	route, err := e.cfg.Registry.Lookup(ctx, &x.visitor)
	if sticks(route) {
		if x.visitor.Member = memberSaid(x.head); x.visitor.Member != route.Member() {
			route, err = e.cfg.Registry.Lookup(ctx, &x.visitor)
		}
	}
	if err != nil {
		x.err = err
		return codeOf(err), ""
	}
	x.take(route)
	switch {
	case x.secure && route.Spec.PlainOnly:
		return tunnel.CodeEndpointNotFound, ""
	case !x.secure && e.redirects(route):
		return "", e.secureURL(host, x.target)
	case route.ClientCAs != nil:
		if x.visitor.Certificate = route.ClientCAs.Vouched(x.chains); x.visitor.Certificate == nil {
			return tunnel.CodeCertificateRequired, ""
		}
	}
	return "", ""
}

// challenge answers a CA.
func (x *exchange) challenge(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/octet-stream") // RFC 8555, section 8.3
	_, _ = w.Write(x.answer)
}

// serveHTTP serves one request of HTTP/3, which quic-go has read.
func (e *Edge) serveHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchangeOf(r)
	e.begin(x)
	defer e.end(r.Context(), x)
	if e.cfg.Access.described() {
		x.userAgent, x.referer = r.UserAgent(), r.Referer()
	}
	noted := &notedWriter{ResponseWriter: w, x: x, edge: e}
	code, to := e.route(r.Context(), x, "")
	switch {
	case code != "":
		x.code = code
		e.cfg.Pages.writeError(noted, r, code, x.visitor.ID)
	case x.answer != nil:
		x.challenge(noted, r)
	case to != "":
		// 308 keeps method and body (RFC 9110, section 15.4.9).
		http.Redirect(noted, r, to, http.StatusPermanentRedirect)
	case x.webSocket:
		e.carryNetWebSocket(noted, r, x)
	default:
		e.dispatchHTTP(noted, r, x)
	}
}

// exchangeOf makes the exchange of a request of HTTP/3. Of an extended CONNECT quic-go says
// in Proto what it is for (RFC 9220).
func exchangeOf(r *http.Request) *exchange {
	x := &exchange{head: (*headOf)(r), proto: "HTTP/3.0", secure: true, method: r.Method, host: r.Host, target: r.RequestURI}
	x.webSocket = r.Method == http.MethodConnect && r.Proto == "websocket"
	if x.visitor.ID = r.Header.Get("X-Request-Id"); !isRequestID(x.visitor.ID) {
		x.visitor.ID = newVisitorID()
	}
	x.visitor.Remote, _ = netip.ParseAddrPort(r.RemoteAddr)
	x.visitor.Remote = netip.AddrPortFrom(x.visitor.Remote.Addr().Unmap(), x.visitor.Remote.Port())
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		x.visitor.Local = addrPort(a)
	}
	if r.TLS != nil {
		x.visitor.ServerName, _ = endpoint.ParseHost(r.TLS.ServerName) // empty is no host's name
		x.chains = r.TLS.VerifiedChains
	}
	return x
}

// notedWriter notes what becomes of the answer.
type notedWriter struct {
	http.ResponseWriter
	x    *exchange
	edge *Edge
}

// WriteHeader implements http.ResponseWriter.
func (w *notedWriter) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.x.status = status
		if w.x.answered.IsZero() && !w.x.sent.IsZero() {
			w.x.answered = time.Now()
		}
		w.edge.setOwn(w.Header(), w.x)
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *notedWriter) Write(p []byte) (int, error) {
	if w.x.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(p)
	w.x.bytesOut += int64(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (w *notedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// redirects reports whether the plain port sends visitors of route to https.
func (e *Edge) redirects(route *registry.Route) bool {
	if route.ClientCAs != nil {
		return true // there is nobody on the plain port who has shown a certificate
	}
	switch route.Spec.Redirect {
	case endpoint.RedirectAlways:
		return true
	case endpoint.RedirectNever:
		return false
	case endpoint.RedirectAuto:
	}
	return !route.Spec.PlainOnly && e.cfg.Certs.Trusted(route.Name.Host)
}

// secureURL is where the plain port sends visitors.
func (e *Edge) secureURL(host, target string) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if p := e.cfg.HTTPSPort(); p != 443 && p != 0 {
		host += ":" + strconv.Itoa(p)
	}
	if !strings.HasPrefix(target, "/") {
		target = "/" // of "OPTIONS *"
	}
	return "https://" + host + target
}

// codeOf finds the code a visitor is told for an error on the way to the upstream.
func codeOf(err error) tunnel.Code {
	var stream *tunnel.StreamError
	var timeout net.Error
	var invalid *invalidError
	var body *bodyError
	var fault *http1.Error
	switch {
	case errors.As(err, &invalid):
		return tunnel.CodeUpstreamProtocol
	case errors.As(err, &fault):
		return codeOfFault(fault)
	case errors.As(err, &body):
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return tunnel.CodeRequestTimeout
		}
		return tunnel.CodeBadRequest
	case errors.As(err, &stream):
		if _, ok := visitorErrors[stream.Code]; ok {
			return stream.Code
		}
		return tunnel.CodeUpstreamUnreachable
	case errors.Is(err, errNoWebSocket):
		return tunnel.CodeUpstreamProtocol
	case errors.Is(err, registry.ErrAmbiguous):
		return tunnel.CodeBadRequest
	case errors.Is(err, registry.ErrNotFound):
		return tunnel.CodeEndpointNotFound
	case errors.Is(err, registry.ErrOffline), errors.Is(err, registry.ErrSessionGone):
		return tunnel.CodeEndpointOffline
	case errors.As(err, &timeout) && timeout.Timeout():
		return tunnel.CodeUpstreamTimeout
	}
	return tunnel.CodeUpstreamClosed
}
