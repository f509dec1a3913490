package agent

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/splice"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Terminator ends visitors' TLS at the agent, with the user's own certificate: the
// server passes their bytes through and can't read them. The files are read again when
// they change; what can't be read then leaves the old in force.
type Terminator struct {
	ACME              *ACME // instead of files: see Config.Certify
	CertFile, KeyFile string
	HTTP              bool   // what is inside is HTTP: see web
	ClientCAFile      string // visitors must show a certificate of one of these CAs; empty: none is asked for

	mu struct {
		sync.Mutex
		config       *tls.Config
		served       string       // fingerprint of the certificate in CertFile
		certificates Certificates // of ACME, once the endpoint is online
		read         []time.Time  // when the files had changed last, as of config
		checked      time.Time
	}
}

// ErrNoCA says that a file of CAs holds none.
var ErrNoCA = errors.New("the file holds no certificate (PEM)")

// recheck is how often the files are looked at, at most.
const recheck = time.Second

// Load reads the files for the first time.
func (t *Terminator) Load() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.loadLocked(t.changed())
}

// changed says when each file changed last.
func (t *Terminator) changed() []time.Time {
	var times []time.Time
	for _, path := range []string{t.CertFile, t.KeyFile, t.ClientCAFile} {
		var at time.Time
		if info, err := os.Stat(path); path != "" && err == nil {
			at = info.ModTime()
		}
		times = append(times, at)
	}
	return times
}

func (t *Terminator) loadLocked(read []time.Time) error {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.ACME != nil {
		cfg.GetCertificate = t.certificate
	} else {
		cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return fmt.Errorf("read certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{cert}
		t.mu.served = fingerprint(&cert)
	}
	if t.ClientCAFile != "" {
		pem, err := os.ReadFile(t.ClientCAFile)
		if err != nil {
			return fmt.Errorf("read client CA: %w", err)
		}
		cfg.ClientCAs, cfg.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !cfg.ClientCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("read client CA %s: %w", t.ClientCAFile, ErrNoCA)
		}
	}
	t.mu.config, t.mu.read, t.mu.checked = cfg, read, time.Now()
	return nil
}

// ACME says how to get a certificate by RFC 8555. Whoever asks for one agrees to the
// CA's terms.
type ACME struct {
	Email  string // for the account; may be empty
	CA     string // URL of the directory; default Let's Encrypt
	CARoot string // file with the roots to trust when speaking to the CA; default the system's
}

// challengeALPN is the protocol by which a CA validates a name (RFC 8737).
const challengeALPN = "acme-tls/1"

var errNotOnline = errors.New("the endpoint is not online yet")

// Certificates has the certificate of one host.
type Certificates struct {
	// Get is for a visitor, or for a CA that validates.
	Get func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Current is what visitors are shown now; nil: there is none yet.
	Current func() *tls.Certificate
}

func (t *Terminator) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	t.mu.Lock()
	get := t.mu.certificates.Get
	t.mu.Unlock()
	if get == nil {
		return nil, errNotOnline
	}
	return get(hello)
}

// Fingerprint is the SHA-256 of the certificate that visitors are shown, in hexadecimal.
// Whoever sees the same at the public address knows that nobody between reads along.
// Empty: there is none yet.
func (t *Terminator) Fingerprint() string {
	if t == nil {
		return ""
	}
	t.mu.Lock()
	served, current := t.mu.served, t.mu.certificates.Current
	t.mu.Unlock()
	if current != nil {
		if c := current(); c != nil {
			return fingerprint(c)
		}
	}
	return served
}

func fingerprint(c *tls.Certificate) string {
	sum := sha256.Sum256(c.Certificate[0])
	return hex.EncodeToString(sum[:])
}

// online begins to get the certificate for a URL's host, which its CA can reach now.
func (t *Terminator) online(publicURL string, certify func(string, ACME) Certificates) {
	if t == nil || t.ACME == nil || certify == nil {
		return
	}
	u, err := url.Parse(publicURL)
	if err != nil {
		return
	}
	certificates := certify(u.Hostname(), *t.ACME)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.certificates = certificates
}

// forChallenge is the configuration for a CA that validates: it shows no certificate.
func forChallenge(cfg *tls.Config) *tls.Config {
	cfg = cfg.Clone()
	if cfg.GetCertificate == nil {
		return cfg
	}
	challenge := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: cfg.GetCertificate, NextProtos: []string{challengeALPN}}
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Equal(hello.SupportedProtos, challenge.NextProtos) {
			return challenge, nil
		}
		return nil, nil //nolint:nilnil // that of all others
	}
	return cfg
}

// config returns the configuration of now. A new one ends what was resumable by the old:
// a client certificate is judged by the CAs that are in force.
func (t *Terminator) config(log *slog.Logger) *tls.Config {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.mu.checked) >= recheck {
		t.mu.checked = time.Now()
		if now := t.changed(); !equal(now, t.mu.read) {
			if err := t.loadLocked(now); err != nil {
				log.Warn("certificate not read again: the old one stays", "error", err)
			} else {
				log.Info("certificate read again", "file", t.CertFile)
			}
		}
	}
	return t.mu.config
}

func equal(a, b []time.Time) bool {
	for i := range a {
		if !a[i].Equal(b[i]) {
			return false
		}
	}
	return len(a) == len(b)
}

// serveTerminated serves a stream whose visitor's TLS ends here: the upstream gets what
// is inside. It is dialled only for who finished the handshake.
func (s *session) serveTerminated(ctx context.Context, st link.Stream, e *served, h *tunnel.StreamHeader) (splice.Counts, error) {
	if err := tunnel.Write(st, &tunnel.StreamReply{}, tunnel.MaxHeader); err != nil {
		_ = st.Reset()
		return splice.Counts{}, err
	}
	c := tls.Server(st, forChallenge(e.upstream().Terminate.config(s.log)))
	limited, cancel := context.WithTimeout(ctx, dialTimeout)
	err := c.HandshakeContext(limited)
	cancel()
	if err != nil {
		_ = st.Close() // behind the alert that says why
		return splice.Counts{}, fmt.Errorf("TLS with the visitor: %w", err)
	}
	var up net.Conn
	if up, _, err = e.dial(ctx, tunnel.VisitorFrom(h)); err != nil {
		_ = st.Reset()
		return splice.Counts{}, err
	}
	return splice.Join(ctx, c, up, splice.Config{})
}
