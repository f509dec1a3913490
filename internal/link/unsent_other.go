//go:build unix && !linux

package link

import "syscall"

// boundUnsent is for systems that have TCP_NOTSENT_LOWAT.
func boundUnsent(syscall.RawConn) {}

// boundUnanswered is for systems that have TCP_USER_TIMEOUT.
func boundUnanswered(syscall.RawConn) {}

// unacknowledged is for systems that tell.
func unacknowledged(syscall.RawConn) int64 { return 0 }
