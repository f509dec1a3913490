//go:build unix && !linux

package link

import "syscall"

// boundUnsent is for systems that have TCP_NOTSENT_LOWAT.
func boundUnsent(syscall.RawConn) {}
