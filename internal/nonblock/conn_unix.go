//go:build unix

package nonblock

import (
	"io"
	"net"
	"os"
	"syscall"
)

// conn is a TCP connection that is read and written by the calls of this package. Like any
// other, it takes one Read and one Write at a time, and both wait.
type conn struct {
	*net.TCPConn
	raw     syscall.RawConn
	in, out transfer
}

// transfer is one direction.
type transfer struct {
	p       []byte
	n       int
	err     error
	attempt func(fd uintptr) bool // made once
}

// Of returns a connection that is c, but read and written by the calls of this package; c
// itself, where it is not of TCP.
func Of(c net.Conn) net.Conn {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return c
	}
	s := &conn{TCPConn: tcp, raw: raw}
	s.in.attempt, s.out.attempt = s.read, s.write
	return s
}

// Bare returns c as it was.
func (c *conn) Bare() net.Conn { return c.TCPConn }

// Reset ends c so that the other side sees that it did not end well.
func (c *conn) Reset() error {
	_ = c.SetLinger(0)
	return c.Close()
}

func (c *conn) read(fd uintptr) bool {
	c.in.n, c.in.err = Read(fd, c.in.p)
	return c.in.err != syscall.EAGAIN //nolint:errorlint // an errno
}

func (c *conn) write(fd uintptr) bool {
	for c.out.n < len(c.out.p) {
		p := c.out.p[c.out.n:]
		n, err := Write(fd, p[:min(len(p), atOnce)])
		if err == syscall.EAGAIN { //nolint:errorlint // an errno
			return false
		}
		if c.out.err = err; err != nil {
			return true
		}
		c.out.n += n
	}
	return true
}

// atOnce is how much one call writes at most.
const atOnce = 256 << 10

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.in.p, c.in.n, c.in.err = p, 0, nil
	err := c.raw.Read(c.in.attempt)
	c.in.p = nil
	switch {
	case err != nil:
		return 0, err
	case c.in.err != nil:
		return 0, c.fault("read", c.in.err)
	case c.in.n == 0:
		return 0, io.EOF
	}
	return c.in.n, nil
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	c.out.p, c.out.n, c.out.err = p, 0, nil
	err := c.raw.Write(c.out.attempt)
	c.out.p = nil
	if err == nil && c.out.err != nil {
		err = c.fault("write", c.out.err)
	}
	return c.out.n, err
}

// fault is the error that the connection itself would return.
func (c *conn) fault(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError(op, err)}
}
