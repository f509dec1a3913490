package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Errors of links by QUIC.
var (
	ErrNoQUIC      = errors.New("nothing answers by QUIC: UDP does not pass, or the server takes no links by it")
	ErrQUICProxied = errors.New("links by QUIC don't pass proxies: choose another transport, or except the server with NO_PROXY")
)

// AgainALPN is what a node picks for a link that comes to a port which visitors use too: it
// has made room for one from this address now, and the agent is to dial again from there.
// What a QUIC connection may send is settled before its ALPN is known, and visitors may
// send less.
const AgainALPN = "culvert-again/1"

// Windows of a QUIC link in bytes, on both sides. What its streams hold unread together is
// bounded by that of the connection, and so is what stalled streams may hold before the
// others stall with them.
const (
	quicWindow     = 256 << 10 // of a stream, at first
	quicMaxWindow  = 8 << 20   // likewise, when it is used up fast
	quicConnection = 128 << 20
)

// quicIdle is far beyond what liveness allows, which is the link's own (quicSession.watch).
const quicIdle = 10 * time.Minute

func quicConfig(incoming int64, handshake time.Duration) *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:             handshake,
		MaxIdleTimeout:                   quicIdle,
		MaxIncomingStreams:               incoming,
		MaxIncomingUniStreams:            -1,
		InitialStreamReceiveWindow:       quicWindow,
		MaxStreamReceiveWindow:           quicMaxWindow,
		InitialConnectionReceiveWindow:   quicConnection,
		MaxConnectionReceiveWindow:       quicConnection,
		EnableDatagrams:                  true,
		EnableStreamResetPartialDelivery: true, // a reset comes behind what was written
	}
}

// QUICConfig is that of a node for links.
func QUICConfig(handshake time.Duration) *quic.Config { return quicConfig(ofAgent, handshake) }

// quicConn is a QUIC connection whose first stream carries the handshake messages.
type quicConn struct {
	*quic.Stream
	conn  *quic.Conn
	by    Transport
	paths *quicPaths // of the side that dialled
	said  atomic.Bool
}

// LocalAddr implements net.Conn.
func (c *quicConn) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *quicConn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// Transport implements Conn.
func (c *quicConn) Transport() Transport { return c.by }

// ConnectionState implements Conn.
func (c *quicConn) ConnectionState() tls.ConnectionState { return c.conn.ConnectionState().TLS }

// CloseWrite implements Conn.
func (c *quicConn) CloseWrite() error {
	c.said.Store(true)
	return c.Stream.Close()
}

// lastWords is how long the other side has to hear what was said before Close: the end of a
// QUIC connection drops what was not acknowledged.
const lastWords = time.Second

// Close ends the connection. After CloseWrite it waits until the other side has ended it,
// for lastWords at most.
func (c *quicConn) Close() error {
	if c.said.Load() {
		select {
		case <-c.conn.Context().Done():
		case <-time.After(lastWords):
		}
	}
	err := c.conn.CloseWithError(quicClosed, "")
	if c.paths != nil {
		c.paths.close()
	}
	return err
}

// Codes that end connections and streams.
const (
	quicClosed quic.ApplicationErrorCode = 0
	quicDone   quic.StreamErrorCode      = 0 // what still comes is not wanted
	quicReset  quic.StreamErrorCode      = 1
)

// AcceptQUIC takes the connection of a link, on which the handshake of TLS is done, and
// waits for the agent's first stream. It takes it over.
func AcceptQUIC(ctx context.Context, q *quic.Conn, timeout time.Duration) (Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	st, err := q.AcceptStream(ctx)
	if err != nil {
		_ = q.CloseWithError(quicClosed, "")
		return nil, err
	}
	return &quicConn{Stream: st, conn: q}, nil
}

// quicSilence ends an attempt to dial.
const quicSilence = 2 * time.Second

// quicAttempts is how often a node may ask for another attempt.
const quicAttempts = 4

// overQUIC dials by QUIC, to one address of the node after the other.
func (d *Dialer) overQUIC(ctx context.Context, host, address string) (Conn, error) {
	if d.Proxy != nil {
		if via, err := d.Proxy(address); via != nil || err != nil {
			return nil, fmt.Errorf("dial %s by QUIC: %w", address, errors.Join(ErrQUICProxied, err))
		}
	}
	addresses, err := d.resolve(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("dial %s by QUIC: %w", address, err)
	}
	attempts := make([]func(context.Context) (Conn, error), len(addresses))
	for i, a := range addresses {
		attempts[i] = func(ctx context.Context) (Conn, error) { return d.dialQUIC(ctx, host, a) }
	}
	conn, errs := race(ctx, attempts, func(int) time.Duration { return stagger }, nil)
	if conn == nil {
		return nil, fmt.Errorf("dial %s by QUIC: %w", address, errs[0])
	}
	return conn, nil
}

// resolve finds the addresses of a node, those of one family and the other by turns (RFC
// 8305, section 4).
func (d *Dialer) resolve(ctx context.Context, address string) ([]netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	resolver := d.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	port, err := resolver.LookupPort(ctx, "udp", service)
	if err != nil {
		return nil, err
	}
	found, err := resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var v4, v6, all []netip.AddrPort
	for _, ip := range found {
		a := netip.AddrPortFrom(ip.Unmap(), uint16(port)) //nolint:gosec // a port
		if a.Addr().Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	for i := range max(len(v4), len(v6)) {
		if i < len(v6) {
			all = append(all, v6[i])
		}
		if i < len(v4) {
			all = append(all, v4[i])
		}
	}
	return all, nil
}

// dialQUIC dials one address.
func (d *Dialer) dialQUIC(ctx context.Context, host string, to netip.AddrPort) (Conn, error) {
	cfg := d.config(host)
	cfg.NextProtos = append([]string{tunnel.ALPN, AgainALPN}, cfg.NextProtos[1:]...)
	paths, err := newQUICPaths(to)
	if err != nil {
		return nil, err
	}
	for range quicAttempts {
		var q *quic.Conn
		q, err = paths.first().Dial(ctx, net.UDPAddrFromAddrPort(to), cfg, quicConfig(ofNode, quicSilence))
		if err != nil {
			err = classifyQUIC(ctx, err)
			break
		}
		if q.ConnectionState().TLS.NegotiatedProtocol == AgainALPN {
			_ = q.CloseWithError(quicClosed, "")
			err = ErrNoAnswer
			continue
		}
		var st *quic.Stream
		if st, err = q.OpenStreamSync(ctx); err == nil {
			return &quicConn{Stream: st, conn: q, by: QUIC, paths: paths}, nil
		}
		_ = q.CloseWithError(quicClosed, "")
		break
	}
	paths.close()
	return nil, err
}

// classifyQUIC says what a failed handshake means.
func classifyQUIC(ctx context.Context, err error) error {
	var silent *quic.HandshakeTimeoutError
	var idle *quic.IdleTimeoutError
	var versions *quic.VersionNegotiationError
	var told *quic.TransportError
	switch {
	case errors.As(err, &silent), errors.As(err, &idle), errors.Is(ctx.Err(), context.DeadlineExceeded):
		return ErrNoQUIC
	case errors.As(err, &versions), errors.As(err, &told) && told.Remote && told.ErrorCode.IsCryptoError():
		return fmt.Errorf("%w: %w", ErrNotANode, err)
	}
	return classify(ctx, err)
}
