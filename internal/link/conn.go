package link

import (
	"context"
	"crypto/tls"
	"net"
	"time"
)

// Conn is an authenticated TLS connection between agent and node, ready for the
// handshake messages and then for a Link.
type Conn struct {
	*tls.Conn
	below *records
}

// secure puts TLS on a connection, from which prefix was read already, and
// authenticates both sides as cfg says. It closes c when that fails.
func secure(ctx context.Context, c net.Conn, prefix []byte, side func(net.Conn, *tls.Config) *tls.Conn, cfg *tls.Config) (*Conn, error) {
	below := newRecords(c, prefix)
	conn := &Conn{Conn: side(below, cfg), below: below}
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, err
	}
	return conn, nil
}

// Accept authenticates this node to the agent at the other end of c, from which
// prefix, the ClientHello, was read already. It takes over both, and closes c when
// the handshake fails or takes longer than the timeout.
func Accept(ctx context.Context, c net.Conn, prefix []byte, cfg *tls.Config, timeout time.Duration) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return secure(ctx, c, prefix, tls.Server, cfg)
}

// forStreams returns a connection as the multiplexer is to use it.
func forStreams(conn net.Conn) net.Conn {
	if c, ok := conn.(*Conn); ok && c.below.socket != nil {
		return batched{c}
	}
	return conn
}

// batched is a Conn as the multiplexer uses it: writes are encrypted and collected
// until Flush. It implements yamux.BufferedConn.
type batched struct{ *Conn }

func (b batched) Write(p []byte) (int, error) {
	b.below.collect(true)
	n, err := b.Conn.Write(p)
	b.below.collect(false)
	return n, err
}

// Flush implements yamux.BufferedConn.
func (b batched) Flush(wait bool) (int, bool, error) { return b.below.flush(wait) }

// Ready says whether a whole record is there, whatever TLS itself holds.
func (b batched) Ready() bool { return b.below.buffered() >= maxRecord }
