//go:build !unix

package edge

import "syscall"

// hungUp can't be known here.
func hungUp(syscall.RawConn) bool { return false }
