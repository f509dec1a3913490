//go:build unix

package agent

import (
	"os"
	"syscall"
)

// lock waits until no other process has locked the file. Closing it unlocks it.
func lock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX) }
