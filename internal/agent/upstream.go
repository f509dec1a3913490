package agent

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/culvert-tunnel/culvert/internal/agent/files"
	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// Upstream is a local service.
type Upstream struct {
	Network string // tcp, udp, unix or unixgram
	Address string // host:port, or the path of a socket
	Ports   int    // how many consecutive ports, from that of Address on; 0 and 1: one
	// TLS is used to speak to the upstream; nil: none. Dial says what ALPN offers.
	TLS      *tls.Config
	Protocol string // for Spec.UpstreamProtocol
	// Files is a directory that is served in the place of a service; nil: none.
	Files *files.Server
	// Terminate ends visitors' TLS ahead of the upstream; nil: it is the upstream's.
	Terminate *Terminator
	// ProxyProtocol tells the upstream who the visitor is, ahead of TLS too.
	ProxyProtocol ProxyProtocol

	text string // as the user wrote it
}

// ErrBadUpstream says that an upstream can't be read.
var ErrBadUpstream = errors.New("bad upstream: write a port, host:port, http://…, https://…, h2c://…, unix:/path or file:DIR")

// dialTimeout bounds the dialling of an upstream, its TLS handshake included.
const dialTimeout = 10 * time.Second

// UpstreamTLS is what a user says of an upstream's certificate.
type UpstreamTLS struct {
	Roots      *x509.CertPool // nil: the system's
	ServerName string         // expected in the certificate; empty: the upstream's host
	Insecure   bool           // nothing is verified
}

// ParseUpstream reads an upstream as a user writes it: 3000, host:port, http://…,
// https://…, h2c://… or unix:/path. The last three with a scheme are for http
// endpoints. The certificate of https:// is verified by the rules of trust, which must
// be zero for all others.
func ParseUpstream(s string, trust UpstreamTLS) (Upstream, error) {
	u, err := parseUpstream(s)
	if err != nil {
		return Upstream{}, err
	}
	if u.TLS == nil {
		if trust != (UpstreamTLS{}) {
			return Upstream{}, fmt.Errorf("upstream %s has no certificate to verify: write https://…, or leave the settings of its TLS out", s)
		}
		return u, nil
	}
	u.TLS.RootCAs = trust.Roots
	u.TLS.InsecureSkipVerify = trust.Insecure
	if trust.ServerName != "" {
		u.TLS.ServerName = trust.ServerName
	}
	return u, nil
}

func parseUpstream(s string) (Upstream, error) {
	u := Upstream{Network: "tcp", text: s}
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if path == "" {
			return Upstream{}, fmt.Errorf("%q: %w", s, ErrBadUpstream)
		}
		u.Network, u.Address = "unix", strings.TrimPrefix(path, "//")
		return u, nil
	}
	if dir, ok := strings.CutPrefix(s, "file:"); ok {
		var err error
		u.Network = "file"
		u.Files, err = files.New(strings.TrimPrefix(dir, "//"))
		return u, err
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
		u.Protocol = endpoint.ALPN
		u.TLS = &tls.Config{
			MinVersion: tls.VersionTLS12, ServerName: at.Hostname(), ClientSessionCache: tls.NewLRUClientSessionCache(16),
		}
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
	first, last, isRange := strings.Cut(p, "-")
	n, err := strconv.ParseUint(first, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("%q: %w", u.text, ErrBadUpstream)
	}
	if isRange {
		end, err := strconv.ParseUint(last, 10, 16)
		if err != nil || end < n || u.TLS != nil || u.Protocol != "" || port != "" {
			return fmt.Errorf("%q: %w; several ports, such as 3000-3010, are for tcp and udp endpoints", u.text, ErrBadUpstream)
		}
		u.Ports = int(end-n) + 1 //nolint:gosec // below 65536
	}
	if host == "" {
		host = "localhost"
	}
	u.Address = net.JoinHostPort(host, first)
	return nil
}

// ForDatagrams is the upstream of a udp endpoint.
func (u Upstream) ForDatagrams() Upstream {
	if u.Network == "unix" {
		u.Network = "unixgram"
	} else {
		u.Network = "udp"
	}
	return u
}

// address of the upstream for a visitor who came to one of several ports.
func (u Upstream) address(v endpoint.Visitor) (string, error) {
	if u.Ports <= 1 {
		return u.Address, nil
	}
	host, p, err := net.SplitHostPort(u.Address)
	if err != nil {
		return "", err
	}
	first, err := strconv.Atoi(p)
	if err != nil || int(v.PortOffset) >= u.Ports {
		return "", fmt.Errorf("visitor at port %d of %d: %w", v.PortOffset, u.Ports, ErrBadUpstream)
	}
	return net.JoinHostPort(host, strconv.Itoa(first+int(v.PortOffset))), nil
}

func (u Upstream) String() string { return u.text }

// Names of ALPN (RFC 7301, section 6).
const (
	http1 = "http/1.1"
	http2 = "h2"
)

// errTLS is what every failed handshake wraps.
var errTLS = errors.New("TLS with the upstream")

var errNoAbstractNames = errors.New("only on Linux do udp endpoints reach unix sockets")

var errNotH2 = errors.New("it does not speak " + http2)

// Dial connects to the upstream for a visitor. An upstream behind TLS is offered the
// visitor's protocol, and the one it took is returned.
func (u Upstream) Dial(ctx context.Context, v endpoint.Visitor) (c net.Conn, alpn string, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if u.Files != nil {
		c, err = u.Files.Dial(ctx)
		return c, "", err
	}
	address, err := u.address(v)
	if err != nil {
		return nil, "", err
	}
	dialer := &net.Dialer{}
	if u.Network == "unixgram" {
		if runtime.GOOS != "linux" {
			return nil, "", errNoAbstractNames
		}
		// Answers need a name to go to. An abstract one leaves no file behind.
		dialer.LocalAddr = &net.UnixAddr{Net: u.Network, Name: "@culvert-" + rand.Text()}
	}
	c, err = dialer.DialContext(ctx, u.Network, address)
	if err == nil {
		if err = u.ProxyProtocol.introduce(c, v); err != nil {
			_ = c.Close()
			return nil, "", err
		}
	}
	if err != nil || u.TLS == nil {
		return c, "", err
	}
	cfg := u.TLS.Clone()
	switch v.Protocol {
	case http2:
		cfg.NextProtos = []string{http2}
	case endpoint.AnyProtocol:
		cfg.NextProtos = []string{http2, http1}
	default:
		cfg.NextProtos = []string{http1}
	}
	t := tls.Client(c, cfg)
	err = t.HandshakeContext(ctx)
	alpn = t.ConnectionState().NegotiatedProtocol
	if err == nil && v.Protocol == http2 && alpn != http2 {
		err = errNotH2 // no ALPN at all
	}
	if err != nil {
		_ = c.Close()
		return nil, "", fmt.Errorf("%w at %s: %w", errTLS, u.Address, err)
	}
	return t, alpn, nil
}

func isRefused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
}
