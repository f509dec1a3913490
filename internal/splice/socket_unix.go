//go:build unix

package splice

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/culvert-tunnel/culvert/internal/nonblock"
)

// socketReader reads a socket without holding a buffer while there is nothing to
// read: the buffer is taken for each attempt and put back when it finds nothing.
// That costs no system call more than Read does. nil: the socket is closed.
func socketReader(c *net.TCPConn) func() (*[]byte, int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	var buf *[]byte
	var n int
	var rerr error
	attempt := func(fd uintptr) bool {
		buf = buffers.Get().(*[]byte)
		n, rerr = nonblock.Read(fd, *buf)
		if errors.Is(rerr, syscall.EAGAIN) {
			buffers.Put(buf)
			buf = nil
			return false
		}
		return true
	}
	return func() (*[]byte, int, error) {
		buf, n, rerr = nil, 0, nil
		if err := raw.Read(attempt); err != nil {
			return buf, 0, err // closed, or past its deadline
		}
		switch {
		case rerr != nil:
			return buf, 0, &net.OpError{Op: "read", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError("read", rerr)}
		case n == 0:
			return buf, 0, io.EOF
		}
		return buf, n, nil
	}
}
