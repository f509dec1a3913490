package certs

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/url"
	"slices"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// answer answers an HTTP-01 challenge.
func (a *authority) answer(ctx context.Context, host, path string) ([]byte, bool) {
	e := a.engine.Load()
	if e == nil || !a.mayChallenge(host) {
		return nil, false
	}
	r := (&http.Request{Method: http.MethodGet, Host: host, URL: &url.URL{Path: path}}).WithContext(ctx)
	w := &answerWriter{header: make(http.Header)}
	ok := e.issuer.HandleHTTPChallenge(w, r)
	return w.body, ok
}

// mayChallenge reports whether a challenge for host can be answered: this node, or
// another one, orders for it. For all else the storage isn't looked at.
func (a *authority) mayChallenge(host string) bool {
	return a.orders.has(host) || a.needed(host) // an agent may be away while its order is under way
}

// answerWriter keeps what CertMagic answers.
type answerWriter struct {
	header http.Header
	body   []byte
}

func (w *answerWriter) Header() http.Header { return w.header }
func (w *answerWriter) WriteHeader(int)     {}
func (w *answerWriter) Write(b []byte) (int, error) {
	w.body = append(w.body, b...)
	return len(b), nil
}

// challenge answers a TLS-ALPN-01 challenge (RFC 8737).
func (a *authority) challenge(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	e := a.engine.Load()
	host, err := endpoint.ParseHost(hello.ServerName)
	if e == nil || err != nil || !slices.Equal(hello.SupportedProtos, []string{ChallengeALPN}) {
		return nil, ErrUnknownName
	}
	if !a.mayChallenge(host) {
		return nil, ErrUnknownName
	}
	return e.web.GetCertificate(hello)
}
