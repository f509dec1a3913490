package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// NodeName is the name in the link certificate that a node's own CA signs. A node
// on its own CA may be reached by any address, so agents that pin that CA look
// for this name and not for the address they dialled.
const NodeName = "node.culvert.internal"

// Errors of Dial besides those of the network. ErrWrongNode and
// *tls.CertificateVerificationError are errors of trust (Untrusted); time heals the
// others.
var (
	ErrWrongNode = errors.New("the server's certificate is not signed by the CA in the token")
	ErrExpired   = errors.New("the server's certificate has expired or is not valid yet: renew it, or set this machine's clock")
	ErrNotANode  = errors.New("what answers there is no Culvert server: check the server's address and port")
	ErrNoAnswer  = errors.New("the server accepts connections but does not answer: check the server's address and port")
)

// Dialer dials nodes. The zero value trusts the system's roots, and tries one transport
// after the other.
type Dialer struct {
	Fingerprint string         // of the CA to trust (tunnel.Fingerprint), and no other
	Roots       *x509.CertPool // trusted when Fingerprint is empty; nil: the system's
	Timeout     time.Duration  // for connecting and for the TLS handshake together; default 10 s
	Resolver    *net.Resolver  // nil: the system's
	// Proxy is the way to an address that is not the direct one; nil, or a nil URL: there
	// is none.
	Proxy     func(address string) (*url.URL, error)
	Transport Transport // empty: Auto
	// Last says by which transport an address was reached, and Worked is told; nil: nobody
	// remembers.
	Last   func(address string) Transport
	Worked func(address string, by Transport)
}

// Dial connects to a node at host:port and authenticates it. Its caller owns the
// connection.
func (d *Dialer) Dial(ctx context.Context, address string) (Conn, error) {
	ctx, cancel := d.limit(ctx)
	defer cancel()
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	return d.dial(ctx, host, address)
}

func (d *Dialer) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	timeout := d.Timeout
	if timeout <= 0 {
		timeout = 10 * time.Second
	}
	return context.WithTimeout(ctx, timeout)
}

// overTCP dials by TLS over TCP.
func (d *Dialer) overTCP(ctx context.Context, host, address string) (*tlsConn, error) {
	raw, err := d.connect(ctx, address)
	if err != nil {
		return nil, err
	}
	return d.authenticate(ctx, raw, host, address)
}

// authenticate makes the TLS handshake of a link, whatever carries it.
func (d *Dialer) authenticate(ctx context.Context, raw net.Conn, host, address string) (*tlsConn, error) {
	conn, err := secure(ctx, raw, nil, tls.Client, d.config(host))
	if err != nil {
		return nil, fmt.Errorf("authenticate %s: %w", address, classify(ctx, err))
	}
	if conn.ConnectionState().NegotiatedProtocol != tunnel.ALPN {
		_ = conn.Close()
		return nil, fmt.Errorf("authenticate %s: %w", address, ErrNotANode)
	}
	return conn, nil
}

// DialPeer connects to another node at host:port and authenticates both sides as cfg says.
func DialPeer(ctx context.Context, address string, cfg *tls.Config) (Conn, error) {
	raw, err := (&net.Dialer{KeepAliveConfig: keepAlive}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err // *net.OpError names action and address
	}
	conn, err := secure(ctx, raw, nil, tls.Client, cfg)
	if err != nil {
		return nil, fmt.Errorf("authenticate %s: %w", address, err)
	}
	return conn, nil
}

// DialPinned connects to a node at host:port whose CA has that fingerprint, to speak what
// alpn names, without a certificate of one's own.
func DialPinned(ctx context.Context, address, fingerprint, alpn string) (Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	cfg := (&Dialer{Fingerprint: fingerprint}).config(host)
	cfg.NextProtos = []string{alpn}
	return DialPeer(ctx, address, cfg)
}

// Visit connects to the node at host:port as a visitor of name does, who trusts what
// the agent trusts. It is for looking at oneself from the outside.
func (d *Dialer) Visit(ctx context.Context, address, name string) (net.Conn, error) {
	cfg := d.config(name)
	cfg.NextProtos, cfg.MinVersion = []string{"http/1.1"}, tls.VersionTLS12
	raw, err := d.connect(ctx, address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return conn, nil
}

// classify says what a failed TLS handshake means.
func classify(ctx context.Context, err error) error {
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	var op *net.OpError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("%w: %w", ErrExpired, err)
	case errors.As(err, &record), errors.As(err, &op) && op.Op == "remote error": // no TLS, or an alert
		return fmt.Errorf("%w: %w", ErrNotANode, err)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return ErrNoAnswer
	}
	return err
}

// keepAlive lets the kernel find a dead peer even while Yamux is silent.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}

func (d *Dialer) config(host string) *tls.Config {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{tunnel.ALPN},
		ServerName: host,
		RootCAs:    d.Roots,
		// Records grow to 16 KiB at once: a link carries bulk.
		DynamicRecordSizingDisabled: true,
	}
	if d.Fingerprint != "" {
		cfg.NextProtos = append(cfg.NextProtos, PinALPN(d.Fingerprint))
		// Go's own verification knows no pinned CA; VerifyConnection does all of it
		// instead, on every connection.
		cfg.InsecureSkipVerify = true
		cfg.VerifyConnection = func(state tls.ConnectionState) error {
			return verifyPinned(state.PeerCertificates, d.Fingerprint, host)
		}
	}
	return cfg
}

// verifyPinned accepts a chain that leads to the CA with that fingerprint, for
// the name of a node on its own CA or for the host that was dialled.
func verifyPinned(chain []*x509.Certificate, fingerprint, host string) error {
	if len(chain) == 0 {
		return ErrWrongNode
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	found := false
	for _, c := range chain[1:] {
		if c.IsCA && tunnel.Fingerprint(c) == fingerprint {
			roots.AddCert(c)
			found = true
		} else {
			between.AddCert(c)
		}
	}
	if !found {
		return ErrWrongNode
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: between}
	var invalid x509.CertificateInvalidError
	if _, err := chain[0].Verify(opts); errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return err
	} else if err != nil {
		return fmt.Errorf("%w: %w", ErrWrongNode, err)
	}
	if chain[0].VerifyHostname(NodeName) == nil || chain[0].VerifyHostname(host) == nil {
		return nil
	}
	return fmt.Errorf("%w: it is for another name than %s", ErrWrongNode, host)
}

// Untrusted reports whether err, from Dial, says that the server is not the one
// the agent may trust.
func Untrusted(err error) bool {
	var verify *tls.CertificateVerificationError
	if errors.Is(err, ErrExpired) {
		return false
	}
	return errors.Is(err, ErrWrongNode) || errors.As(err, &verify)
}

// ServerConfig is the TLS configuration of a node for links.
func ServerConfig(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		NextProtos:                  []string{tunnel.ALPN},
		GetCertificate:              certificate,
		DynamicRecordSizingDisabled: true,
	}
}

// PinALPN is the protocol that a dialler offers, besides that of links, to say that it
// trusts the CA with this fingerprint and no other. A node that has several
// certificates shows the one of that CA. TLS has an extension for this
// (certificate_authorities; RFC 8446, section 4.2.4), which crypto/tls doesn't send.
func PinALPN(fingerprint string) string { return "culvert-ca/" + fingerprint }
