//go:build unix

package link

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// socket makes system calls that do not block on a TCP connection.
type socket struct {
	raw syscall.RawConn
	buf *[readBatch]byte
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
	s := &socket{raw: raw}
	s.fn = s.attempt
	return s
}

// attempt takes a buffer for one try to read, and gives it back if there is
// nothing.
func (s *socket) attempt(fd uintptr) bool {
	s.buf = readBuffers.Get().(*[readBatch]byte)
	for {
		s.n, s.err = syscall.Read(int(fd), s.buf[:]) //nolint:gosec // a descriptor fits
		if !errors.Is(s.err, syscall.EINTR) {
			break
		}
	}
	if errors.Is(s.err, syscall.EAGAIN) {
		readBuffers.Put(s.buf)
		s.buf = nil
		return false
	}
	return true
}

// read waits for bytes and returns them in a buffer of the pool.
func (s *socket) read() (*[readBatch]byte, int, error) {
	s.buf, s.n, s.err = nil, 0, nil
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
		n, err := syscall.Write(int(fd), p[sent:]) //nolint:gosec // a descriptor fits
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EAGAIN):
			return sent, nil
		case err != nil:
			return sent, os.NewSyscallError("write", err)
		}
		sent += max(n, 0)
	}
	return sent, nil
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
