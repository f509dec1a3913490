package agent

import (
	"os"

	"golang.org/x/sys/windows"
)

// lock waits until no other process has locked the file. Closing it unlocks it. The
// range lies behind the content: Windows would let nobody read a locked one.
func lock(f *os.File) error {
	return windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK, 0, 1, 0, &windows.Overlapped{Offset: 1 << 30})
}
