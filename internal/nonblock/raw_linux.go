//go:build !race

package nonblock

import (
	"syscall"
	"unsafe"
)

// Read reads once. The error is a syscall.Errno, EAGAIN where there is nothing.
func Read(fd uintptr, p []byte) (int, error) {
	return call(syscall.SYS_READ, fd, unsafe.Pointer(unsafe.SliceData(p)), len(p))
}

// Write writes once, what there is room for.
func Write(fd uintptr, p []byte) (int, error) {
	return call(syscall.SYS_WRITE, fd, unsafe.Pointer(unsafe.SliceData(p)), len(p))
}

// Readv is Read into several buffers, Writev is Write of several. There must be one.
func Readv(fd uintptr, iov []syscall.Iovec) (int, error) {
	return call(syscall.SYS_READV, fd, unsafe.Pointer(&iov[0]), len(iov))
}

// Writev is described with Readv.
func Writev(fd uintptr, iov []syscall.Iovec) (int, error) {
	return call(syscall.SYS_WRITEV, fd, unsafe.Pointer(&iov[0]), len(iov))
}

// call calls until it isn't interrupted.
func call(trap, fd uintptr, p unsafe.Pointer, n int) (int, error) {
	for {
		done, _, errno := syscall.RawSyscall(trap, fd, uintptr(p), uintptr(n)) //nolint:gosec // a length
		switch errno {
		case 0:
			return int(done), nil //nolint:gosec // at most n
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}
