package yamux

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// memConn is one end of a connection in memory. Its bytes arrive in arbitrary
// pieces and, in a bubble of synctest, as late as a path would make them.
type memConn struct {
	in, out *memPipe
}

// memPath describes one direction.
type memPath struct {
	delay  time.Duration
	rate   int        // bytes per second; 0: any
	buffer int        // bytes on the way before writes block
	rand   *rand.Rand // cuts reads into pieces; nil: as large as they come
}

// memPipe is one direction. Its fields are guarded by mu.
type memPipe struct {
	path memPath

	mu       sync.Mutex
	cond     *sync.Cond
	segments []memSegment
	size     int
	free     time.Time // when the line has sent what it was given
	reads    []int     // sizes of buffers that were read into, while counted
	counting bool
	eof      bool // writer closed
	gone     bool // reader closed
}

type memSegment struct {
	at time.Time
	b  []byte
}

func newMemPipe(p memPath) *memPipe {
	m := &memPipe{path: p}
	m.cond = sync.NewCond(&m.mu)
	return m
}

// memPair returns a connection with these two directions.
func memPair(ab, ba memPath) (a, b *memConn) {
	there, back := newMemPipe(ab), newMemPipe(ba)
	return &memConn{in: back, out: there}, &memConn{in: there, out: back}
}

func (p *memPipe) write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for n < len(b) {
		for p.size >= p.path.buffer && !p.eof && !p.gone {
			p.cond.Wait()
		}
		if p.eof || p.gone {
			return n, io.ErrClosedPipe
		}
		k := min(len(b)-n, p.path.buffer-p.size, 16<<10)
		now := time.Now()
		if p.free.Before(now) {
			p.free = now
		}
		if p.path.rate > 0 {
			p.free = p.free.Add(time.Duration(k) * time.Second / time.Duration(p.path.rate))
		}
		at := p.free.Add(p.path.delay)
		p.segments = append(p.segments, memSegment{at, append([]byte(nil), b[n:n+k]...)})
		p.size += k
		n += k
		if d := time.Until(at); d > 0 {
			time.AfterFunc(d, p.wake)
		}
		p.cond.Broadcast()
	}
	return n, nil
}

func (p *memPipe) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cond.Broadcast()
}

func (p *memPipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.counting {
		p.reads = append(p.reads, len(b))
	}
	for {
		switch {
		case p.gone:
			return 0, io.ErrClosedPipe
		case len(p.segments) > 0 && !p.segments[0].at.After(time.Now()):
			return p.takeLocked(b), nil
		case len(p.segments) == 0 && p.eof:
			return 0, io.EOF
		}
		p.cond.Wait()
	}
}

func (p *memPipe) takeLocked(b []byte) int {
	want := len(b)
	if r := p.path.rand; r != nil && want > 1 && r.IntN(4) > 0 {
		want = 1 + r.IntN(want)
		if r.IntN(8) == 0 {
			want = 1 + r.IntN(min(want, 20))
		}
	}
	n := 0
	now := time.Now()
	for n < want && len(p.segments) > 0 && !p.segments[0].at.After(now) {
		seg := &p.segments[0]
		k := copy(b[n:want], seg.b)
		n += k
		if seg.b = seg.b[k:]; len(seg.b) == 0 {
			seg.b = nil // the array behind segments would keep it
			p.segments = p.segments[1:]
		}
	}
	p.size -= n
	p.cond.Broadcast()
	return n
}

func (p *memPipe) close(reader bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if reader {
		p.gone = true
		p.segments, p.size = nil, 0
	} else {
		p.eof = true
	}
	p.cond.Broadcast()
}

func (c *memConn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *memConn) Write(b []byte) (int, error) { return c.out.write(b) }

func (c *memConn) Close() error {
	c.out.close(false)
	c.in.close(true)
	return nil
}

func (c *memConn) LocalAddr() net.Addr              { return memAddr{} }
func (c *memConn) RemoteAddr() net.Addr             { return memAddr{} }
func (c *memConn) SetDeadline(time.Time) error      { return nil }
func (c *memConn) SetReadDeadline(time.Time) error  { return nil }
func (c *memConn) SetWriteDeadline(time.Time) error { return nil }

type memAddr struct{}

func (memAddr) Network() string { return "mem" }
func (memAddr) String() string  { return "mem" }

// bufferedConn collects writes as a layer such as TLS does. A goroutine sends what
// a flush without wait left.
type bufferedConn struct {
	net.Conn
	mu      sync.Mutex
	pending []byte
	joins   bool
}

func bufferedPair(tb testing.TB) (net.Conn, net.Conn) {
	a, b := tcpPair(tb)
	keeper := &keepingConn{bufferedConn: bufferedConn{Conn: b, joins: true}, tb: tb}
	tb.Cleanup(keeper.giveBack)
	return &bufferedConn{Conn: a}, keeper
}

// keepingConn is a bufferedConn that keeps what it is given for a while.
type keepingConn struct {
	bufferedConn
	tb   testing.TB
	kept []keptBuf // under mu
}

type keptBuf struct {
	b, was []byte
	done   func()
}

// Keep has the last few buffers at any time, and looks whether anybody else has written
// to them meanwhile.
func (c *keepingConn) Keep(b []byte, done func()) error {
	_, err := c.Write(b[KeepRoom:])
	c.mu.Lock()
	c.kept = append(c.kept, keptBuf{b, bytes.Clone(b), done})
	full := len(c.kept) > 3
	c.mu.Unlock()
	if full {
		c.giveBack()
	}
	return err
}

// giveBack gives back what is kept, of no use to anybody.
func (c *keepingConn) giveBack() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.kept {
		if !bytes.Equal(k.b, k.was) {
			c.tb.Error("a buffer that was kept has changed")
		}
		for i := range k.b {
			k.b[i] = 0xa5
		}
		k.done()
	}
	c.kept = nil
}

func (c *bufferedConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending = append(c.pending, p...)
	return len(p), nil
}

// Flush takes a quarter at most of more than 4 KiB, and without wait nothing, so that
// all outcomes are met.
func (c *bufferedConn) Flush(wait bool) (int, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.pending)
	if n > 4<<10 {
		if !wait {
			return 0, false, nil
		}
		n /= 4
	}
	n, err := c.Conn.Write(c.pending[:n])
	c.pending = append(c.pending[:0], c.pending[n:]...)
	return n, err == nil && len(c.pending) == 0, err
}

func (c *bufferedConn) Ready() bool { return false }

func (c *bufferedConn) Joins() bool { return c.joins }
