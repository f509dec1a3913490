//go:build unix

package doctor

import "golang.org/x/sys/unix"

// diskFree is how much this user may still write where dir is, in bytes.
func diskFree(dir string) (uint64, bool) {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return 0, false
	}
	return st.Bavail * uint64(st.Bsize), true //nolint:gosec // positive; its type differs between systems
}

// Files that a server may have open: each visitor and each agent takes one.
const (
	filesFail = 1024
	filesWarn = 16 << 10
)

// limits looks at the limit of open files. Go programs raise the soft one to the hard
// one by themselves, so that the latter counts.
func limits(r *Report) {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		r.add("open files", Skip, "", "this system does not tell its limit")
		return
	}
	const advice = "raise LimitNOFILE in the service's unit, or ulimit -Hn"
	switch n := l.Max; {
	case n <= filesFail:
		r.add("open files", Fail, advice, "at most %d, of which each visitor takes one", n)
	case n < filesWarn:
		r.add("open files", Warn, advice, "at most %d, of which each visitor takes one", n)
	default:
		r.add("open files", OK, "", "at most %d", n)
	}
}
