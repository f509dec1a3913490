package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Config of a Manager.
type Config struct {
	Dir               string // the data directory
	CertFile, KeyFile string // a given certificate; both or none
	Domain            string // names directly below it may be issued without asking
	// Bound reports whether a host is an endpoint's. Only such hosts and those below
	// the domain get a certificate of the own CA.
	Bound func(host string) bool
}

// ErrGiven says that the given certificate can't be used.
var ErrGiven = errors.New("load the certificate of --cert and --key")

// ErrUnknownName says that a server name is none of this node's.
var ErrUnknownName = errors.New("unknown server name")

// maxIssued bounds the certificates kept for names; the rest is made again.
const maxIssued = 4096

// Manager hands out the certificate for a TLS server name.
type Manager struct {
	cfg   Config
	ca    *CA
	given *tls.Certificate

	mu struct {
		sync.Mutex
		issued map[string]*tls.Certificate
	}
}

// New opens the node's CA, making one on first start, and the given certificate.
func New(cfg Config) (*Manager, error) {
	ca, err := OpenCA(cfg.Dir)
	if err != nil {
		return nil, err
	}
	m := &Manager{cfg: cfg, ca: ca}
	m.mu.issued = make(map[string]*tls.Certificate)
	if cfg.CertFile != "" || cfg.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrGiven, err)
		}
		m.given = &pair
	}
	return m, nil
}

// Link returns the certificate of links: the given one, else the own CA's.
func (m *Manager) Link(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if m.given != nil {
		return m.given, nil
	}
	return m.issue(link.NodeName)
}

// Fingerprint is what tokens carry so that agents can trust Link's certificate:
// the own CA's, or that of a private CA which the given certificate file ends in.
// It is empty when the system's roots do.
func (m *Manager) Fingerprint() string {
	if m.given == nil {
		return tunnel.Fingerprint(m.ca.Certificate)
	}
	if public, top := m.judge(); !public && top != nil && top.IsCA {
		return tunnel.Fingerprint(top)
	}
	return ""
}

// Public reports whether the system's roots vouch for the given certificate.
func (m *Manager) Public() bool {
	if m.given == nil {
		return false
	}
	public, _ := m.judge()
	return public
}

// judge verifies the given certificate, and returns the last one of its chain.
func (m *Manager) judge() (public bool, top *x509.Certificate) {
	between := x509.NewCertPool()
	for _, der := range m.given.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
			top = c
		}
	}
	_, err := m.given.Leaf.Verify(x509.VerifyOptions{Intermediates: between})
	return err == nil, top
}

// Trusted reports whether visitors can be expected to trust host's certificate.
func (m *Manager) Trusted(host string) bool {
	return m.given != nil && m.given.Leaf.VerifyHostname(host) == nil && m.Public()
}

// Visitor returns the certificate for a visitor's server name: the given one where
// it covers the name, else one of the own CA.
func (m *Manager) Visitor(host string) (*tls.Certificate, error) {
	if m.given != nil && m.given.Leaf.VerifyHostname(host) == nil {
		return m.given, nil
	}
	if host != m.cfg.Domain && !strings.HasSuffix(host, "."+m.cfg.Domain) && !m.cfg.Bound(host) {
		return nil, ErrUnknownName
	}
	return m.issue(host)
}

func (m *Manager) issue(host string) (*tls.Certificate, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.mu.issued[host]; c != nil && time.Until(c.Leaf.NotAfter) > renewBefore {
		return c, nil
	}
	if len(m.mu.issued) >= maxIssued {
		clear(m.mu.issued) // signing anew is cheap; a list of use would cost more than it saves
	}
	c, err := m.ca.Issue(host)
	if err != nil {
		return nil, err
	}
	m.mu.issued[host] = c
	return c, nil
}
