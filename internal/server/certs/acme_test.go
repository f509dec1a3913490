package certs

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"golang.org/x/crypto/ocsp"

	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
	"github.com/culvert-tunnel/culvert/test/harness"
	"github.com/culvert-tunnel/culvert/test/pebble"
)

// patience bounds every wait for something that must happen.
const patience = 90 * time.Second

// world is a node's ports, as far as a CA looks at them, and what its agents bind.
type world struct {
	plain, secure net.Listener

	mu       sync.Mutex
	managers []*Manager // that answer
	bound    []string
	failures map[string]string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{failures: make(map[string]string)}
	var err error
	w.plain, err = net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	w.secure, err = net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	web := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.Host)
		for _, m := range w.answering() {
			if answer, ok := m.Answer(r.Context(), host, r.URL.Path); ok {
				_, _ = rw.Write(answer)
				return
			}
		}
		http.NotFound(rw, r)
	})}
	challenges := &tls.Config{NextProtos: []string{ChallengeALPN}, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		for _, m := range w.answering() {
			if c, err := m.Challenge(hello); err == nil {
				return c, nil
			}
		}
		return nil, ErrUnknownName
	}}
	var servers sync.WaitGroup
	servers.Go(func() { _ = web.Serve(w.plain) })
	servers.Go(func() {
		for {
			c, err := w.secure.Accept()
			if err != nil {
				return
			}
			servers.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				_ = tls.Server(c, challenges).Handshake()
			})
		}
	})
	t.Cleanup(func() {
		_, _ = web.Close(), w.secure.Close()
		servers.Wait()
	})
	return w
}

func (w *world) answering() []*Manager {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.managers)
}

func (w *world) isBound(host string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.bound, host)
}

func (w *world) bind(m *Manager, host string) {
	w.mu.Lock()
	w.bound = append(w.bound, host)
	w.mu.Unlock()
	m.Want(host)
}

func (w *world) failure(host string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failures[host]
}

func (w *world) forget(host string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.failures, host)
}

func (w *world) ca(t *testing.T, cfg pebble.Config) *pebble.CA {
	t.Helper()
	cfg.HTTPPort, cfg.TLSPort = pebble.Port(w.plain.Addr().String()), pebble.Port(w.secure.Addr().String())
	return pebble.Start(t, cfg)
}

// manage runs a Manager until the end of the test or the returned func.
func (w *world) manage(t *testing.T, ca *pebble.CA, cfg Config) (*Manager, func()) {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Domain == "" {
		cfg.Domain = "tunnel.example.com"
	}
	cfg.Bound = w.isBound
	cfg.Failed = func(host, reason string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.failures[host] = reason
	}
	cfg.ACME.Email = "ops@example.com"
	if cfg.ACME.CA == "" {
		cfg.ACME.CA = ca.Directory
	}
	cfg.ACME.CARoot = ca.APIRoot
	cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	m, err := New(cfg)
	check(t, err)
	w.mu.Lock()
	w.managers = append(w.managers, m)
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Run(ctx, w.plain.Addr(), w.secure.Addr())
	}()
	stop := sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(stop)
	return m, stop
}

// eventually waits for a certificate of the CA, or one that fits.
func eventually(t *testing.T, m *Manager, host string, fits func(*x509.Certificate) bool) *tls.Certificate {
	t.Helper()
	var c *tls.Certificate
	until(t, "a certificate for "+host, func() bool {
		c = m.acme.lookup(host)
		return c != nil && (fits == nil || fits(c.Leaf))
	})
	return c
}

// until polls until ok, for what shows no event.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for timeout := time.After(patience); !ok(); {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// from fails the test unless the CA's root vouches for a certificate.
func from(t *testing.T, ca *pebble.CA, c *tls.Certificate, host string) {
	t.Helper()
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Root(t))
	for _, der := range c.Certificate[1:] {
		x, err := x509.ParseCertificate(der)
		check(t, err)
		between.AddCert(x)
	}
	if _, err := c.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: between}); err != nil {
		t.Errorf("%s: %v", host, err)
	}
	if c.Leaf.PublicKeyAlgorithm != x509.ECDSA {
		t.Errorf("%s: %v key", host, c.Leaf.PublicKeyAlgorithm)
	}
}

