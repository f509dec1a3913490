package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"
)

// Pair names the files of a certificate chain and its key (PEM).
type Pair struct{ Cert, Key string }

// ErrGiven says that a given certificate can't be used.
var ErrGiven = errors.New("load the certificate of --cert and --key")

// given are the certificates that the operator gives as files. Files that change are
// read again; a pair that can't be used then leaves the old one in place.
type given struct {
	pairs []Pair
	log   *slog.Logger

	mu struct {
		sync.RWMutex
		certs []*givenCert // of pairs, by index
	}
}

// givenCert is a certificate as it was read. It doesn't change.
type givenCert struct {
	*tls.Certificate
	public bool              // the system's roots vouch for it
	top    *x509.Certificate // the last one of its chain behind the leaf; nil: none
	issuer *x509.Certificate // the one behind the leaf; nil: none
	seen   stamp             // of its files before they were read

	stapledUntil, restaple time.Time // the end of the OCSP answer, and when to ask again
}

func openGiven(pairs []Pair, log *slog.Logger) (*given, error) {
	g := &given{pairs: pairs, log: log}
	for _, p := range pairs {
		c, err := loadPair(p)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrGiven, err)
		}
		g.mu.certs = append(g.mu.certs, c)
	}
	return g, nil
}

func loadPair(p Pair) (*givenCert, error) {
	seen := p.stamp()
	pair, err := tls.LoadX509KeyPair(p.Cert, p.Key)
	if err != nil {
		return nil, err
	}
	c := &givenCert{Certificate: &pair, seen: seen}
	for _, der := range pair.Certificate[1:] {
		if x, err := x509.ParseCertificate(der); err == nil {
			if c.issuer == nil {
				c.issuer = x
			}
			c.top = x
		}
	}
	c.public = vouchedFor(&pair)
	return c, nil
}

// vouchedFor reports whether the system's roots vouch for a certificate now.
func vouchedFor(c *tls.Certificate) bool {
	between := x509.NewCertPool()
	for _, der := range c.Certificate[1:] {
		if x, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(x)
		}
	}
	_, err := c.Leaf.Verify(x509.VerifyOptions{Intermediates: between})
	return err == nil
}

// match returns the certificate that covers host, nil if none does. One that names
// the host wins over a wildcard, an earlier one over a later one.
func (g *given) match(host string) *givenCert {
	g.mu.RLock()
	defer g.mu.RUnlock()
	var wild *givenCert
	for _, c := range g.mu.certs {
		if slices.Contains(c.Leaf.DNSNames, host) {
			return c
		}
		if wild == nil && c.Leaf.VerifyHostname(host) == nil {
			wild = c
		}
	}
	return wild
}

// all returns the certificates in the order they were given.
func (g *given) all() []*givenCert {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return slices.Clone(g.mu.certs)
}

// stamp tells one state of a pair's files from another.
type stamp struct {
	modified [2]time.Time
	size     [2]int64
	gone     bool
}

func (p Pair) stamp() stamp {
	var s stamp
	for i, path := range []string{p.Cert, p.Key} {
		info, err := os.Stat(path) // follows the links by which Kubernetes swaps files
		if err != nil {
			return stamp{gone: true}
		}
		s.modified[i], s.size[i] = info.ModTime(), info.Size()
	}
	return s
}

// watch looks at the files every so often until ctx ends. A state is judged when it
// has been there for two looks, so that a pair that is being replaced, one file after
// the other, is read when both are there; and it is judged once, so that a pair that
// stays broken is warned of once. Looking costs two system calls; being told by the
// system would need another way for every file system it does not work on.
func (g *given) watch(ctx context.Context, every time.Duration) {
	if len(g.pairs) == 0 {
		return
	}
	judged := make([]stamp, len(g.pairs))
	for i, c := range g.all() {
		judged[i] = c.seen
	}
	last := slices.Clone(judged)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for i, p := range g.pairs {
			now := p.stamp()
			if now != judged[i] && now == last[i] {
				judged[i] = now
				g.reload(i)
			}
			last[i] = now
		}
	}
}

// reload reads pair i again.
func (g *given) reload(i int) {
	c, err := loadPair(g.pairs[i])
	if err != nil {
		g.log.Warn("a certificate was changed but can't be used: the one read before stays in place", "cert", g.pairs[i].Cert, "key", g.pairs[i].Key, "error", err)
		return
	}
	g.mu.Lock()
	changed := !slices.EqualFunc(g.mu.certs[i].Certificate.Certificate, c.Certificate.Certificate, slices.Equal)
	g.mu.certs[i] = c
	g.mu.Unlock()
	if changed {
		g.log.Info("certificate read again", "cert", g.pairs[i].Cert, "names", c.Leaf.DNSNames, "expires", c.Leaf.NotAfter)
	}
}
