package inspect

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/culvert-tunnel/culvert/internal/splice"
)

// direction of bytes on a connection to an upstream.
type direction int

const (
	toUpstream direction = iota
	toVisitor
)

// how a piece was captured.
type how int

const (
	copied  how = iota
	skipped     // the parser had said that it needs no copy
	missed      // there was no room
)

// piece is bytes that passed at one moment. Those of copied pieces follow each other
// in the batch's data.
type piece struct {
	at  time.Time
	dir direction
	how how
	n   int
}

// batch is what a tap saw since the worker last came by.
type batch struct {
	pieces []piece
	data   []byte
}

var batches = sync.Pool{New: func() any { return new(batch) }}

// keepable is the largest buffer that goes back to the pool.
const keepable = 256 << 10

func (b *batch) free() {
	if cap(b.data) > keepable {
		return
	}
	b.pieces, b.data = b.pieces[:0], b.data[:0]
	batches.Put(b)
}

// add notes a piece; pieces without bytes of the same kind become one.
func (b *batch) add(p piece) {
	if last := len(b.pieces) - 1; last >= 0 && p.how != copied && b.pieces[last].how == p.how && b.pieces[last].dir == p.dir {
		b.pieces[last].n += p.n
		b.pieces[last].at = p.at
		return
	}
	b.pieces = append(b.pieces, p)
}

// tap is a connection to an upstream whose bytes are seen by an Inspector.
type tap struct {
	net.Conn
	in                *Inspector
	endpoint, visitor string
	replay            *replay // that the connection was made for; nil: a visitor's
	unreached         string  // why there is no connection

	mu struct {
		sync.Mutex
		batch  *batch // nil: nothing since the worker came by, and not queued
		ended  bool
		seen   [2]int64 // bytes so far
		skipTo [2]int64 // bytes before this offset need no copy
	}

	protocol protocol // of the worker, under Inspector.mu; nil: not known yet
	opening  []byte   // to the upstream, until the protocol is known
}

// Read shows what comes before anybody else has it, so that an answer's bytes never
// seem to be older than those of the next request.
func (t *tap) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.saw(toVisitor, p[:max(n, 0)])
	return n, err
}

// Write shows bytes before they are sent: the answer must not be seen first.
func (t *tap) Write(p []byte) (int, error) {
	t.saw(toUpstream, p)
	return t.Conn.Write(p)
}

// Writing and HasRead are Write and Read where the multiplexer uses the socket below
// itself (yamux.Watched).
func (t *tap) Writing(p []byte) { t.saw(toUpstream, p) }

// HasRead is described with Writing.
func (t *tap) HasRead(p []byte) { t.saw(toVisitor, p) }

// SyscallConn is that of the connection below, if it is a socket.
func (t *tap) SyscallConn() (syscall.RawConn, error) {
	if c, ok := t.Conn.(syscall.Conn); ok {
		return c.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// CloseWrite keeps the half-close of the connection below.
func (t *tap) CloseWrite() error { return splice.CloseWrite(t.Conn) }

// Close implements net.Conn.
func (t *tap) Close() error {
	t.end()
	return t.Conn.Close()
}

// Reset keeps the reset of the connection below.
func (t *tap) Reset() error {
	t.end()
	splice.Reset(t.Conn)
	return nil
}

// saw notes bytes. It costs a copy and an uncontended lock.
func (t *tap) saw(dir direction, p []byte) {
	if len(p) == 0 {
		return
	}
	now := time.Now()
	t.mu.Lock()
	b, first := t.batchLocked()
	from := t.mu.seen[dir]
	t.mu.seen[dir] += int64(len(p))
	if k := min(t.mu.skipTo[dir]-from, int64(len(p))); k > 0 {
		b.add(piece{at: now, dir: dir, how: skipped, n: int(k)})
		p = p[k:]
	}
	switch {
	case len(p) == 0:
	case len(b.data)+len(p) > maxPending || !t.in.reserve(len(p)):
		t.in.missed.Add(int64(len(p)))
		b.add(piece{at: now, dir: dir, how: missed, n: len(p)})
	default:
		b.data = append(b.data, p...)
		b.add(piece{at: now, dir: dir, how: copied, n: len(p)})
	}
	large := len(b.data) > urgent
	t.mu.Unlock()
	if first {
		t.in.enqueue(t)
	}
	if large {
		signal(t.in.hurry)
	}
}

func (t *tap) batchLocked() (b *batch, first bool) {
	if t.mu.batch == nil {
		t.mu.batch = batches.Get().(*batch)
		first = true
	}
	return t.mu.batch, first
}

// end notes that the connection is over.
func (t *tap) end() {
	t.mu.Lock()
	if t.mu.ended {
		t.mu.Unlock()
		return
	}
	t.mu.ended = true
	_, first := t.batchLocked()
	t.mu.Unlock()
	if first {
		t.in.enqueue(t)
	}
}

// take returns what the tap saw, for the worker.
func (t *tap) take() (*batch, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.mu.batch
	t.mu.batch = nil
	return b, t.mu.ended
}

// skip says that bytes before an offset need no copy.
func (t *tap) skip(dir direction, to int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.skipTo[dir] = to
}

// protocol makes exchanges of what passes on a connection.
type protocol interface {
	feed(dir direction, at time.Time, p []byte) // in order; p is valid during the call
	skipped(dir direction, at time.Time, n int) // bytes the tap was told to skip
	missed(dir direction, at time.Time, n int)  // bytes there was no room for
	end(at time.Time)                           // of both directions
}

// parse feeds a batch to the protocol, under Inspector.mu.
func (t *tap) parse(b *batch, ended bool) {
	data := b.data
	for _, p := range b.pieces {
		switch p.how {
		case copied:
			if t.protocol == nil {
				t.sniff(p.dir, p.at, data[:p.n])
			} else {
				t.protocol.feed(p.dir, p.at, data[:p.n])
			}
			data = data[p.n:]
		case skipped:
			if t.protocol != nil {
				t.protocol.skipped(p.dir, p.at, p.n)
			}
		case missed:
			if t.protocol == nil {
				t.settle(newHTTP1(t), p.at)
			}
			t.protocol.missed(p.dir, p.at, p.n)
		}
	}
	if ended {
		if t.protocol != nil {
			t.protocol.end(time.Now())
		}
		if t.replay != nil {
			t.replay.over()
		}
	}
}

// sniff finds out which HTTP it is, by the first bytes to the upstream.
func (t *tap) sniff(dir direction, at time.Time, p []byte) {
	if dir == toVisitor { // an upstream that speaks first: HTTP/2's settings, or no HTTP
		if len(t.opening) == 0 {
			t.settle(newHTTP2(t), at)
		} else {
			t.settle(newHTTP1(t), at)
		}
		t.protocol.feed(dir, at, p)
		return
	}
	t.opening = append(t.opening, p...)
	switch {
	case !isPrefixOf(t.opening, preface):
		t.settle(newHTTP1(t), at)
	case len(t.opening) >= len(preface):
		t.settle(newHTTP2(t), at)
	}
}

// settle decides on a protocol.
func (t *tap) settle(p protocol, at time.Time) {
	t.protocol = p
	if len(t.opening) > 0 {
		p.feed(toUpstream, at, t.opening)
		t.opening = nil
	}
}

// preface of an HTTP/2 client (RFC 9113, section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// isPrefixOf reports whether p and s are the same as far as both go.
func isPrefixOf(p []byte, s string) bool {
	n := min(len(p), len(s))
	return string(p[:n]) == s[:n]
}
