package cli

import (
	"bufio"
	"bytes"
	"os"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"
)

// settle gives back the memory that only starting took. Most of it are pages of the binary:
// each package's start touches a few, the server's packages too, and the system maps large
// pieces around each. They stay in its cache, and come back when they are used. What the
// process has written to, such as what a loader relocated or a debugger set, is let be.
func settle() error {
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return err
	}
	for _, p := range unwritten(maps, exe) {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, p.from, p.to-p.from, unix.MADV_DONTNEED); errno != 0 {
			return errno
		}
	}
	return nil
}

// pages are a piece of the address space.
type pages struct{ from, to uintptr }

// unwritten finds, in the text of smaps, what is mapped of a file that the process can't
// write to, and never did.
func unwritten(maps []byte, file string) []pages {
	var list []pages
	var p pages
	s := bufio.NewScanner(bytes.NewReader(maps))
	for s.Scan() {
		f := bytes.Fields(s.Bytes())
		if len(f) < 2 {
			continue
		}
		if from, to, ok := bytes.Cut(f[0], []byte("-")); ok {
			p = pages{}
			if len(f) == 6 && string(f[5]) == file && f[1][1] != 'w' && f[1][3] == 'p' {
				p = pages{address(from), address(to)}
			}
		} else if string(f[0]) == "Anonymous:" && string(f[1]) == "0" && p.from < p.to {
			list = append(list, p)
		}
	}
	return list
}

func address(hex []byte) uintptr {
	n, err := strconv.ParseUint(string(hex), 16, 64)
	if err != nil {
		return 0
	}
	return uintptr(n)
}
