package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/culvert-tunnel/culvert/internal/server/zaplog"
)

// ACME says how to get certificates of a CA by RFC 8555. Without an Email there are
// none.
type ACME struct {
	Email      string   // for the account; by giving it the operator agrees to the CA's terms
	CA         string   // URL of the directory, or a name in directories; default Let's Encrypt
	CARoot     string   // file with the roots to trust when speaking to the CA; default the system's
	EABKeyID   string   // external account binding (RFC 8555, section 7.3.4)
	EABKeyFile string   // file with its key, base64url
	Challenges []string // which of HTTP01 and TLSALPN01 may be used; default both
	DNS        DNS      // DNS-01 for the domain and everything below it
}

// The challenges that visitors' ports answer.
const (
	HTTP01    = acme.ChallengeTypeHTTP01
	TLSALPN01 = acme.ChallengeTypeTLSALPN01
)

// directories are the CAs that can be written by name.
var directories = map[string]string{
	"letsencrypt":         certmagic.LetsEncryptProductionCA,
	"letsencrypt-staging": certmagic.LetsEncryptStagingCA,
}

// ErrACME says that the configuration of ACME can't be used.
var ErrACME = errors.New("ACME")

// maxOrders bounds the orders under way, so that a slow CA can't take everything. What
// is there already never waits for one of them.
const maxOrders = 16

// ocspWait is how long a certificate waits for an OCSP answer before it is shown.
const ocspWait = 3 * time.Second

// authority gets certificates of the CA, and keeps them.
type authority struct {
	cfg       Config
	directory string
	roots     *x509.CertPool
	eab       *acme.EAB
	provider  certmagic.DNSProvider // nil: no DNS-01
	storage   certmagic.Storage
	orders    *orders
	slots     chan struct{} // a place for each order under way
	log       *zap.Logger

	engine atomic.Pointer[engine] // nil before run; its certificates can be looked up after it
}

// engine is what runs: CertMagic with its cache, which renews what is in it.
type engine struct {
	cache    *certmagic.Cache
	web, dns *certmagic.Config // by challenge; dns is nil without a provider
	issuer   *certmagic.ACMEIssuer
}

func newAuthority(cfg Config) (*authority, error) {
	a := &authority{cfg: cfg, directory: cfg.ACME.CA, storage: cfg.Storage, slots: make(chan struct{}, maxOrders)}
	a.log = zap.New(zaplog.New(cfg.Logger, "acme: ", certMagicLevel))
	if u, ok := directories[a.directory]; ok || a.directory == "" {
		a.directory = u
	}
	if a.directory == "" {
		a.directory = certmagic.LetsEncryptProductionCA
	}
	if u, err := url.Parse(a.directory); err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%w: the CA is the https URL of its directory, letsencrypt or letsencrypt-staging, not %q", ErrACME, cfg.ACME.CA)
	}
	for _, c := range cfg.ACME.Challenges {
		if c != HTTP01 && c != TLSALPN01 {
			return nil, fmt.Errorf("%w: challenge %q is none of %s, %s (DNS-01 is configured by itself)", ErrACME, c, HTTP01, TLSALPN01)
		}
	}
	var err error
	if a.roots, err = readRoots(cfg.ACME.CARoot); err != nil {
		return nil, err
	}
	if a.eab, err = readEAB(cfg.ACME.EABKeyID, cfg.ACME.EABKeyFile); err != nil {
		return nil, err
	}
	if a.provider, err = newProvider(cfg.ACME.DNS); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrACME, err)
	}
	if a.storage == nil {
		a.storage = &certmagic.FileStorage{Path: filepath.Join(cfg.Dir, "acme")}
	}
	if a.directory == certmagic.LetsEncryptStagingCA {
		cfg.Logger.Warn("this CA is for trying out: no visitor trusts its certificates", "ca", a.directory)
	}
	a.orders = newOrders(cfg.Logger)
	a.orders.attempt, a.orders.drop, a.orders.failed = a.attempt, a.drop, a.failed
	a.orders.needed = a.needed
	return a, nil
}

