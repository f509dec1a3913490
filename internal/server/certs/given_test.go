package certs

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// write writes a certificate of a CA for host and its key, with the CA's behind it.
func write(t *testing.T, ca *CA, host string, p Pair) *x509.Certificate {
	t.Helper()
	c, err := ca.Issue(host)
	check(t, err)
	var chain []byte
	for _, der := range c.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	check(t, err)
	check(t, os.WriteFile(p.Cert, chain, 0o600))
	check(t, os.WriteFile(p.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600))
	return c.Leaf
}

func pairIn(dir, name string) Pair {
	return Pair{Cert: filepath.Join(dir, name+".pem"), Key: filepath.Join(dir, name+".key")}
}

// TestGiven: each name gets the certificate that fits best.
func TestGiven(t *testing.T) {
	dir := t.TempDir()
	ca, err := OpenCA(t.TempDir())
	check(t, err)
	wild, exact := pairIn(dir, "wild"), pairIn(dir, "exact")
	wildLeaf := write(t, ca, "*.example.com", wild)
	exactLeaf := write(t, ca, "app.example.com", exact)
	m, err := New(Config{Dir: t.TempDir(), Domain: "example.com", Given: []Pair{wild, exact}, Bound: func(h string) bool { return h == "bound.example.org" }})
	check(t, err)
	own := m.ca.Certificate
	for host, want := range map[string]*x509.Certificate{
		"app.example.com": exactLeaf, "other.example.com": wildLeaf,
		"example.com": nil, "a.b.example.com": nil, "bound.example.org": nil, // the own CA's
	} {
		c, err := m.Visitor(t.Context(), host)
		if err != nil || (want != nil && !c.Leaf.Equal(want)) || (want == nil && c.Leaf.CheckSignatureFrom(own) != nil) {
			t.Errorf("%s: %v, %v", host, c, err)
		}
		if m.Trusted(host) {
			t.Errorf("%s counts as trusted", host)
		}
	}
	if c, err := m.Visitor(t.Context(), "stranger.example.org"); !errors.Is(err, ErrUnknownName) {
		t.Errorf("%v, %v", c, err)
	}
}

// TestLinkCertificate: an agent gets the certificate that it can trust.
func TestLinkCertificate(t *testing.T) {
	dir := t.TempDir()
	private, err := OpenCA(t.TempDir())
	check(t, err)
	pair := pairIn(dir, "given")
	leaf := write(t, private, "tunnel.example.com", pair)
	m, err := New(Config{Dir: t.TempDir(), Domain: "tunnel.example.com", Given: []Pair{pair}, Bound: func(string) bool { return false }})
	check(t, err)
	own := tunnel.Fingerprint(m.ca.Certificate)
	for _, tc := range []struct {
		offers []string
		given  bool
	}{
		{[]string{tunnel.ALPN}, true},
		{[]string{tunnel.ALPN, link.PinALPN(m.Fingerprint())}, true},
		{[]string{tunnel.ALPN, link.PinALPN(own)}, false},
	} {
		c, err := m.Link(&tls.ClientHelloInfo{ServerName: "tunnel.example.com", SupportedProtos: tc.offers})
		if err != nil || c.Leaf.Equal(leaf) != tc.given {
			t.Errorf("%v: %v, %v", tc.offers, c, err)
		}
	}
	if m.Fingerprint() != tunnel.Fingerprint(private.Certificate) {
		t.Error("the token pins another CA than the given certificate's")
	}
}

// TestReload: files that change are read again; what can't be used is warned of once
// and changes nothing.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	ca, err := OpenCA(t.TempDir())
	check(t, err)
	pair := pairIn(dir, "a")
	first := write(t, ca, "app.example.com", pair)
	var log syncBuffer
	m, err := New(Config{
		Dir: t.TempDir(), Domain: "example.com", Given: []Pair{pair}, Bound: func(string) bool { return false },
		WatchEvery: 5 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Run(ctx, nil, nil)
	}()
	defer func() {
		cancel()
		<-done
	}()
	now := func() *x509.Certificate {
		c, err := m.Visitor(t.Context(), "app.example.com")
		check(t, err)
		return c.Leaf
	}
	second := write(t, ca, "app.example.com", pair)
	until(t, "the new certificate", func() bool { return now().Equal(second) })
	if first.Equal(second) {
		t.Fatal("nothing changed")
	}

	broken := filepath.Join(t.TempDir(), "broken") // at once: an empty file would be broken in another way
	check(t, os.WriteFile(broken, []byte("broken"), 0o600))
	check(t, os.Rename(broken, pair.Key))
	until(t, "a warning", func() bool { return log.count("can't be used") > 0 })
	looked := time.Now()
	until(t, "some more looks", func() bool { return time.Since(looked) > 20*5*time.Millisecond })
	if n := log.count("can't be used"); n != 1 {
		t.Errorf("%d warnings, want 1", n)
	}
	if !now().Equal(second) {
		t.Error("the old certificate is gone")
	}

	third := pairIn(dir, "b") // as Kubernetes and certbot do it: links
	last := write(t, ca, "app.example.com", third)
	for _, l := range [][2]string{{third.Cert, pair.Cert}, {third.Key, pair.Key}} {
		check(t, os.Symlink(l[0], l[1]+".new"))
		check(t, os.Rename(l[1]+".new", l[1]))
	}
	until(t, "the linked certificate", func() bool { return now().Equal(last) })
}

