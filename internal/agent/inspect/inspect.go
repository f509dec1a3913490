// Package inspect watches what passes between visitors and the upstreams of http
// endpoints, keeps the newest of it in bounded memory, and sends it again on demand.
//
// It stands beside the walk, not in it: a tap copies the bytes of a connection into a
// bounded batch, and one worker makes exchanges of the batches afterwards. When the
// worker can't follow, what is captured has a gap and says so; the traffic never
// waits. The alternative, a second proxy, would decide what passes and when.
//
// Of ours it needs only splice, for the ends of connections. What it keeps is as it was on the wire; hiding
// credentials is done where it is shown (Redact, View).
//
// Locks: tap.mu and Inspector.queue are leaves; Inspector.mu guards all exchanges and
// the parsers, and is never held while a tap's caller waits.
package inspect

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of Config.
const (
	DefaultMemory = 50 << 20
	DefaultBody   = 1 << 20
)

// Config of an Inspector. The zero value works.
type Config struct {
	Memory int64 // bytes of exchanges that are kept, the newest; default DefaultMemory
	Body   int64 // bytes kept of one body or message; default DefaultBody

	// Observe is shown each exchange that is answered, under a lock: it must not wait.
	Observe func(*Exchange)
}

// Inspector captures exchanges. Make one with New, Run it, and hand connections to
// upstreams through Watch.
type Inspector struct {
	cfg    Config
	missed atomic.Int64 // bytes that were not captured because the worker was behind

	pending atomic.Int64 // bytes in batches
	queue   struct {
		sync.Mutex
		taps []*tap // with a batch
	}
	kick  chan struct{} // the queue is no longer empty
	hurry chan struct{} // a batch is large

	mu struct {
		sync.Mutex
		store
		subscribers map[*Subscription]struct{}
		replaying   map[net.Conn]struct{}
		stopped     bool // no replay begins any more
		moved       [2]int64
	}
	replays sync.WaitGroup
}

// New makes an Inspector that does nothing yet.
func New(cfg Config) *Inspector {
	if cfg.Memory <= 0 {
		cfg.Memory = DefaultMemory
	}
	if cfg.Body <= 0 {
		cfg.Body = DefaultBody
	}
	in := &Inspector{cfg: cfg, kick: make(chan struct{}, 1), hurry: make(chan struct{}, 1)}
	in.mu.subscribers = make(map[*Subscription]struct{})
	in.mu.replaying = make(map[net.Conn]struct{})
	in.mu.budget = cfg.Memory
	return in
}

// Limits of what waits for the worker, in bytes.
const (
	maxPending      = 4 << 20  // of one connection
	maxPendingTotal = 16 << 20 // of all
	urgent          = 128 << 10
)

// pace is how often the worker looks for new batches at most. A worker that woke for
// every request would cost the traffic a switch of contexts each.
const pace = 10 * time.Millisecond

// Run makes exchanges of what the taps saw, until ctx ends.
func (in *Inspector) Run(ctx context.Context) error {
	defer in.stopReplays()
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-in.kick:
		case <-ctx.Done():
			return nil
		}
		in.work()
		rest.Reset(pace)
		select {
		case <-rest.C:
		case <-in.hurry:
		case <-ctx.Done():
			return nil
		}
	}
}

// work handles all batches that are there, as a whole in the order in which the taps
// first saw something: exchanges that began within one pace may get their ids in another
// order than they began.
func (in *Inspector) work() {
	in.queue.Lock()
	taps := in.queue.taps
	in.queue.taps = nil
	in.queue.Unlock()
	for _, t := range taps {
		b, ended := t.take()
		in.mu.Lock()
		for _, p := range b.pieces {
			in.mu.moved[p.dir] += int64(p.n)
		}
		t.parse(b, ended)
		in.mu.trim()
		in.mu.Unlock()
		in.pending.Add(-int64(len(b.data)))
		b.free()
	}
	in.notify()
}

// reserve takes n bytes of what all batches may hold together.
func (in *Inspector) reserve(n int) bool {
	if in.pending.Add(int64(n)) > maxPendingTotal {
		in.pending.Add(-int64(n))
		return false
	}
	return true
}

// enqueue hands a tap with a new batch to the worker.
func (in *Inspector) enqueue(t *tap) {
	in.queue.Lock()
	in.queue.taps = append(in.queue.taps, t)
	first := len(in.queue.taps) == 1
	in.queue.Unlock()
	if first {
		signal(in.kick)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Watch returns a connection to be used in place of up, whose bytes are captured as
// exchanges of an endpoint. visitor is who opened the stream; a request that says so
// itself (X-Forwarded-For, which is the edge's own) is believed over it.
func (in *Inspector) Watch(endpoint, visitor string, up net.Conn) net.Conn {
	return in.watch(endpoint, visitor, up, nil)
}

// Unreached captures a request whose upstream could not be dialled, as far as it had
// come.
func (in *Inspector) Unreached(endpoint, visitor string, request []byte, err error) {
	t := in.watch(endpoint, visitor, nil, nil)
	t.unreached = err.Error()
	t.saw(toUpstream, request)
	t.end()
}

func (in *Inspector) watch(endpoint, visitor string, up net.Conn, of *replay) *tap {
	return &tap{Conn: up, in: in, endpoint: endpoint, visitor: visitor, replay: of}
}

// Stats of an Inspector.
type Stats struct {
	Exchanges int   // that are kept
	Bytes     int64 // that they take
	Captured  uint64
	Dropped   uint64 // exchanges that made room for newer ones
	Missed    int64  // bytes that could not be captured in time

	ToUpstream, ToVisitors int64 // bytes that passed, captured or not
}

// Stats returns a snapshot.
func (in *Inspector) Stats() Stats {
	in.mu.Lock()
	defer in.mu.Unlock()
	return Stats{
		Exchanges: len(in.mu.list), Bytes: in.mu.used, Captured: in.mu.lastID, Dropped: in.mu.dropped, Missed: in.missed.Load(),
		ToUpstream: in.mu.moved[toUpstream], ToVisitors: in.mu.moved[toVisitor],
	}
}
