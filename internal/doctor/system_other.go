//go:build !unix

package doctor

// diskFree is not told here.
func diskFree(string) (uint64, bool) { return 0, false }

// limits: there is none of open sockets here.
func limits(*Report) {}
