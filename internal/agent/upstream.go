package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// Upstream is a local service.
type Upstream struct {
	Network string // tcp or unix
	Address string // host:port, or the path of a socket
	// TLS is used to speak to the upstream; nil: none. Its certificate is verified.
	TLS      *tls.Config
	Protocol string // for Spec.UpstreamProtocol
	text     string // as the user wrote it
}

// ErrBadUpstream says that an upstream can't be read.
var ErrBadUpstream = errors.New("bad upstream: write a port, host:port, http://…, https://…, h2c://… or unix:/path")

// dialTimeout bounds the dialling of an upstream, its TLS handshake included.
const dialTimeout = 10 * time.Second

// ParseUpstream reads an upstream as a user writes it: 3000, host:port, http://…,
// https://…, h2c://… or unix:/path. The last three with a scheme are for http
// endpoints. A nil roots trusts the system's.
func ParseUpstream(s string, roots *x509.CertPool) (Upstream, error) {
	u := Upstream{Network: "tcp", text: s}
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if path == "" {
			return Upstream{}, fmt.Errorf("%q: %w", s, ErrBadUpstream)
		}
		u.Network, u.Address = "unix", strings.TrimPrefix(path, "//")
		return u, nil
	}
	if !strings.Contains(s, "://") {
		if !strings.Contains(s, ":") {
			s = "localhost:" + s
		}
		return u, u.setAddress(s, "")
	}
	at, err := url.Parse(s)
	if err != nil || at.User != nil || at.RawQuery != "" || at.Fragment != "" || (at.Path != "" && at.Path != "/") {
		return Upstream{}, fmt.Errorf("%q: %w, with no path", s, ErrBadUpstream)
	}
	port := "80"
	switch at.Scheme {
	case "http":
	case "h2c":
		u.Protocol = endpoint.H2C
	case "https":
		port = "443"
		u.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: at.Hostname(), NextProtos: []string{"http/1.1"}, RootCAs: roots}
	default:
		return Upstream{}, fmt.Errorf("%q: %w", s, ErrBadUpstream)
	}
	return u, u.setAddress(at.Host, port)
}

// setAddress checks and sets host:port, with a port to use if there is none.
func (u *Upstream) setAddress(hostport, port string) error {
	host, p, err := net.SplitHostPort(hostport)
	if err != nil && port != "" {
		host, p, err = net.SplitHostPort(net.JoinHostPort(strings.Trim(hostport, "[]"), port))
	}
	if err != nil {
		return fmt.Errorf("%q: %w", u.text, ErrBadUpstream)
	}
	if p == "" {
		p = port
	}
	if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q: %w", u.text, ErrBadUpstream)
	}
	if host == "" {
		host = "localhost"
	}
	u.Address = net.JoinHostPort(host, p)
	return nil
}

func (u Upstream) String() string { return u.text }

// Dial connects to the upstream.
func (u Upstream) Dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, u.Network, u.Address)
	if err != nil || u.TLS == nil {
		return c, err
	}
	t := tls.Client(c, u.TLS)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("TLS with %s: %w", u.Address, err)
	}
	return t, nil
}

func isRefused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
}

func isTLS(err error) bool {
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	return errors.As(err, &verify) || errors.As(err, &record) || errors.As(err, &alert)
}
