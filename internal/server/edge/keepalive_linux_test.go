package edge

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-tunnel/culvert/internal/splice"
)

// TestKeepAlive: an endpoint's keep-alive is the socket's, below whatever is around it.
func TestKeepAlive(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	dial(t, l.Addr().String())
	c, err := l.Accept()
	check(t, err)
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	check(t, err)
	option := func(level, name int) (value int) {
		t.Helper()
		check(t, raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, name) }))
		check(t, err)
		return value
	}
	is := func(what string, on, idle, interval int) {
		t.Helper()
		got := [3]int{option(unix.SOL_SOCKET, unix.SO_KEEPALIVE), option(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE), option(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)}
		if got != [3]int{on, idle, interval} {
			t.Errorf("%s: %v, want %v", what, got, [3]int{on, idle, interval})
		}
	}
	wrapped := splice.Prepend(c, []byte("read already"))
	is("as it comes", 1, 15, 15)
	keepAlive(wrapped, 0)
	is("the node's own", 1, 15, 15)
	keepAlive(wrapped, 2*time.Second)
	is("short", 1, 2, 2)
	keepAlive(wrapped, time.Hour)
	is("long", 1, 3600, 15)
	keepAlive(wrapped, -time.Millisecond)
	is("off", 0, 3600, 15)
}
