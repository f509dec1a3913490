package link

import (
	"syscall"
	"time"
	"unsafe"
)

// unsentLimit bounds what a socket takes beyond what it has sent, in bytes: what is
// in the socket can't be overtaken by something more urgent.
const unsentLimit = 64 << 10

const tcpNotSentLowat = 25 // TCP_NOTSENT_LOWAT of linux/tcp.h

func boundUnsent(raw syscall.RawConn) {
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowat, unsentLimit)
	})
}

// unanswered is how long the kernel waits for the other machine to acknowledge what was
// sent, or to take it: as long as it takes to notice silence.
const unanswered = 12 * time.Second

const tcpUserTimeout = 18 // TCP_USER_TIMEOUT of linux/tcp.h

func boundUnanswered(raw syscall.RawConn) {
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(unanswered.Milliseconds()))
	})
}

const siocOutQ = 0x5411 // SIOCOUTQ of linux/sockios.h

// unacknowledged is how many bytes the socket holds that the other machine has not
// acknowledged.
func unacknowledged(raw syscall.RawConn) int64 {
	var n int32
	_ = raw.Control(func(fd uintptr) {
		_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, fd, siocOutQ, uintptr(unsafe.Pointer(&n)))
	})
	return int64(n)
}