// TestChallenges: each of the two challenges that visitors' ports answer, for the
// domain and a custom host; who asks for other names gets nothing and costs no order;
// a restart costs none either.
func TestChallenges(t *testing.T) {
	for _, challenge := range []string{HTTP01, TLSALPN01} {
		t.Run(challenge, func(t *testing.T) {
			t.Parallel()
			domain := challenge + ".example.com" // CertMagic keeps one challenge a name and process
			w := newWorld(t)
			ca := w.ca(t, pebble.Config{EAB: [2]string{"kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"}})
			key := filepath.Join(t.TempDir(), "eab")
			check(t, os.WriteFile(key, []byte("zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W\n"), 0o600))
			dir := t.TempDir()
			storage := &countingStorage{Storage: &certmagic.FileStorage{Path: filepath.Join(dir, "acme")}}
			cfg := Config{Dir: dir, Domain: domain, Storage: storage, ACME: ACME{Challenges: []string{challenge}, EABKeyID: "kid-1", EABKeyFile: key}}
			m, stop := w.manage(t, ca, cfg)
			from(t, ca, eventually(t, m, domain, nil), domain)

			for offer, root := range map[string]bool{tunnel.ALPN: true, link.PinALPN(m.Fingerprint()): false} {
				c, err := m.Link(&tls.ClientHelloInfo{ServerName: domain, SupportedProtos: []string{tunnel.ALPN, offer}})
				check(t, err)
				if root {
					from(t, ca, c, domain)
				} else if c.Leaf.CheckSignatureFrom(m.ca.Certificate) != nil {
					t.Errorf("an agent that pins the own CA gets a certificate of %v", c.Leaf.Issuer)
				}
			}

			settled(t, m)
			looks := storage.calls.Load()
			for _, host := range []string{"stranger.example.com", "nobody." + domain, "a.b." + domain} {
				if answer, ok := m.Answer(t.Context(), host, ChallengePath+"x"); ok {
					t.Errorf("%s: answers %s", host, answer)
				}
				if c, err := m.Challenge(&tls.ClientHelloInfo{ServerName: host, SupportedProtos: []string{ChallengeALPN}}); err == nil {
					t.Errorf("%s: %v", host, c)
				}
				if c, err := m.Visitor(t.Context(), host); !errors.Is(err, ErrUnknownName) {
					t.Errorf("%s: %v, %v", host, c, err)
				}
			}
			if n := storage.calls.Load(); n != looks {
				t.Errorf("names of nobody cost %d looks at the storage", n-looks)
			}
			if n := ca.Orders(); n != 1 {
				t.Errorf("%d orders, want 1", n)
			}

			w.bind(m, "app."+challenge+".example.org")
			w.bind(m, "web."+domain)
			for _, host := range []string{"app." + challenge + ".example.org", "web." + domain} {
				c, err := m.Visitor(t.Context(), host) // waits for the order
				check(t, err)
				from(t, ca, c, host)
			}
			if c, err := m.Visitor(t.Context(), "web.other.localhost"); !errors.Is(err, ErrUnknownName) {
				t.Errorf("%v, %v", c, err)
			}
			orders := ca.Orders()
			if orders != 3 {
				t.Errorf("%d orders, want 3", orders)
			}
			stop()
			private(t, filepath.Join(dir, "acme"))

			ca.Stop() // what is stored needs no CA
			m, _ = w.manage(t, ca, cfg)
			for _, host := range []string{domain, "app." + challenge + ".example.org"} {
				m.Want(host)
				c, err := m.Visitor(t.Context(), host)
				check(t, err)
				if c.Leaf.VerifyHostname(host) != nil || len(c.Leaf.Issuer.CommonName) < 6 || !strings.HasPrefix(c.Leaf.Issuer.CommonName, "Pebble") {
					t.Errorf("%s after a restart: %v", host, c.Leaf.Issuer)
				}
			}
		})
	}
}

// settled waits until no order is under way.
func settled(t *testing.T, m *Manager) {
	t.Helper()
	until(t, "orders to end", func() bool {
		for _, s := range m.List() {
			if s.Pending {
				return false
			}
		}
		return true
	})
}

// countingStorage counts what is asked of it.
type countingStorage struct {
	certmagic.Storage
	calls atomic.Int64
}

func (s *countingStorage) Load(ctx context.Context, key string) ([]byte, error) {
	s.calls.Add(1)
	return s.Storage.Load(ctx, key)
}

func (s *countingStorage) Exists(ctx context.Context, key string) bool {
	s.calls.Add(1)
	return s.Storage.Exists(ctx, key)
}

