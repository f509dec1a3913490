package link

import "syscall"

// unsentLimit bounds what a socket takes beyond what it has sent, in bytes: what is
// in the socket can't be overtaken by something more urgent.
const unsentLimit = 64 << 10

const tcpNotSentLowat = 25 // TCP_NOTSENT_LOWAT of linux/tcp.h

func boundUnsent(raw syscall.RawConn) {
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowat, unsentLimit)
	})
}
