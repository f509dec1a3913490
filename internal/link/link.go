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

	"github.com/culvert-tunnel/culvert/yamux"
)

// Stream is one bidirectional byte stream of a link. Close after a clean end in
// both directions releases it; Reset ends it at once and the other side sees
// ECONNRESET, behind what was written before. Read returns io.EOF only for the other
// side's CloseWrite, never for the end of the link. WriteTo and ReadFrom move whole
// buffers, and know sockets.
type Stream interface {
	net.Conn
	io.WriterTo
	io.ReaderFrom
	CloseWrite() error
	Reset() error
}

// Config of a link. The zero value works.
type Config struct {
	Heartbeat time.Duration // silence after which the other side is asked for life; default DefaultHeartbeat
	Budget    *Budget       // of what all links of a node may buffer beyond the first window of each stream; nil: no common one
}

// Budget bounds bytes over several links.
type Budget = yamux.Budget

// NewBudget returns a budget of so many bytes.
func NewBudget(bytes int64) *Budget { return yamux.NewBudget(bytes) }

// DefaultHeartbeat is the silence after which a ping is sent. After two missed
// ones the link ends.
const DefaultHeartbeat = 5 * time.Second

// Limits of the streams that the other side opens and that wait to be accepted. An
// agent opens its control stream and no other; what it opens beyond that is reset.
const (
	ofNode  = 1 << 16
	ofAgent = 4
	waiting = 4096 // as many are opened without an answer
)

func (c Config) yamux(incoming int) yamux.Config {
	if c.Heartbeat <= 0 {
		c.Heartbeat = DefaultHeartbeat
	}
	return yamux.Config{
		KeepAliveInterval: c.Heartbeat, Budget: c.Budget,
		MaxStreams: incoming, AcceptBacklog: min(incoming, waiting), OpenBacklog: waiting,
	}
}

// Link is one authenticated connection between agent and node.
type Link struct{ session *yamux.Session }

// Client makes a link over a connection that this side dialled and on which the
// handshake is done. It starts nothing: Run does.
func Client(conn net.Conn, cfg Config) *Link {
	return &Link{yamux.Client(forStreams(conn), cfg.yamux(ofNode))}
}

// Server makes a link over a connection that this side accepted and on which the
// handshake is done. It starts nothing: Run does.
func Server(conn net.Conn, cfg Config) *Link {
	return &Link{yamux.Server(forStreams(conn), cfg.yamux(ofAgent))}
}

// Run serves the link until it ends, by Close, by the other side, by silence or
// by the end of ctx. It returns why, after its last goroutine.
func (l *Link) Run(ctx context.Context) error { return l.session.Run(ctx) }

// Open opens a stream without waiting for the other side.
func (l *Link) Open(ctx context.Context) (Stream, error) {
	s, err := l.session.Open(ctx)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Accept waits for a stream that the other side opens.
func (l *Link) Accept(ctx context.Context) (Stream, error) {
	s, err := l.session.Accept(ctx)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Close ends the link and all its streams at once.
func (l *Link) Close() error { return l.session.Close() }

// Done is closed when the link has ended, before its streams fail.
func (l *Link) Done() <-chan struct{} { return l.session.Done() }

// Err says why the link ended; nil while it lives.
func (l *Link) Err() error { return l.session.Err() }

// Queued is the number of bytes that wait to be sent.
func (l *Link) Queued() int { return l.session.Queued() }

// RTT is the smoothed round-trip time, 0 before the first measurement.
func (l *Link) RTT() time.Duration { return l.session.RTT() }

// RemoteAddr is the other side's address.
func (l *Link) RemoteAddr() net.Addr { return l.session.RemoteAddr() }
