package link

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// authority makes certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key = a.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	return a
}

func (a *authority) sign(template, parent *x509.Certificate, by crypto.Signer) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(1)
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// leaf makes a certificate for a host, sent with the authority's.
func (a *authority) leaf(host string, notBefore, notAfter time.Time) tls.Certificate {
	a.t.Helper()
	cert, key := a.sign(&x509.Certificate{DNSNames: []string{host}, NotBefore: notBefore, NotAfter: notAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, a.cert, a.key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw, a.cert.Raw}, PrivateKey: key, Leaf: cert}
}

// serve answers each connection with handle.
func serve(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				handle(c)
				_, _ = io.Copy(io.Discard, c) // until the dialler leaves
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		conns.Wait()
	})
	return l.Addr().String()
}

func overTLS(cert tls.Certificate, alpn ...string) func(net.Conn) {
	return func(c net.Conn) {
		_ = tls.Server(c, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, NextProtos: alpn}).Handshake()
	}
}

func TestTrust(t *testing.T) {
	own, other := newAuthority(t), newAuthority(t)
	pinned := Dialer{Fingerprint: tunnel.Fingerprint(own.cert)}
	roots := x509.NewCertPool()
	roots.AddCert(own.cert)
	given := Dialer{Roots: roots}
	past := time.Now().Add(-time.Minute)
	var unset time.Time
	forged := other.leaf(NodeName, unset, unset)
	forged.Certificate[1] = own.cert.Raw // the pinned CA is sent along, but has signed nothing

	for name, tc := range map[string]struct {
		dial      Dialer
		serve     func(net.Conn)
		want      error // nil with untrusted: any
		untrusted bool
	}{
		"pinned":                      {dial: pinned, serve: overTLS(own.leaf(NodeName, unset, unset), tunnel.ALPN)},
		"pinned, by the dialled name": {dial: pinned, serve: overTLS(own.leaf("localhost", unset, unset), tunnel.ALPN)},
		"roots":                       {dial: given, serve: overTLS(own.leaf("localhost", unset, unset), tunnel.ALPN)},
		"pinned, another CA":          {dial: pinned, serve: overTLS(other.leaf(NodeName, unset, unset), tunnel.ALPN), want: ErrWrongNode, untrusted: true},
		"pinned, forged chain":        {dial: pinned, serve: overTLS(forged, tunnel.ALPN), want: ErrWrongNode, untrusted: true},
		"pinned, a visitor's name":    {dial: pinned, serve: overTLS(own.leaf("app.example.com", unset, unset), tunnel.ALPN), want: ErrWrongNode, untrusted: true},
		"pinned, expired":             {dial: pinned, serve: overTLS(own.leaf(NodeName, past.Add(-time.Hour), past), tunnel.ALPN), want: ErrExpired},
		"roots, another CA":           {dial: given, serve: overTLS(other.leaf("localhost", unset, unset), tunnel.ALPN), untrusted: true},
		"roots, another name":         {dial: given, serve: overTLS(own.leaf("app.example.com", unset, unset), tunnel.ALPN), untrusted: true},
		"roots, the name of own CAs":  {dial: given, serve: overTLS(own.leaf(NodeName, unset, unset), tunnel.ALPN), untrusted: true},
		"roots, expired":              {dial: given, serve: overTLS(own.leaf("localhost", past.Add(-time.Hour), past), tunnel.ALPN), want: ErrExpired},
		"system's roots":              {dial: Dialer{}, serve: overTLS(own.leaf("localhost", unset, unset), tunnel.ALPN), untrusted: true},
		"no ALPN":                     {dial: given, serve: overTLS(own.leaf("localhost", unset, unset)), want: ErrNotANode},
		"a web server":                {dial: given, serve: overTLS(own.leaf("localhost", unset, unset), "h2", "http/1.1"), want: ErrNotANode},
		"plain HTTP": {dial: pinned, serve: func(c net.Conn) {
			_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"))
		}, want: ErrNotANode},
		"silence": {dial: Dialer{Fingerprint: pinned.Fingerprint, Timeout: 100 * time.Millisecond}, serve: func(net.Conn) {}, want: ErrNoAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			_, port, _ := net.SplitHostPort(serve(t, tc.serve))
			tc.dial.Transport = TLS
			c, err := tc.dial.Dial(t.Context(), net.JoinHostPort("localhost", port))
			if c != nil {
				if v := c.ConnectionState().Version; v != tls.VersionTLS13 {
					t.Errorf("TLS version %x", v)
				}
				_ = c.Close()
			}
			fails := tc.want != nil || tc.untrusted
			if (err != nil) != fails || tc.want != nil && !errors.Is(err, tc.want) || Untrusted(err) != tc.untrusted {
				t.Errorf("%v; untrusted: %v", err, Untrusted(err))
			}
		})
	}
}