// TestGivenOCSP: a given certificate is shown with its CA's word on it, and goes on
// being shown when the CA says nothing.
func TestGivenOCSP(t *testing.T) {
	ca, err := OpenCA(t.TempDir())
	check(t, err)
	var hangs atomic.Bool
	responder := newResponder(t, &hangs, func() (*x509.Certificate, crypto.Signer) { return ca.Certificate, ca.key })
	defer responder.Close()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), DNSNames: []string{"app.example.com"}, OCSPServer: []string{responder.URL},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Certificate, ca.leafKey.Public(), ca.key)
	check(t, err)
	key, err := x509.MarshalPKCS8PrivateKey(ca.leafKey)
	check(t, err)
	pair := pairIn(t.TempDir(), "a")
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate.Raw})...)
	check(t, os.WriteFile(pair.Cert, chain, 0o600))
	check(t, os.WriteFile(pair.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600))
	g, err := openGiven([]Pair{pair}, slog.New(slog.DiscardHandler))
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.keepStapled(ctx, 5*time.Millisecond)
	}()
	until(t, "an answer", func() bool { return g.match("app.example.com").OCSPStaple != nil })
	cancel()
	<-done

	c := g.match("app.example.com")
	if r, err := ocsp.ParseResponse(c.OCSPStaple, ca.Certificate); err != nil || r.Status != ocsp.Good || c.restaple.After(r.NextUpdate) {
		t.Errorf("stapled: %v, %v", r, err)
	}
	hangs.Store(true)
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	next, err := c.staple(ctx, http.DefaultClient)
	if err == nil || next.OCSPStaple == nil {
		t.Errorf("a valid answer was given up: %v", err)
	}
	next.stapledUntil = time.Now().Add(-time.Second)
	if next, err = next.staple(ctx, http.DefaultClient); err == nil || next.OCSPStaple != nil {
		t.Errorf("an answer that is over is still shown: %v", err)
	}
	responder.CloseClientConnections()
}

// syncBuffer is a bytes.Buffer for several goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.b.String(), what)
}

// TestWrongACME: what can't work is refused at the start, with what to do.
func TestWrongACME(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	check(t, os.WriteFile(empty, nil, 0o600))
	for want, acme := range map[string]ACME{
		"email address is needed":          {CA: "letsencrypt-staging"},
		"the https URL of its directory":   {Email: "a@example.com", CA: "http://ca.example.com"},
		"challenge \"dns\"":                {Email: "a@example.com", Challenges: []string{"dns"}},
		"holds no certificate":             {Email: "a@example.com", CARoot: empty},
		"go together":                      {Email: "a@example.com", EABKeyID: "k"},
		"not both":                         {Email: "a@example.com", DNS: DNS{Server: "ns", Exec: []string{"true"}}},
		"needs the DNS server":             {Email: "a@example.com", DNS: DNS{KeyFile: empty}},
		"it is no TSIG key":                {Email: "a@example.com", DNS: DNS{Server: "ns", KeyFile: empty}},
		"find the program":                 {Email: "a@example.com", DNS: DNS{Exec: []string{"/no/such/program"}}},
		"only with a DNS server":           {Email: "a@example.com", DNS: DNS{Resolvers: []string{"127.0.0.1:53"}}},
		"read the external account's key":  {Email: "a@example.com", EABKeyID: "k", EABKeyFile: "/no/such/file"},
		"read the DNS key: open /no/such/": {Email: "a@example.com", DNS: DNS{Server: "ns", KeyFile: "/no/such/file"}},
	} {
		_, err := New(Config{Dir: dir, Domain: "example.com", ACME: acme, Bound: func(string) bool { return false }})
		if !errors.Is(err, ErrACME) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestKnownToCA: names for which no CA is asked.
func TestKnownToCA(t *testing.T) {
	a := &authority{}
	for _, host := range []string{"localhost", "a.localhost", "printer.local", "x.internal", "a.test", "10.0.0.1", "2001:db8::1", "8.8.8.8", "single", "a_b.example.com", "x.lan", "x.onion"} {
		if a.knows(host) {
			t.Errorf("%s is asked for", host)
		}
	}
	for _, host := range []string{"app.example.com", "xn--bcher-kva.example.org"} {
		if !a.knows(host) {
			t.Errorf("%s is not asked for", host)
		}
	}
	a.roots = x509.NewCertPool() // a private CA may know private names
	for host, want := range map[string]bool{"x.internal": true, "a.test": true, "localhost": false, "10.0.0.1": false} {
		if a.knows(host) != want {
			t.Errorf("private CA, %s: %v", host, !want)
		}
	}
}
