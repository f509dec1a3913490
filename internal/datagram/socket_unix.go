//go:build unix

package datagram

import (
	"errors"
	"net"
	"os"
	"syscall"

	"github.com/culvert-tunnel/culvert/internal/nonblock"
)

// Receive reads datagrams from a connected socket until an error, which it returns.
// each must not keep its argument. While nothing comes, no buffer is held: an idle flow
// would cost 64 KiB otherwise.
func Receive(c net.Conn, each func(datagram []byte)) error {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return receive(c, each)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	var buf *[]byte
	var n int
	var failed error
	attempt := func(fd uintptr) bool {
		buf = batches.Get().(*[]byte)
		n, failed = nonblock.Read(fd, (*buf)[:MaxSize])
		if errors.Is(failed, syscall.EAGAIN) {
			batches.Put(buf)
			return false
		}
		return true
	}
	for {
		if err := raw.Read(attempt); err != nil {
			return err
		}
		if failed != nil {
			batches.Put(buf)
			return &net.OpError{Op: "read", Net: c.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError("read", failed)}
		}
		each((*buf)[:n])
		batches.Put(buf)
	}
}