// private fails the test if anybody else may look below dir.
func private(t *testing.T, dir string) {
	t.Helper()
	files := 0
	check(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		files++
		return err
	}))
	if files < 5 {
		t.Errorf("only %d files in %s", files, dir)
	}
}

// TestCADown: while the CA can't be reached, what is there is shown as fast as ever,
// agents are told, and who needs an order gets the own CA's certificate in bounded
// time; once the CA is back, so are the orders.
func TestCADown(t *testing.T) {
	t.Parallel()
	const domain, app = "down.example.com", "app.down.example.org"
	w := newWorld(t)
	at := harness.FreeAddress(t)
	ca := w.ca(t, pebble.Config{Listen: at})
	dir := t.TempDir()
	m, stop := w.manage(t, ca, Config{Dir: dir, Domain: domain})
	eventually(t, m, domain, nil)
	stop()
	ca.Stop()

	// It takes connections and says nothing: the worst way to be down.
	dead, err := net.Listen("tcp", at)
	check(t, err)
	m, stop = w.manage(t, ca, Config{Dir: dir, Domain: domain})
	eventually(t, m, domain, nil)
	w.bind(m, app)
	for range 3 * maxOrders { // more than there are slots
		w.bind(m, "x"+time.Now().Format("150405.000000000")[7:]+".example.org")
	}
	if c, err := m.Visitor(t.Context(), domain); err != nil || c.Leaf.Issuer.CommonName == "" || !strings.HasPrefix(c.Leaf.Issuer.CommonName, "Pebble") {
		t.Errorf("%v, %v", c, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // a visitor who leaves is not kept
	if c, err := m.Visitor(ctx, app); err != nil || !strings.HasPrefix(c.Leaf.Issuer.CommonName, "Culvert CA") {
		t.Errorf("%v, %v", c, err)
	}
	stop() // at once, though the CA answers nobody
	check(t, dead.Close())

	// It refuses connections, which is noticed soon.
	m, _ = w.manage(t, ca, Config{Dir: dir, Domain: domain})
	m.Want(app)
	c, err := m.Visitor(t.Context(), app)
	check(t, err)
	if !strings.HasPrefix(c.Leaf.Issuer.CommonName, "Culvert CA") {
		t.Errorf("issued by %v", c.Leaf.Issuer)
	}
	if m.Trusted(app) {
		t.Error("the own CA's certificate counts as trusted")
	}
	until(t, "word of the failure", func() bool { return w.failure(app) != "" })
	if why := w.failure(app); !strings.Contains(why, "can't be reached") {
		t.Errorf("reason: %s", why)
	}
	ca.Restart(t) // the account is unknown to it now
	for range 2 { // the first attempt finds that the account is gone, and makes a new one
		w.forget(app)
		m.acme.orders.mu.Lock()
		m.acme.orders.mu.names[app].next = time.Now() // instead of waiting for the pause
		m.acme.orders.mu.Unlock()
		m.acme.orders.review()
		until(t, "an attempt", func() bool { return w.failure(app) != "" || m.acme.lookup(app) != nil })
	}
	from(t, ca, eventually(t, m, app, nil), app)
}

// TestWrongDNS: a name that leads elsewhere fails, and its owner reads why.
func TestWrongDNS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dead := harness.FreeAddress(t)
	ca := pebble.Start(t, pebble.Config{HTTPPort: pebble.Port(dead), TLSPort: pebble.Port(dead)}) // nobody is there
	m, _ := w.manage(t, ca, Config{Domain: "localhost"})
	w.bind(m, "wrong.example.org")
	until(t, "word of the failure", func() bool { return w.failure("wrong.example.org") != "" })
	if why := w.failure("wrong.example.org"); !strings.Contains(why, "refused") && !strings.Contains(why, "Failed to connect") {
		t.Errorf("reason: %s", why)
	}
}

// TestRenewal: certificates that live for a minute are renewed before they end, and
// one that the CA wants to be renewed (ARI) is, whatever its life.
func TestRenewal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	t.Run("by time", func(t *testing.T) {
		t.Parallel()
		ca := w.ca(t, pebble.Config{Validity: 40 * time.Second})
		m, _ := w.manage(t, ca, Config{Domain: "time.example.com", RenewEvery: time.Second})
		first := eventually(t, m, "time.example.com", nil)
		second := eventually(t, m, "time.example.com", func(c *x509.Certificate) bool { return c.NotAfter.After(first.Leaf.NotAfter) })
		from(t, ca, second, "time.example.com")
		if slices.Equal(first.Leaf.RawSubjectPublicKeyInfo, second.Leaf.RawSubjectPublicKeyInfo) {
			t.Error("the key was kept")
		}
	})
	t.Run("by ARI", func(t *testing.T) {
		t.Parallel()
		ca := w.ca(t, pebble.Config{})
		dir := t.TempDir()
		m, stop := w.manage(t, ca, Config{Dir: dir, Domain: "ari.example.com", RenewEvery: time.Second})
		first := eventually(t, m, "ari.example.com", nil)
		stop()
		ca.RenewNow(t, first.Leaf)
		dueARI(t, dir)
		m, _ = w.manage(t, ca, Config{Dir: dir, Domain: "ari.example.com", RenewEvery: time.Second})
		eventually(t, m, "ari.example.com", func(c *x509.Certificate) bool { return c.SerialNumber.Cmp(first.Leaf.SerialNumber) != 0 })
	})
}

