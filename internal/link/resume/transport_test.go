package resume

import (
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// path is one direction of a transport connection in memory: bytes wait in a buffer
// like a socket's and come out in arbitrary pieces.
type path struct {
	mu      sync.Mutex
	cond    *sync.Cond
	rand    *rand.Rand // guarded by mu
	buf     []byte
	room    int
	delay   time.Duration
	at      time.Time // when the first byte arrives
	err     error     // of the reader, behind what arrived
	broken  error     // of the writer
	dropped bool      // a blackhole: nothing arrives any more
}

func newPath(seed uint64) *path {
	r := rand.New(rand.NewPCG(seed, 7)) //nolint:gosec // a test
	p := &path{rand: r, room: 1 + r.IntN(200<<10), delay: time.Duration(r.IntN(20)) * time.Millisecond}
	p.cond = sync.NewCond(&p.mu)
	return p
}

// send takes what there is room for.
func (p *path) send(b []byte, wait bool) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if p.broken != nil {
			return 0, p.broken
		}
		n := min(len(b), p.room-len(p.buf))
		if n > 0 {
			n = 1 + p.rand.IntN(n)
			if len(p.buf) == 0 {
				p.at = time.Now().Add(p.delay)
				time.AfterFunc(p.delay, p.cond.Broadcast)
			}
			p.buf = append(p.buf, b[:n]...)
			p.cond.Broadcast()
		}
		if n > 0 || !wait {
			return n, nil
		}
		p.cond.Wait()
	}
}

func (p *path) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if len(p.buf) > 0 && !p.dropped && !p.at.After(time.Now()) {
			n := min(len(p.buf), len(b))
			if p.rand.IntN(3) == 0 {
				n = 1 + p.rand.IntN(n)
			}
			n = copy(b, p.buf[:n])
			p.buf = p.buf[n:]
			p.cond.Broadcast()
			return n, nil
		}
		if p.err != nil && (len(p.buf) == 0 || p.dropped) {
			return 0, p.err
		}
		p.cond.Wait()
	}
}

// stop ends the direction; what is on its way may be lost, from some byte on.
func (p *path) stop(reader, writer error, lose bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = reader
	}
	if p.broken == nil {
		p.broken = writer
	}
	if lose && len(p.buf) > 0 {
		p.buf = p.buf[:p.rand.IntN(len(p.buf))]
	}
	p.cond.Broadcast()
}

func (p *path) blackhole() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropped = true
	p.cond.Broadcast()
}

// memory is one end of a transport connection in memory.
type memory struct {
	in, out *path
	mu      sync.Mutex
	pending []byte
}

func newPair(seed uint64) (a, b *memory) {
	ab, ba := newPath(seed), newPath(seed+1)
	return &memory{in: ba, out: ab}, &memory{in: ab, out: ba}
}

func (m *memory) Read(p []byte) (int, error) { return m.in.read(p) }

func (m *memory) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending = append(m.pending, p...)
	return len(p), nil
}

func (m *memory) Flush(wait bool) (int, bool, error) {
	m.mu.Lock()
	out := m.pending
	m.mu.Unlock()
	if len(out) == 0 {
		return 0, true, nil
	}
	n, err := m.out.send(out, wait)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending = m.pending[n:]
	return n, len(m.pending) == 0, err
}

func (m *memory) Ready(bool) bool { return false }

// Close is what closing a socket is: the other side reads what arrived, then the end.
func (m *memory) Close() error {
	m.out.stop(io.EOF, net.ErrClosed, false)
	m.in.stop(net.ErrClosed, syscall.EPIPE, true)
	m.in.blackhole()
	return nil
}

// cut ends both directions in one of the ways in which connections die.
func (m *memory) cut(how int) {
	switch how % 5 {
	case 0: // reset
		m.out.stop(syscall.ECONNRESET, syscall.ECONNRESET, true)
		m.in.stop(syscall.ECONNRESET, syscall.ECONNRESET, true)
	case 1: // silence
		m.out.blackhole()
		m.in.blackhole()
	case 2: // one direction is silent
		m.out.blackhole()
	case 3: // closed on the way
		m.out.stop(io.EOF, syscall.EPIPE, true)
	case 4:
		m.in.stop(io.EOF, syscall.EPIPE, true)
	}
}

func (m *memory) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (m *memory) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (m *memory) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (m *memory) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (m *memory) SetWriteDeadline(time.Time) error { return nil }
