package datagram

import (
	"io"
	"sync"
	"sync/atomic"
)

// QueueSize is how many bytes of datagrams wait for a flow's stream at most.
const QueueSize = 256 << 10

// batch is how much is given to the stream at once, if there is as much.
const batch = 64 << 10

var batches = sync.Pool{New: func() any { b := make([]byte, 0, prefix+MaxSize); return &b }}

// Budget bounds what many queues hold together. It may be shared; nil bounds nothing.
type Budget struct {
	limit int64
	used  atomic.Int64
}

// NewBudget returns a budget of so many bytes.
func NewBudget(bytes int64) *Budget { return &Budget{limit: bytes} }

func (b *Budget) take(n int) bool {
	if b == nil || b.used.Add(int64(n)) <= b.limit {
		return true
	}
	b.used.Add(-int64(n))
	return false
}

func (b *Budget) give(n int) {
	if b != nil {
		b.used.Add(-int64(n))
	}
}

// Queue holds the datagrams that wait for a stream. One goroutine sends them
// (WriteTo); any may put some in. Make one with NewQueue.
type Queue struct {
	budget *Budget

	mu struct {
		sync.Mutex
		more    sync.Cond
		buf     []byte // datagrams as they travel, from at on; whole ones
		at      int
		closed  bool
		dropped int64
	}
}

// NewQueue returns an empty queue.
func NewQueue(budget *Budget) *Queue {
	q := &Queue{budget: budget}
	q.mu.more.L = &q.mu
	return q
}

// Push puts a datagram at the end and never waits: to make room the oldest are
// dropped, and where the budget has none, this one.
func (q *Queue) Push(datagram []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	need := prefix + len(datagram)
	if q.mu.closed {
		return
	}
	for len(q.mu.buf)-q.mu.at+need > QueueSize {
		q.mu.at += q.releaseLocked()
		q.mu.dropped++
	}
	if len(datagram) > MaxSize || !q.budget.take(need) {
		q.mu.dropped++
		return
	}
	// Moving what is left down costs each byte one copy at most: it happens when as
	// much has been taken from the front as the queue may hold.
	if q.mu.at >= QueueSize || q.mu.at == len(q.mu.buf) {
		q.mu.buf = q.mu.buf[:copy(q.mu.buf, q.mu.buf[q.mu.at:])]
		q.mu.at = 0
	}
	q.mu.buf = Append(q.mu.buf, datagram)
	q.mu.more.Signal()
}

// releaseLocked gives the oldest datagram's bytes back to the budget and returns their
// number.
func (q *Queue) releaseLocked() int {
	n := size(q.mu.buf[q.mu.at:])
	q.budget.give(n)
	return n
}

// Dropped is how many datagrams were lost here.
func (q *Queue) Dropped() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.mu.dropped
}

// Close ends WriteTo. What waits is dropped, uncounted: its flow is over.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.budget.give(len(q.mu.buf) - q.mu.at)
	q.mu.closed, q.mu.buf, q.mu.at = true, nil, 0
	q.mu.more.Broadcast()
}

// WriteTo writes datagrams as they come, several in one call of w.Write where they
// wait, until Close or an error of w. It returns the bytes written.
func (q *Queue) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		b := q.take()
		if b == nil {
			return total, nil
		}
		n, err := w.Write(*b)
		batches.Put(b)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// take waits for datagrams and returns them, nil after Close.
func (q *Queue) take() *[]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.mu.buf) == q.mu.at && !q.mu.closed {
		q.mu.buf, q.mu.at = nil, 0 // a quiet flow holds no buffer
		q.mu.more.Wait()
	}
	if q.mu.closed {
		return nil
	}
	b := batches.Get().(*[]byte)
	*b = (*b)[:0]
	for q.mu.at < len(q.mu.buf) {
		n := size(q.mu.buf[q.mu.at:])
		if len(*b) > 0 && len(*b)+n > batch {
			break
		}
		*b = append(*b, q.mu.buf[q.mu.at:q.mu.at+n]...)
		q.mu.at += q.releaseLocked()
	}
	return b
}
