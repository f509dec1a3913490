package doctor

import (
	"net"

	"golang.org/x/sys/unix"
)

// minMTU is what every path carries in IPv6 (RFC 8200, section 5).
const minMTU = 1280

// pathMTU tells what the kernel believes of the path of a connection.
func pathMTU(r *Report, c net.Conn) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return
	}
	level, option := unix.IPPROTO_IP, unix.IP_MTU
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok && a.IP.To4() == nil {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	mtu := 0
	if cerr := raw.Control(func(fd uintptr) { mtu, err = unix.GetsockoptInt(int(fd), level, option) }); cerr != nil || err != nil {
		return // the kernel knows nothing
	}
	if mtu < minMTU {
		r.add("mtu", Warn, "see which tunnel or VPN on the way has it", "the path to %s carries packets of %d bytes only", c.RemoteAddr(), mtu)
		return
	}
	r.add("mtu", OK, "", "the path to %s carries packets of %d bytes", c.RemoteAddr(), mtu)
}
