// Package certs owns the certificates a node shows. There are three kinds, and the
// first that covers a name is shown: those given as files, those of a CA that speaks
// ACME, and those of the node's own CA, which it makes on first start. Orders of the
// second kind happen only for names that are the node's own or an endpoint's, never
// because a visitor asked for some name. The package alone knows CertMagic.
package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Config of a Manager. Dir, Domain and Bound must be set.
type Config struct {
	Dir    string // the data directory
	Domain string // names directly below it may be issued by the own CA without asking
	Given  []Pair // files; one for the domain serves links too
	ACME   ACME

	// Storage keeps what belongs to ACME: accounts, keys, certificates, and challenges
	// for other nodes to answer. Default: files below Dir.
	Storage certmagic.Storage

	// Bound reports whether a host is an endpoint's now, or reserved for one. Only for
	// such hosts and the domain certificates are ordered and renewed.
	Bound func(host string) bool
	// Known reports whether a host is an endpoint's or was lately. The own CA makes
	// certificates for those and for what is below the domain. Default: Bound.
	Known func(host string) bool
	// Failed, if set, is told why there is no certificate of the CA for the host of an
	// endpoint, in words for the endpoint's owner. It must not block.
	Failed func(host, reason string)

	WatchEvery time.Duration // how often files are looked at; default 5 s
	RenewEvery time.Duration // how often CertMagic looks for what to renew; default 10 min
	Logger     *slog.Logger
}

// ChallengeALPN is the protocol by which a CA asks for a TLS-ALPN-01 challenge.
const ChallengeALPN = "acme-tls/1"

// ChallengePath is what the paths of HTTP-01 challenges begin with.
const ChallengePath = "/.well-known/acme-challenge/"

// ErrUnknownName says that a server name is none of this node's.
var ErrUnknownName = errors.New("unknown server name")

// Limits of a Manager.
const (
	maxIssued   = 4096 // certificates of the own CA that are kept; the rest is made again
	maxVerified = 4096 // certificates of which it is remembered who vouches for them
	maxWaiting  = 1024 // visitors that wait for an order
)

// Manager hands out the certificate for a TLS server name.
type Manager struct {
	cfg     Config
	ca      *CA
	given   *given
	acme    *authority // nil: not configured
	waiting atomic.Int64

	mu struct {
		sync.Mutex
		issued   map[string]*tls.Certificate
		verified map[*byte]bool // by the first byte of the leaf, which is never copied
	}
}

// New opens the node's CA, making one on first start, and reads the given
// certificates. Nothing is ordered before Run.
func New(cfg Config) (*Manager, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Known == nil {
		cfg.Known = cfg.Bound
	}
	if cfg.WatchEvery <= 0 {
		cfg.WatchEvery = 5 * time.Second
	}
	ca, err := OpenCA(cfg.Dir)
	if err != nil {
		return nil, err
	}
	m := &Manager{cfg: cfg, ca: ca}
	m.mu.issued, m.mu.verified = make(map[string]*tls.Certificate), make(map[*byte]bool)
	if m.given, err = openGiven(cfg.Given, cfg.Logger); err != nil {
		return nil, err
	}
	if cfg.ACME.Email == "" {
		if cfg.ACME.given() {
			return nil, fmt.Errorf("%w: an email address is needed; by giving it you agree to the terms of the CA", ErrACME)
		}
		return m, nil
	}
	if m.acme, err = newAuthority(cfg); err != nil {
		return nil, err
	}
	return m, nil
}

// Run watches the given files, and gets and renews certificates by ACME, until ctx
// ends. plain and secure are the addresses where visitors come in, nil for none; the
// edge must answer challenges there (Answer, Challenge) from now on.
func (m *Manager) Run(ctx context.Context, plain, secure net.Addr) {
	var tasks sync.WaitGroup
	tasks.Go(func() { m.given.watch(ctx, m.cfg.WatchEvery) })
	tasks.Go(func() { m.given.keepStapled(ctx, stapleTick) })
	if m.acme != nil {
		tasks.Go(func() { m.acme.run(ctx, plain, secure) })
	}
	tasks.Wait()
}

// Want says that an endpoint with this host is there now, so that its certificate is
// got before the first visitor asks for it. It doesn't wait.
func (m *Manager) Want(host string) {
	if m.acme == nil || m.given.match(host) != nil || !m.acme.knows(host) {
		return
	}
	if err := m.acme.bound(host); err != nil {
		m.acme.failed(host, err)
	}
}

