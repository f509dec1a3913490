// Package acme gets certificates for endpoints whose TLS ends at the agent, by ACME
// (RFC 8555) and its challenge TLS-ALPN-01 (RFC 8737), which comes in through the
// endpoint itself: keys never leave the agent, and the server sees ciphertext. It is
// CertMagic's only door at the agent; who embeds an agent links none of it.
package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/culvert-tunnel/culvert/internal/agent"
)

// Manager gets and renews certificates. Make one with New, then call Run.
type Manager struct {
	dir    string
	log    *slog.Logger
	orders chan *host

	mu struct {
		sync.Mutex
		hosts map[string]*host // their magic too
	}
}

// host is one name with its certificate.
type host struct {
	name  string
	asked agent.ACME
	magic *certmagic.Config
	cache *certmagic.Cache // of magic
}

// New makes a manager that keeps accounts, keys and certificates below dir.
func New(dir string, log *slog.Logger) *Manager {
	m := &Manager{dir: filepath.Join(dir, "acme"), log: log, orders: make(chan *host, 1024)}
	m.mu.hosts = make(map[string]*host)
	return m
}

// Certify returns what has the certificate for a host as soon as there is one, and
// answers the CA's challenges until then. It is asked for when the endpoint is online,
// each time.
func (m *Manager) Certify(name string, asked agent.ACME) agent.Certificates {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.mu.hosts[name]
	if h == nil || h.asked != asked {
		h = &host{name: name, asked: asked}
		m.mu.hosts[name] = h
		select {
		case m.orders <- h:
		default:
			m.log.Warn("too many certificates are to be got: this one waits for the agent's next start", "host", name)
		}
	}
	magic := func() *certmagic.Config {
		m.mu.Lock()
		defer m.mu.Unlock()
		return h.magic
	}
	return agent.Certificates{
		Get: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if magic := magic(); magic != nil {
				return magic.GetCertificate(hello)
			}
			return nil, errNotYet
		},
		Current: func() *tls.Certificate {
			m.mu.Lock()
			defer m.mu.Unlock()
			if h.cache == nil {
				return nil
			}
			return newest(h.cache.AllMatchingCertificates(name))
		},
	}
}

// newest is the certificate that CertMagic shows of those for one name: two are there while
// one is renewed.
func newest(all []certmagic.Certificate) *tls.Certificate {
	var found *tls.Certificate
	for i := range all {
		if c := &all[i].Certificate; c.Leaf != nil && (found == nil || c.Leaf.NotBefore.After(found.Leaf.NotBefore)) {
			found = c
		}
	}
	return found
}

var errNotYet = errors.New("the certificate is not there yet")

// Run gets and renews certificates until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	var held net.Listener
	for {
		var h *host
		select {
		case <-ctx.Done():
			return nil
		case h = <-m.orders:
		}
		if held == nil {
			// CertMagic listens for challenges where nobody does. They come in through the
			// endpoints, so this port is only held.
			var lc net.ListenConfig
			var err error
			if held, err = lc.Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
				return fmt.Errorf("hold a port: %w", err)
			}
			defer held.Close() //nolint:errcheck // nothing is served on it
		}
		stop, err := m.manage(ctx, h, held.Addr().(*net.TCPAddr).Port)
		if err != nil {
			m.log.Error("certificate can't be got", "host", h.name, "error", err)
			continue
		}
		defer stop() // of few hosts
	}
}

// manage begins to get and renew a host's certificate.
func (m *Manager) manage(ctx context.Context, h *host, port int) (stop func(), err error) {
	var roots *x509.CertPool
	if h.asked.CARoot != "" {
		pem, err := os.ReadFile(h.asked.CARoot)
		if err != nil {
			return nil, fmt.Errorf("read the CA's root: %w", err)
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read the CA's root %s: %w", h.asked.CARoot, agent.ErrNoCA)
		}
	}
	quiet := zap.NewNop() // what a user must know, event says
	var magic *certmagic.Config
	cache := certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return magic, nil },
		Logger:           quiet,
	})
	magic = certmagic.New(cache, certmagic.Config{
		Storage: &certmagic.FileStorage{Path: m.dir}, Logger: quiet, OnEvent: m.event,
		KeySource: certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		Issuers:   []certmagic.Issuer{}, // see below
	})
	directory := h.asked.CA
	if directory == "" {
		directory = certmagic.LetsEncryptProductionCA
	}
	magic.Issuers = []certmagic.Issuer{certmagic.NewACMEIssuer(magic, certmagic.ACMEIssuer{
		CA: directory, Email: h.asked.Email, Agreed: true, TrustedRoots: roots, Logger: quiet,
		DisableHTTPChallenge: true, ListenHost: "127.0.0.1", AltTLSALPNPort: port,
	})}
	m.mu.Lock()
	h.magic, h.cache = magic, cache
	m.mu.Unlock()
	if err := magic.ManageAsync(ctx, []string{h.name}); err != nil {
		cache.Stop()
		return nil, fmt.Errorf("manage %s: %w", h.name, err)
	}
	return cache.Stop, nil
}

// event says what comes of orders and renewals.
func (m *Manager) event(_ context.Context, event string, data map[string]any) error {
	name, _ := data["identifier"].(string)
	switch event {
	case "cert_obtained":
		m.log.Info("certificate obtained", "host", name)
	case "cert_failed":
		m.log.Warn("certificate not obtained: it is tried again", "host", name, "error", data["error"])
	}
	return nil
}
