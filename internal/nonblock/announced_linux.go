//go:build race

package nonblock

import (
	"syscall"
	"unsafe"
)

// Readv is Read into several buffers, Writev is Write of several. There must be one.
func Readv(fd uintptr, iov []syscall.Iovec) (int, error) {
	return vectored(syscall.SYS_READV, fd, iov)
}

// Writev is described with Readv.
func Writev(fd uintptr, iov []syscall.Iovec) (int, error) {
	return vectored(syscall.SYS_WRITEV, fd, iov)
}

func vectored(trap, fd uintptr, iov []syscall.Iovec) (int, error) {
	for {
		n, _, errno := syscall.Syscall(trap, fd, uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
		switch errno {
		case 0:
			return int(n), nil //nolint:gosec // at most what iov holds
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}