// dueARI has the stored renewal information be old, so that the CA is asked again now
// and not in six hours.
func dueARI(t *testing.T, dir string) {
	t.Helper()
	found := false
	check(t, filepath.Walk(filepath.Join(dir, "acme", "certificates"), func(path string, _ os.FileInfo, err error) error {
		if strings.HasSuffix(path, ".json") {
			b, err := os.ReadFile(path)
			check(t, err)
			s := string(b)
			if i := strings.Index(s, `"_retryAfter": "`); i >= 0 {
				i += len(`"_retryAfter": "`)
				s = s[:i] + time.Now().Add(-time.Hour).UTC().Format(time.RFC3339) + s[i+strings.IndexByte(s[i:], '"'):]
				found = true
			}
			check(t, os.WriteFile(path, []byte(s), 0o600))
		}
		return err
	}))
	if !found {
		t.Fatal("no renewal information is stored")
	}
}

// newResponder answers OCSP requests in the name of a CA, or hangs.
func newResponder(t *testing.T, hangs *atomic.Bool, ca func() (*x509.Certificate, crypto.Signer)) *httptest.Server {
	t.Helper()
	return httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		check(t, err)
		if hangs.Load() {
			<-r.Context().Done()
			return
		}
		request, err := ocsp.ParseRequest(body)
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
		issuer, key := ca()
		answer, err := ocsp.CreateResponse(issuer, issuer, ocsp.Response{
			Status: ocsp.Good, SerialNumber: request.SerialNumber,
			ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour),
		}, key)
		check(t, err)
		_, _ = rw.Write(answer)
	}))
}

// TestOCSP: where a CA still has OCSP, its word is stapled.
func TestOCSP(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var ca *pebble.CA
	var hangs atomic.Bool
	responder := newResponder(t, &hangs, func() (*x509.Certificate, crypto.Signer) {
		block, _ := pem.Decode(ca.Intermediate(t, false))
		issuer, err := x509.ParseCertificate(block.Bytes)
		check(t, err)
		block, _ = pem.Decode(ca.Intermediate(t, true))
		key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
		check(t, err)
		return issuer, key
	})
	defer responder.Close()
	ca = w.ca(t, pebble.Config{OCSP: responder.URL})
	dir := t.TempDir()
	m, stop := w.manage(t, ca, Config{Dir: dir, Domain: "ocsp.example.com"})
	c := eventually(t, m, "ocsp.example.com", nil)
	if r, err := ocsp.ParseResponse(c.OCSPStaple, nil); err != nil || r.SerialNumber.Cmp(c.Leaf.SerialNumber) != 0 || r.Status != ocsp.Good {
		t.Errorf("stapled: %v, %v", r, err)
	}
	stop()

	// A responder that never answers keeps neither the certificate nor the end waiting.
	hangs.Store(true)
	check(t, os.RemoveAll(filepath.Join(dir, "acme", "ocsp")))
	m, stop = w.manage(t, ca, Config{Dir: dir, Domain: "ocsp.example.com"})
	c, err := m.Visitor(t.Context(), "ocsp.example.com")
	check(t, err)
	from(t, ca, c, "ocsp.example.com")
	if c.OCSPStaple != nil {
		t.Error("stapled, though nobody answered")
	}
	stop()
	responder.CloseClientConnections()
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
