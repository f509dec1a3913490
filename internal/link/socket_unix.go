//go:build unix

package link

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/culvert-tunnel/culvert/internal/nonblock"
)

// socket makes system calls that do not block on a TCP connection.
type socket struct {
	raw syscall.RawConn
	buf *[readBatch]byte
	max int // bytes of buf to be read
	n   int
	err error
	fn  func(fd uintptr) bool // attempt, made once
}

func newSocket(c net.Conn) *socket {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	boundUnsent(raw)
	boundUnanswered(raw)
	s := &socket{raw: raw}
	s.fn = s.attempt
	return s
}

// attempt takes a buffer for one try to read, and gives it back if there is
// nothing.
func (s *socket) attempt(fd uintptr) bool {
	s.buf = readBuffers.Get().(*[readBatch]byte)
	s.n, s.err = nonblock.Read(fd, s.buf[:s.max])
	if errors.Is(s.err, syscall.EAGAIN) {
		readBuffers.Put(s.buf)
		s.buf = nil
		return false
	}
	return true
}

// read waits for bytes and returns them, at most so many, in a buffer of the pool.
func (s *socket) read(most int) (*[readBatch]byte, int, error) {
	s.buf, s.max, s.n, s.err = nil, most, 0, nil
	err := s.raw.Read(s.fn)
	buf := s.buf
	s.buf = nil
	switch {
	case err != nil:
	case s.err != nil:
		err = os.NewSyscallError("read", s.err)
	case s.n == 0:
		err = io.EOF
	default:
		return buf, s.n, nil
	}
	if buf != nil {
		readBuffers.Put(buf)
	}
	return nil, 0, err
}

// write sends what it can at once and returns how much of p that was.
func (s *socket) write(fd uintptr, p []byte) (int, error) {
	sent := 0
	for sent < len(p) {
		n, err := nonblock.Write(fd, p[sent:])
		switch {
		case errors.Is(err, syscall.EAGAIN):
			return sent, nil
		case err != nil:
			return sent, os.NewSyscallError("write", err)
		}
		sent += n
	}
	return sent, nil
}

// delivered is how many bytes of what was collected have reached the other machine.
func (r *records) delivered() int64 {
	r.mu.Lock()
	total := r.mu.total
	r.mu.Unlock()
	return total - unacknowledged(r.socket.raw)
}

// tryLocked sends what can be sent at once.
func (r *records) tryLocked() {
	err := r.socket.raw.Write(func(fd uintptr) bool {
		r.sendLocked(fd)
		return true
	})
	if err != nil && r.mu.err == nil {
		r.mu.err = err
	}
}

// sendLocked sends what can be sent, and returns how much and whether nothing is left,
// or nothing can be sent any more.
func (r *records) sendLocked(fd uintptr) (int, bool) {
	n, err := r.socket.write(fd, (*r.mu.out)[r.mu.sent:])
	r.mu.sent += n
	r.mu.total += int64(n)
	if err == nil && r.mu.sent < len(*r.mu.out) {
		return n, false
	}
	r.mu.err = err
	r.releaseLocked()
	return n, true
}

// flush is Flush of yamux.BufferedConn. The lock is not held while it waits: a reply of
// TLS itself may be added then.
func (r *records) flush(wait bool) (n int, done bool, err error) {
	err = r.socket.raw.Write(func(fd uintptr) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.mu.out == nil {
			done = true
			return true
		}
		n, done = r.sendLocked(fd)
		return done || n > 0 || !wait
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && r.mu.err == nil {
		r.mu.err = err
	}
	return n, done, r.mu.err
}

// socketOf returns the socket that r is, to be read without a buffer held; nil: none.
func socketOf(r io.Reader) *socket {
	var raw syscall.RawConn
	var err error
	switch c := r.(type) {
	case *net.TCPConn:
		raw, err = c.SyscallConn()
	case *net.UnixConn:
		raw, err = c.SyscallConn()
	}
	if raw == nil || err != nil {
		return nil
	}
	s := &socket{raw: raw}
	s.fn = s.attempt
	return s
}
