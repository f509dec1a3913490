// Package link owns the connection between agent and node: dialling it, trusting
// it, and carrying streams over it. It stands below server/session and agent in
// the walk; nothing above it knows which multiplexer or transport is in use, and
// it knows nothing of the messages that streams carry.
package link

import (
	"context"
	"io"
	"net"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/link/resume"
	"github.com/culvert-tunnel/culvert/yamux"
)

// Stream is one bidirectional byte stream of a link. Close after a clean end in
// both directions releases it; Reset ends it at once and the other side sees
// ECONNRESET, behind what was written before. Read returns io.EOF only for the other
// side's CloseWrite, never for the end of the link. WriteTo and ReadFrom, and WriteToN and
// ReadFromN for so many bytes, move whole buffers, and know sockets.
type Stream interface {
	net.Conn
	io.WriterTo
	io.ReaderFrom
	WriteToN(w io.Writer, n int64) (int64, error)
	ReadFromN(r io.Reader, n int64) (int64, error)
	CloseWrite() error
	Reset() error
}

// Config of a link. The zero value works.
type Config struct {
	Heartbeat time.Duration // silence after which the other side is asked for life; default DefaultHeartbeat
	Budget    *Budget       // of what all links of a node may buffer beyond the first window of each stream; nil: no common one
	Resume    *Resume       // nil: the link ends with its connection
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
	ofOwner = 1    // of who only takes visitors in
	waiting = 4096 // as many are opened without an answer
)

func (c Config) yamux(incoming int) yamux.Config {
	if c.Heartbeat <= 0 {
		c.Heartbeat = DefaultHeartbeat
	}
	return yamux.Config{
		KeepAliveInterval: c.Heartbeat, Budget: c.Budget, Patient: c.Resume != nil,
		MaxStreams: incoming, AcceptBacklog: min(incoming, waiting), OpenBacklog: waiting,
	}
}

// Link is one authenticated connection between agent and node or, with Config.Resume,
// one after the other.
type Link struct {
	carrier
	conn   *resume.Conn // nil: the link ends with its connection
	redial Redial
	again  chan struct{} // asks for another connection
}

// carrier is what carries the streams of a link, and ends with it.
type carrier interface {
	// Run serves the link until it ends, by Close, by the other side, by silence or
	// by the end of ctx. It returns why, after its last goroutine.
	Run(ctx context.Context) error
	// Open opens a stream without waiting for the other side.
	Open(ctx context.Context) (Stream, error)
	// Accept waits for a stream that the other side opens.
	Accept(ctx context.Context) (Stream, error)
	// Close ends the link and all its streams at once.
	Close() error
	// Shutdown lets no further stream be opened, waits until all have ended and everything
	// is sent, and ends the link. When ctx ends before, it ends it then.
	Shutdown(ctx context.Context) error
	// Done is closed when the link has ended, before its streams fail.
	Done() <-chan struct{}
	// Err says why the link ended; nil while it lives.
	Err() error
	// Queued is the number of bytes that wait to be sent.
	Queued() int
	// RTT is the smoothed round-trip time, 0 before the first measurement.
	RTT() time.Duration
	// RemoteAddr is the other side's address.
	RemoteAddr() net.Addr
	// Away returns, while the link waits for a connection, since when, and a channel that is
	// closed when it has one or has ended; else nil.
	Away() (since time.Time, back <-chan struct{})
}

// Client makes a link over a connection that this side dialled and on which the
// handshake is done. It starts nothing: Run does.
func Client(conn net.Conn, cfg Config) *Link { return newLink(conn, cfg, yamux.Client, ofNode) }

// Server makes a link over a connection that this side accepted and on which the
// handshake is done. It starts nothing: Run does.
func Server(conn net.Conn, cfg Config) *Link { return newLink(conn, cfg, yamux.Server, ofAgent) }

// ToPeer makes a link to another node, which it dialled: streams go to it alone, one for
// each visitor. It starts nothing: Run does.
func ToPeer(conn net.Conn, cfg Config) *Link { return newLink(conn, cfg, yamux.Client, ofOwner) }

// FromPeer is the other end of ToPeer.
func FromPeer(conn net.Conn, cfg Config) *Link { return newLink(conn, cfg, yamux.Server, ofNode) }

func newLink(conn net.Conn, cfg Config, side func(net.Conn, yamux.Config) *yamux.Session, incoming int) *Link {
	if c, ok := conn.(*quicConn); ok {
		return &Link{carrier: newQUICSession(c, cfg, incoming)}
	}
	settings := cfg.yamux(incoming)
	if cfg.Resume == nil {
		return &Link{carrier: multiplexed{side(forStreams(conn), settings), nil}}
	}
	c := cfg.Resume.over(conn, settings.KeepAliveInterval)
	return &Link{carrier: multiplexed{side(c, settings), c}, conn: c, redial: cfg.Resume.Redial, again: make(chan struct{}, 1)}
}

// Run implements carrier.
func (l *Link) Run(ctx context.Context) error {
	if l.redial == nil {
		return l.carrier.Run(ctx)
	}
	var keeper sync.WaitGroup
	keeping, cancel := context.WithCancel(ctx)
	keeper.Go(func() { l.keep(keeping) })
	err := l.carrier.Run(ctx)
	cancel()
	keeper.Wait()
	return err
}

// multiplexed carries streams by Yamux over one connection, or over one that is made of
// several.
type multiplexed struct {
	*yamux.Session
	conn *resume.Conn // nil: one
}

// Open implements carrier.
func (m multiplexed) Open(ctx context.Context) (Stream, error) {
	s, err := m.Session.Open(ctx)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Accept implements carrier.
func (m multiplexed) Accept(ctx context.Context) (Stream, error) {
	s, err := m.Session.Accept(ctx)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Away implements carrier.
func (m multiplexed) Away() (since time.Time, back <-chan struct{}) {
	if m.conn == nil {
		return time.Time{}, nil
	}
	return m.conn.Away()
}

// Moved implements mover.
func (m multiplexed) Moved() (in, out int64) {
	s := m.Stats()
	return s.BytesIn, s.BytesOut
}

// mover is a carrier that counts bytes, heads of frames included. What is sent again counts
// once.
type mover interface {
	Moved() (in, out int64)
}

// Moved is how many bytes the link has received and sent; none if they are not counted.
func (l *Link) Moved() (in, out int64) {
	if m, ok := l.carrier.(mover); ok {
		return m.Moved()
	}
	return 0, 0
}