// certMagicLevel is how much of CertMagic's log is for whom. Its steps are for debugging, and
// so are the errors of orders, which are returned too; what an operator must know of an
// order, this package says itself.
func certMagicLevel(e zapcore.Entry) (slog.Level, bool) {
	if e.Level >= zapcore.ErrorLevel && !strings.HasSuffix(e.LoggerName, "obtain") {
		return slog.LevelInfo, true
	}
	return slog.LevelDebug, true
}

func readRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // the system's
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: read the CA's root: %w", ErrACME, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%w: %s holds no certificate (PEM)", ErrACME, path)
	}
	return pool, nil
}

func readEAB(id, path string) (*acme.EAB, error) {
	if id == "" && path == "" {
		return nil, nil //nolint:nilnil // not needed
	}
	if id == "" || path == "" {
		return nil, fmt.Errorf("%w: the key id and the key file of an external account go together", ErrACME)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: read the external account's key: %w", ErrACME, err)
	}
	return &acme.EAB{KeyID: id, MACKey: strings.TrimSpace(string(b))}, nil
}

// Suffixes below which no public CA gives certificates (RFC 6761, 6762, 7686, 8375).
var privateSuffixes = []string{".localhost", ".local", ".internal", ".home.arpa", ".test", ".example", ".invalid", ".onion", ".lan"}

// knows reports whether the CA may give a certificate for a host. A CA with a root of
// its own is a private one, which may know private names.
func (a *authority) knows(host string) bool {
	if certmagic.SubjectIsIP(host) || !strings.Contains(host, ".") || strings.Contains(host, "_") || strings.HasSuffix(host, ".localhost") {
		return false
	}
	return a.roots != nil || !slices.ContainsFunc(privateSuffixes, func(s string) bool { return strings.HasSuffix(host, s) })
}

// subject is what a certificate for host is ordered for: the wildcard where DNS-01
// can have it.
func (a *authority) subject(host string) string {
	if _, parent, _ := strings.Cut(host, "."); a.provider != nil && parent == a.cfg.Domain {
		return "*." + parent
	}
	return host
}

// belongs reports whether a subject is the domain's own: the domain, the wildcard, or
// what is below them, for which DNS-01 works.
func (a *authority) belongs(subject string) bool {
	return subject == a.cfg.Domain || strings.HasSuffix(subject, "."+a.cfg.Domain)
}

// needed reports whether a subject is the node's own or an endpoint's.
func (a *authority) needed(subject string) bool {
	return subject == a.cfg.Domain || subject == "*."+a.cfg.Domain || a.cfg.Bound(subject)
}

// run gets and renews certificates until ctx ends. plain and secure are where
// visitors come in; nil: nowhere.
func (a *authority) run(ctx context.Context, plain, secure net.Addr) {
	e := &engine{}
	e.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(c certmagic.Certificate) (*certmagic.Config, error) {
			return e.config(a, c.Names[0]), nil
		},
		RenewCheckInterval: a.cfg.RenewEvery,
		Logger:             a.log,
	})
	defer e.stop()
	e.web, e.issuer = a.config(e.cache, plain, secure, nil)
	if a.provider != nil {
		e.dns, _ = a.config(e.cache, plain, secure, &certmagic.DNS01Solver{DNSManager: certmagic.DNSManager{
			DNSProvider: a.provider, Resolvers: a.cfg.ACME.DNS.Resolvers, Logger: a.log,
		}})
	}
	a.engine.Store(e)
	if a.knows(a.cfg.Domain) {
		_ = a.orders.want(a.cfg.Domain, true)
		if a.provider != nil {
			_ = a.orders.want("*."+a.cfg.Domain, true)
		}
	} else {
		a.cfg.Logger.Warn("the CA knows no such domain, so this server signs its certificate itself", "domain", a.cfg.Domain)
	}
	var cleaning sync.WaitGroup
	defer cleaning.Wait()
	cleaning.Go(func() { a.clean(ctx) })
	a.orders.run(ctx)
}

