package yamux

import (
	"sync/atomic"
	"time"
)

// InitialWindow is the credit in bytes that each side of a stream has before any
// window update: part of the protocol, not a setting.
const InitialWindow = 256 << 10

// Config of a session. The zero value works; a zero field means its default.
type Config struct {
	// KeepAliveInterval is the silence after which the other side is pinged. Two
	// pings that bring no byte within two thirds of it each end the session.
	// Default 5 s; negative: never.
	KeepAliveInterval time.Duration

	// Patient says that the connection watches over itself: silence, however long,
	// neither ends the session nor has it ping.
	Patient bool

	// AcceptBacklog is how many streams of the other side may wait for Accept.
	// Further ones are reset. Default 1024.
	AcceptBacklog int

	// OpenBacklog is how many streams may be open here and not yet acknowledged
	// by the other side; Open waits above it. Default 256, which is what other
	// implementations accept.
	OpenBacklog int

	// MaxStreams bounds the streams that the other side has open. Further ones
	// are reset. Default 16384.
	MaxStreams int

	// MaxStreamWindow bounds the receive window of a stream in bytes.
	// Default 16 MiB, at least InitialWindow.
	MaxStreamWindow int

	// SessionWindow bounds the bytes by which the windows of all streams together
	// may exceed InitialWindow each. Default 128 MiB; negative: windows do not grow.
	SessionWindow int

	// Budget, when set, is a further bound like SessionWindow that several
	// sessions share.
	Budget *Budget

	// SendQueue bounds the bytes that are queued for sending, of all streams
	// together. Default 1 MiB.
	SendQueue int

	// CloseTimeout is how long a closed stream waits for the other side to end its
	// direction too before it is reset. Default 5 min.
	CloseTimeout time.Duration
}

func (c Config) withDefaults() Config {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	if c.KeepAliveInterval == 0 {
		c.KeepAliveInterval = 5 * time.Second
	}
	if c.CloseTimeout <= 0 {
		c.CloseTimeout = 5 * time.Minute
	}
	def(&c.AcceptBacklog, 1024)
	def(&c.OpenBacklog, 256)
	def(&c.MaxStreams, 16384)
	def(&c.MaxStreamWindow, 16<<20)
	def(&c.SessionWindow, 128<<20)
	def(&c.SendQueue, 1<<20)
	c.AcceptBacklog = max(c.AcceptBacklog, 1)
	c.OpenBacklog = max(c.OpenBacklog, 1)
	c.MaxStreams = max(c.MaxStreams, 1)
	c.MaxStreamWindow = min(max(c.MaxStreamWindow, InitialWindow), 1<<30)
	c.SessionWindow = max(c.SessionWindow, 0)
	c.SendQueue = max(c.SendQueue, 2*maxFrame)
	return c
}

// Budget bounds the bytes of receive windows beyond InitialWindow over several
// sessions. What a stream's window took of it returns when the stream has ended and
// is read to the end or closed. Use NewBudget.
type Budget struct {
	limit int64
	used  atomic.Int64
}

// NewBudget returns a budget of so many bytes.
func NewBudget(bytes int64) *Budget { return &Budget{limit: bytes} }

// Used is how many bytes are given away.
func (b *Budget) Used() int64 { return b.used.Load() }

// reserve takes n bytes if they are at most a quarter of what is left. The
// quarter keeps a few old streams from leaving nothing to new ones.
func (b *Budget) reserve(n int64) bool {
	for {
		used := b.used.Load()
		if n > (b.limit-used)/4 {
			return false
		}
		if b.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
}

func (b *Budget) release(n int64) { b.used.Add(-n) }
