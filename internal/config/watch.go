package config

import (
	"io/fs"
	"os"
	"time"
)

// Watch tells when a file has been saved. It looks instead of being told: that also
// sees editors that put a new file in the old one's place, mounted directories whose
// symlink is switched, and file systems of the network, none of which a watch of one
// inode does.
type Watch struct {
	path    string
	settled fs.FileInfo // last reported; nil: no file
	seen    fs.FileInfo // at the last look
}

// WatchInterval is how often to look.
const WatchInterval = 500 * time.Millisecond

// NewWatch makes a Watch of the file as it is now: make it before reading the file.
func NewWatch(path string) *Watch {
	w := &Watch{path: path}
	w.settled = w.stat()
	w.seen = w.settled
	return w
}

func (w *Watch) stat() fs.FileInfo {
	i, err := os.Stat(w.path)
	if err != nil {
		return nil
	}
	return i
}

// Changed looks, and reports once that the file is another than before, as soon as
// two looks in a row found it the same: a file that is just being written is not
// read half.
func (w *Watch) Changed() bool {
	now := w.stat()
	quiet := same(now, w.seen)
	w.seen = now
	if !quiet || same(now, w.settled) {
		return false
	}
	w.settled = now
	return true
}

func same(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
