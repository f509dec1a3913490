package resume

import (
	"sync"
	"sync/atomic"
)

// chunk holds bytes of the stream until they are acknowledged. Before the first byte
// is room for a record's header.
type chunk struct {
	next *chunk
	n    int // bytes in use, behind the room for the header
	b    []byte
	done func() // b is the writer's, who is told when he has it back; nil: it is ours
}

// smallSize is of the first chunk of a ring that was empty, if it is enough: a link that says
// a word now and then holds no more than that.
const smallSize = 512

var (
	chunks      = sync.Pool{New: func() any { return &chunk{b: make([]byte, headerSize+maxData)} }}
	smallChunks = sync.Pool{New: func() any { return &chunk{b: make([]byte, smallSize)} }}
	keptChunks  = sync.Pool{New: func() any { return new(chunk) }}
)

func (c *chunk) full() bool { return headerSize+c.n == len(c.b) }

func (c *chunk) free() {
	c.next, c.n = nil, 0
	switch {
	case c.done != nil:
		done := c.done
		c.b, c.done = nil, nil
		keptChunks.Put(c)
		done()
	case len(c.b) == smallSize:
		smallChunks.Put(c)
	default:
		chunks.Put(c)
	}
}

// ring is what was written and not yet acknowledged: the bytes of the stream from
// begin to end. An empty one holds no memory. Whoever uses it holds Conn.mu.
type ring struct {
	begin, end uint64
	head, tail *chunk
	base       uint64 // position of head's first byte
	held       int    // bytes of memory
	budget     *Budget
}

// add appends p. It takes all of it: the bound is its user's matter, who finds the ring
// full only after a write, and lets no other follow.
func (r *ring) add(p []byte) {
	for len(p) > 0 {
		t := r.tail
		if t == nil || t.full() {
			t = r.grow(len(p))
		}
		n := copy(t.b[headerSize+t.n:], p)
		t.n += n
		r.end += uint64(n) //nolint:gosec // not negative
		p = p[n:]
	}
}

// grow adds a chunk for n bytes or the first of them.
func (r *ring) grow(n int) *chunk {
	pool := &chunks
	if r.tail == nil && headerSize+n <= smallSize {
		pool = &smallChunks
	}
	c := pool.Get().(*chunk)
	r.link(c)
	return c
}

// keep appends what follows the room for a header in b, which is the writer's until done
// is called.
func (r *ring) keep(b []byte, done func()) {
	c := keptChunks.Get().(*chunk)
	c.b, c.n, c.done = b, len(b)-headerSize, done
	r.link(c)
	r.end += uint64(c.n) //nolint:gosec // not negative
}

func (r *ring) link(c *chunk) {
	if r.tail == nil {
		r.head, r.base = c, r.end
	} else {
		r.tail.next = c
	}
	r.tail = c
	r.held += cap(c.b)
	r.budget.take(cap(c.b))
}

// drop lets go of what lies before position to.
func (r *ring) drop(to uint64) {
	r.begin = to
	for r.head != nil && (r.base+uint64(r.head.n) <= to) { //nolint:gosec // not negative
		c := r.head
		r.base += uint64(c.n) //nolint:gosec // not negative
		r.head = c.next
		r.held -= cap(c.b)
		r.budget.take(-cap(c.b))
		c.free()
	}
	if r.head == nil {
		r.tail = nil
	}
}

// full reports whether no more should be added: the ring holds limit bytes, or the
// process holds too much and this ring more than its due.
func (r *ring) full(limit int64) bool {
	return int64(r.end-r.begin) >= limit || r.held > due && r.budget.over() //nolint:gosec // bounded by limit
}

// due is how many bytes a ring may hold whatever others do.
const due = 4 * (headerSize + maxData)

// cursor finds bytes by their position without walking from the head each time.
type cursor struct {
	c    *chunk
	base uint64 // position of its first byte
}

// at moves the cursor to the chunk that holds position pos, which lies in the ring.
func (r *ring) at(cur *cursor, pos uint64) {
	if cur.c == nil || pos < cur.base || cur.base < r.base {
		cur.c, cur.base = r.head, r.base
	}
	for pos >= cur.base+uint64(cur.c.n) && cur.c.next != nil { //nolint:gosec // not negative
		cur.base += uint64(cur.c.n) //nolint:gosec // not negative
		cur.c = cur.c.next
	}
}

// Budget bounds what several Conns keep. A Conn may always keep a little.
type Budget struct {
	limit, used atomic.Int64 // bytes
}

// NewBudget returns a budget of so many bytes.
func NewBudget(bytes int64) *Budget {
	b := new(Budget)
	b.limit.Store(bytes)
	return b
}

// Used is how many bytes are kept.
func (b *Budget) Used() int64 { return b.used.Load() }

func (b *Budget) take(n int) {
	if b != nil {
		b.used.Add(int64(n))
	}
}

func (b *Budget) over() bool { return b != nil && b.used.Load() >= b.limit.Load() }
