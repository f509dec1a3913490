//go:build unix && (race || !linux)

package nonblock

import "syscall"

// The race detector knows by package syscall what happens before what, and elsewhere there
// is no other way.

// Read reads once. The error is a syscall.Errno, EAGAIN where there is nothing.
func Read(fd uintptr, p []byte) (int, error) { return again(syscall.Read, fd, p) }

// Write writes once, what there is room for.
func Write(fd uintptr, p []byte) (int, error) { return again(syscall.Write, fd, p) }

func again(call func(int, []byte) (int, error), fd uintptr, p []byte) (int, error) {
	for {
		n, err := call(int(fd), p) //nolint:gosec // a descriptor fits
		if err == nil {
			return n, nil
		}
		if err != syscall.EINTR { //nolint:errorlint // an errno
			return 0, err
		}
	}
}
