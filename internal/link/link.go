// Package link owns the connection between agent and node: dialling it, trusting
// it, and carrying streams over it. It stands below server/session and agent in
// the walk; nothing above it knows which multiplexer or transport is in use, and
// it knows nothing of the messages that streams carry.
package link

import (
	"context"
	"io"
	"net"
	"time"
)

// Stream is one bidirectional byte stream of a link. Close after a clean end in
// both directions releases it; Reset ends it at once and the other side sees
// ECONNRESET, behind what was written before. Read returns io.EOF only for the other
// side's CloseWrite, never for the end of the link.
type Stream interface {
	net.Conn
	CloseWrite() error
	Reset() error
}

// Config of a link. The zero value works.
type Config struct {
	Heartbeat time.Duration // silence after which the other side is asked for life; default 5 s
}

func (c Config) heartbeat() time.Duration {
	if c.Heartbeat <= 0 {
		return DefaultHeartbeat
	}
	return c.Heartbeat
}

// DefaultHeartbeat is the silence after which a ping is sent. After two missed
// ones the link ends.
const DefaultHeartbeat = 5 * time.Second

// Multiplexer is what carries the streams of a link.
type multiplexer interface {
	open(ctx context.Context) (Stream, error)
	accept(ctx context.Context) (Stream, error)
	close() error
	done() <-chan struct{}
	err() error
	queued() int
	rtt() time.Duration
	run(ctx context.Context) error
}

// Link is one authenticated connection between agent and node.
type Link struct {
	conn net.Conn
	mux  multiplexer
}

// Client makes a link over a connection that this side dialled and on which the
// handshake is done. It starts nothing: Run does.
func Client(conn net.Conn, cfg Config) *Link {
	return &Link{conn: conn, mux: newYamux(severed{conn}, cfg, true)}
}

// Server makes a link over a connection that this side accepted and on which the
// handshake is done. It starts nothing: Run does.
func Server(conn net.Conn, cfg Config) *Link {
	return &Link{conn: conn, mux: newYamux(severed{conn}, cfg, false)}
}

// severed is a link's connection, whose end is never in order for the streams on it.
// TLS returns io.EOF for a peer that vanished between two records, and go-yamux hands
// the error of the connection to whoever reads just then, as it is: a download cut off
// by the death of an agent looked whole.
type severed struct{ net.Conn }

func (s severed) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if err == io.EOF { //nolint:errorlint // the bare one is what readers take for an end
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Run serves the link until it ends, by Close, by the other side, by silence or
// by the end of ctx. It returns why, after its last goroutine.
func (l *Link) Run(ctx context.Context) error { return l.mux.run(ctx) }

// Open opens a stream without waiting for the other side.
func (l *Link) Open(ctx context.Context) (Stream, error) {
	s, err := l.mux.open(ctx)
	if err != nil {
		return nil, err
	}
	return &mended{Stream: s}, nil
}

// Accept waits for a stream that the other side opens.
func (l *Link) Accept(ctx context.Context) (Stream, error) {
	s, err := l.mux.accept(ctx)
	if err != nil {
		return nil, err
	}
	return &mended{Stream: s, hold: holdReset}, nil
}

// Close ends the link and all its streams at once.
func (l *Link) Close() error { return l.mux.close() }

// Done is closed when the link has ended.
func (l *Link) Done() <-chan struct{} { return l.mux.done() }

// Err says why the link ended; nil while it lives.
func (l *Link) Err() error { return l.mux.err() }

// Queued is the number of bytes that wait to be sent.
func (l *Link) Queued() int { return l.mux.queued() }

// RTT is the smoothed round-trip time, 0 before the first measurement.
func (l *Link) RTT() time.Duration { return l.mux.rtt() }

// RemoteAddr is the other side's address.
func (l *Link) RemoteAddr() net.Addr { return l.conn.RemoteAddr() }
