package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
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

// Dialer dials nodes by TLS over TCP. The zero value trusts the system's roots.
type Dialer struct {
	Fingerprint string         // of the CA to trust (tunnel.Fingerprint), and no other
	Roots       *x509.CertPool // trusted when Fingerprint is empty; nil: the system's
	Timeout     time.Duration  // for connecting and for the TLS handshake together; default 10 s
}

// Dial connects to a node at host:port and authenticates it. Its caller owns the
// connection.
func (d *Dialer) Dial(ctx context.Context, address string) (*Conn, error) {
	timeout := d.Timeout
	if timeout <= 0 {
		timeout = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	raw, err := (&net.Dialer{KeepAliveConfig: keepAlive}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err // *net.OpError names action and address
	}
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