// clean removes from the storage what has expired long ago, once a day in all nodes
// together. Failing to harms nobody.
func (a *authority) clean(ctx context.Context) {
	const every, keep = 24 * time.Hour, 14 * 24 * time.Hour
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if err := certmagic.CleanStorage(ctx, a.storage, certmagic.CleanStorageOptions{
			Logger: a.log, Interval: every, OCSPStaples: true, ExpiredCerts: true, ExpiredCertGracePeriod: keep,
		}); err != nil && ctx.Err() == nil {
			a.cfg.Logger.Warn("remove expired certificates from the storage", "error", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// stop ends CertMagic's loop, and with it the renewals under way. It doesn't wait for
// long: the loop can't be cut off while it speaks to the CA.
func (e *engine) stop() {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		e.cache.Stop()
	}()
	select {
	case <-stopped:
	case <-time.After(time.Second):
	}
}

// load puts a stored certificate into the cache. CertMagic asks for an OCSP answer on
// the way, up to 30 s long and whatever became of ctx. A certificate doesn't wait for
// that: it is shown without the answer, which CertMagic adds within an hour.
func (e *engine) load(ctx context.Context, cfg *certmagic.Config, subject string) (certmagic.Certificate, error) {
	type result struct {
		certmagic.Certificate
		error
	}
	loaded := make(chan result, 1)
	go func() {
		c, err := cfg.CacheManagedCertificate(ctx, subject)
		loaded <- result{c, err}
	}()
	select {
	case r := <-loaded:
		return r.Certificate, r.error
	case <-ctx.Done():
		return certmagic.Certificate{}, ctx.Err()
	case <-time.After(ocspWait):
	}
	bare := *cfg
	bare.OCSP.DisableStapling = true
	return bare.CacheManagedCertificate(ctx, subject)
}

func (e *engine) config(a *authority, subject string) *certmagic.Config {
	if e.dns != nil && a.belongs(subject) {
		return e.dns
	}
	return e.web
}

// config makes a configuration of CertMagic. Every field that it would fill from its
// globals is set.
func (a *authority) config(cache *certmagic.Cache, plain, secure net.Addr, dns *certmagic.DNS01Solver) (*certmagic.Config, *certmagic.ACMEIssuer) {
	cfg := certmagic.New(cache, certmagic.Config{
		Storage: a.storage, Logger: a.log, OnEvent: a.event,
		KeySource: certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		Issuers:   []certmagic.Issuer{},                                       // see below
		OCSP:      certmagic.OCSPConfig{HTTPProxy: http.ProxyFromEnvironment}, // without it, there is no time limit
	})
	may := func(challenge string, at net.Addr) bool {
		return at != nil && (len(a.cfg.ACME.Challenges) == 0 || slices.Contains(a.cfg.ACME.Challenges, challenge))
	}
	template := certmagic.ACMEIssuer{
		CA: a.directory, Email: a.cfg.ACME.Email, Agreed: true,
		ExternalAccount: a.eab, TrustedRoots: a.roots, Logger: a.log,
		DisableHTTPChallenge: !may(HTTP01, plain), DisableTLSALPNChallenge: !may(TLSALPN01, secure),
		CertObtainTimeout: 2 * time.Minute,
	}
	// CertMagic listens itself where nobody does. Somebody does here: the edge.
	p, hasPlain := plain.(*net.TCPAddr)
	s, hasSecure := secure.(*net.TCPAddr)
	if hasPlain {
		template.AltHTTPPort = p.Port
	}
	if hasSecure {
		template.AltTLSALPNPort = s.Port
	}
	if hasPlain && hasSecure && p.IP.Equal(s.IP) && !p.IP.IsUnspecified() {
		template.ListenHost = p.IP.String()
	}
	if dns != nil {
		template.DNS01Solver = dns
	}
	issuer := certmagic.NewACMEIssuer(cfg, template)
	cfg.Issuers = []certmagic.Issuer{issuer}
	return cfg, issuer
}

// attempt loads a certificate from the storage, or orders it.
func (a *authority) attempt(ctx context.Context, subject string) error {
	e := a.engine.Load()
	cfg := e.config(a, subject)
	old, err := e.load(ctx, cfg, subject)
	have := err == nil
	if have && !old.Expired() {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the stored certificate: %w", err)
	}
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if !a.needed(subject) {
		return errNotNeeded
	}
	if have {
		err = cfg.RenewCertSync(ctx, subject, false)
	} else {
		err = cfg.ObtainCertSync(ctx, subject)
	}
	if err != nil {
		return err
	}
	if _, err := e.load(ctx, cfg, subject); err != nil {
		return fmt.Errorf("read the stored certificate: %w", err)
	}
	if have {
		e.cache.Remove([]string{old.Hash()})
	}
	return nil
}

func (a *authority) drop(subject string) {
	if e := a.engine.Load(); e != nil {
		e.cache.RemoveManaged([]certmagic.SubjectIssuer{{Subject: subject}})
	}
}

// event hears of what CertMagic does by itself, renewals that is.
func (a *authority) event(_ context.Context, event string, data map[string]any) error {
	subject, _ := data["identifier"].(string)
	renewal, _ := data["renewal"].(bool)
	switch event {
	case "cert_obtained":
		a.cfg.Logger.Info("certificate obtained", "host", subject, "renewal", renewal)
	case "cert_failed":
		if err, ok := data["error"].(error); ok && renewal {
			a.cfg.Logger.Warn("certificate not renewed", "host", subject, "error", err)
			a.failed(subject, err)
		}
	}
	return nil
}

func (a *authority) failed(subject string, err error) {
	if a.cfg.Failed != nil {
		a.cfg.Failed(subject, reason(err))
	}
}

// reason is what an agent's user may know of an error: the CA's own words on the
// name, but nothing of this server's inside.
func reason(err error) string {
	var problem acme.Problem
	var network net.Error
	switch {
	case errors.As(err, &problem):
	case errors.As(err, &network), errors.Is(err, context.DeadlineExceeded):
		return "the certificate authority can't be reached, or doesn't answer"
	default:
		return "the server's operator finds the reason in its log"
	}
	for _, sub := range problem.Subproblems {
		if sub.Detail != "" {
			return sub.Detail
		}
	}
	return problem.Detail
}

// bound says that an endpoint with this host exists now. It returns why it has no
// certificate if that is known by then.
func (a *authority) bound(host string) error { return a.orders.want(a.subject(host), false) }

// lookup returns the certificate for host that is in place, nil if there is none.
func (a *authority) lookup(host string) *tls.Certificate {
	e := a.engine.Load()
	if e == nil {
		return nil
	}
	var best *tls.Certificate
	for _, c := range e.cache.AllMatchingCertificates(host) {
		if c.Leaf == nil || c.Expired() || c.Leaf.VerifyHostname(host) != nil {
			continue
		}
		if best == nil || c.Leaf.NotAfter.After(best.Leaf.NotAfter) {
			best = &c.Certificate
		}
	}
	return best
}

// await is lookup for a visitor of an endpoint: it waits for the first order.
func (a *authority) await(ctx context.Context, host string) *tls.Certificate {
	a.orders.wait(ctx, a.subject(host))
	return a.lookup(host)
}

// given reports whether anything but the email address is set.
func (c ACME) given() bool {
	return c.CA != "" || c.CARoot != "" || c.EABKeyID != "" || c.EABKeyFile != "" || len(c.Challenges) > 0 ||
		c.DNS.Server != "" || c.DNS.KeyFile != "" || len(c.DNS.Exec) > 0 || len(c.DNS.Resolvers) > 0
}
