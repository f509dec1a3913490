//go:build unix

package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// processor is the processor time that the process has used.
func processor() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
