// Package socket names unix sockets whose paths are longer than the system's limit
// for them: 104 bytes or 108, the final zero included.
package socket

import (
	"fmt"
	"os"
	"path/filepath"
)

// maxPath is what every system takes.
const maxPath = 103

// Path is a name by which a socket can be opened and dialled.
type Path struct {
	Name string
	dir  string // temporary; empty: the path is short enough
}

// Shorten returns a name for path, which is the path itself if it is short enough, else
// one that leads there through a symbolic link in a temporary directory of mode 0700. The
// name is good until Close; the directory of path must exist.
func Shorten(path string) (*Path, error) {
	if len(path) <= maxPath {
		return &Path{Name: path}, nil
	}
	dir, err := os.MkdirTemp("", "culvert-")
	if err != nil {
		return nil, fmt.Errorf("shorten socket path: %w", err)
	}
	p := &Path{Name: filepath.Join(dir, "d", filepath.Base(path)), dir: dir}
	if len(p.Name) > maxPath {
		// TMPDIR is long as well; what every Unix has is not.
		_ = os.Remove(dir)
		if dir, err = os.MkdirTemp("/tmp", "culvert-"); err != nil {
			return nil, fmt.Errorf("shorten socket path: %w", err)
		}
		p.dir, p.Name = dir, filepath.Join(dir, "d", filepath.Base(path))
	}
	target, err := filepath.Abs(filepath.Dir(path))
	if err == nil {
		err = os.Symlink(target, filepath.Join(dir, "d"))
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("shorten socket path: %w", err)
	}
	return p, nil
}

// Close removes what Shorten made; the socket is its owner's.
func (p *Path) Close() {
	if p.dir != "" {
		_ = os.Remove(filepath.Join(p.dir, "d"))
		_ = os.Remove(p.dir)
	}
}