// Link returns the certificate of links. An agent that trusts this node's own CA and
// no other says so in its ClientHello, and gets one of that. Others get the one for the
// name they dialled, that of the domain, or whichever is given.
func (m *Manager) Link(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if slices.Contains(hello.SupportedProtos, link.PinALPN(tunnel.Fingerprint(m.ca.Certificate))) {
		return m.issue(link.NodeName)
	}
	for _, host := range []string{strings.ToLower(hello.ServerName), m.cfg.Domain} {
		if c := m.given.match(host); c != nil {
			return c.Certificate, nil
		}
	}
	if m.acme != nil {
		if c := m.acme.lookup(m.cfg.Domain); c != nil {
			return c, nil
		}
	}
	if all := m.given.all(); len(all) > 0 {
		return all[0].Certificate, nil
	}
	return m.issue(link.NodeName)
}

// ResetKey is a secret of this node's that its next process has too, for QUIC.
func (m *Manager) ResetKey() [32]byte { return m.ca.resetKey }

// Fingerprint is what tokens carry so that agents can trust Link's certificate: the
// own CA's, or, if a certificate is given for the domain, that of a private CA which
// its file ends in, or none when the system's roots vouch for it. With ACME it is the
// own CA's, so that agents need not wait for an order, nor for a CA that is down.
func (m *Manager) Fingerprint() string {
	c := m.given.match(m.cfg.Domain)
	switch {
	case c == nil:
		return tunnel.Fingerprint(m.ca.Certificate)
	case !c.public && c.top != nil && c.top.IsCA:
		return tunnel.Fingerprint(c.top)
	}
	return ""
}

// Public reports whether the system's roots vouch for the certificate given for the
// domain.
func (m *Manager) Public() bool {
	c := m.given.match(m.cfg.Domain)
	return c != nil && c.public
}

// Trusted reports whether visitors can be expected to trust host's certificate.
func (m *Manager) Trusted(host string) bool {
	if c := m.given.match(host); c != nil {
		return c.public && time.Now().Before(c.Leaf.NotAfter)
	}
	if m.acme == nil {
		return false
	}
	c := m.acme.lookup(host)
	return c != nil && m.vouchedFor(c)
}

// vouchedFor remembers what the function of that name found, which takes long.
func (m *Manager) vouchedFor(c *tls.Certificate) bool {
	key := &c.Certificate[0][0]
	m.mu.Lock()
	public, known := m.mu.verified[key]
	m.mu.Unlock()
	if known {
		return public
	}
	public = vouchedFor(c)
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.mu.verified) >= maxVerified {
		clear(m.mu.verified)
	}
	m.mu.verified[key] = public
	return public
}

// Visitor returns the certificate for a visitor's server name, or ErrUnknownName. It
// waits a while if the first order for an endpoint's host is under way; if that comes
// to nothing, the own CA's certificate keeps the endpoint in reach of those who know
// it.
func (m *Manager) Visitor(ctx context.Context, host string) (*tls.Certificate, error) {
	if host == link.NodeName {
		return m.issue(host) // of an agent that comes by WebSocket and has no name to ask for
	}
	if c := m.given.match(host); c != nil {
		return c.Certificate, nil
	}
	own := host == m.cfg.Domain
	if m.acme == nil || !m.acme.knows(host) {
		if !own && !strings.HasSuffix(host, "."+m.cfg.Domain) && !m.cfg.Known(host) {
			return nil, ErrUnknownName
		}
		return m.issue(host)
	}
	if c := m.acme.lookup(host); c != nil {
		return c, nil
	}
	if own || m.cfg.Bound(host) {
		if c := m.await(ctx, host); c != nil {
			return c, nil
		}
	} else if !m.cfg.Known(host) {
		return nil, ErrUnknownName
	}
	return m.issue(host)
}

func (m *Manager) await(ctx context.Context, host string) *tls.Certificate {
	defer m.waiting.Add(-1)
	if m.waiting.Add(1) > maxWaiting {
		return nil
	}
	return m.acme.await(ctx, host)
}

// Answer returns the answer to an HTTP-01 challenge for a path of host that begins
// with ChallengePath. It is false if no order of this node's or another's waits for
// that; then the request is the endpoint's.
func (m *Manager) Answer(ctx context.Context, host, path string) ([]byte, bool) {
	if m.acme == nil || !strings.HasPrefix(path, ChallengePath) {
		return nil, false
	}
	return m.acme.answer(ctx, host, path)
}

// Challenge returns the certificate that answers a TLS-ALPN-01 challenge.
func (m *Manager) Challenge(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if m.acme == nil {
		return nil, ErrUnknownName
	}
	return m.acme.challenge(hello)
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
