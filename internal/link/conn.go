package link

import (
	"context"
	"crypto/tls"
	"net"
	"time"
)

// Conn is an authenticated connection between agent and node, ready for the handshake
// messages and then for a Link.
type Conn interface {
	net.Conn
	CloseWrite() error
	ConnectionState() tls.ConnectionState
	Transport() Transport // that it was dialled by; empty: it was accepted
}

// tlsConn is TLS over a socket, or something like it.
type tlsConn struct {
	*tls.Conn
	by    Transport
	below *records
}

// Transport implements Conn.
func (c *tlsConn) Transport() Transport { return c.by }

// secure puts TLS on a connection, from which prefix was read already, and
// authenticates both sides as cfg says. It closes c when that fails.
func secure(ctx context.Context, c net.Conn, prefix []byte, side func(net.Conn, *tls.Config) *tls.Conn, cfg *tls.Config) (*tlsConn, error) {
	below := newRecords(c, prefix)
	conn := &tlsConn{Conn: side(below, cfg), below: below}
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, err
	}
	return conn, nil
}

// Accept authenticates this node to the agent at the other end of c, from which
// prefix, the ClientHello, was read already. It takes over both, and closes c when
// the handshake fails or takes longer than the timeout.
func Accept(ctx context.Context, c net.Conn, prefix []byte, cfg *tls.Config, timeout time.Duration) (Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := secure(ctx, c, prefix, tls.Server, cfg)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// gathered is a tlsConn over something else than a socket, such as a WebSocket: all records of
// a Write are passed on together, as one message.
type gathered struct{ *tlsConn }

func (g gathered) Write(p []byte) (int, error) {
	g.below.collect(true)
	n, err := g.tlsConn.Write(p)
	g.below.collect(false)
	if passed := g.below.pass(); err == nil {
		err = passed
	}
	return n, err
}

// Close ends the connection at once, as that of secured does.
func (g gathered) Close() error { return g.below.Close() }

// forStreams returns a connection as the multiplexer is to use it.
func forStreams(conn net.Conn) net.Conn {
	if c, ok := conn.(*tlsConn); ok && c.below.socket != nil {
		return batched{c}
	}
	return conn
}

// batched is a tlsConn as the multiplexer uses it: writes are encrypted and collected
// until Flush. It implements yamux.BufferedConn.
type batched struct{ *tlsConn }

func (b batched) Write(p []byte) (int, error) {
	b.below.collect(true)
	n, err := b.tlsConn.Write(p)
	b.below.collect(false)
	return n, err
}

// Flush implements yamux.BufferedConn.
func (b batched) Flush(wait bool) (int, bool, error) { return b.below.flush(wait) }

// Ready implements yamux.BufferedConn.
func (b batched) Ready() bool { return b.below.ready() }

// Joins implements yamux.BufferedConn: each write becomes a record of its own.
func (b batched) Joins() bool { return false }
