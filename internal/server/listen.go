package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/culvert-tunnel/culvert/internal/server/admin"
)

// Errors of starting a node.
var (
	ErrConfig     = errors.New("wrong configuration")
	ErrDirInUse   = errors.New("another server uses this data directory: stop it, or choose another with --data")
	ErrDirOpen    = errors.New("everybody may write to this data directory, and so become this server: chmod o-w it, or choose another with --data")
	ErrSocketPath = errors.New("the data directory's path is too long for a unix socket: choose one of at most 90 bytes with --data")
)

// makeDataDir makes the data directory, or judges the one that is there. That others
// may read it is no harm, since the files in it are their owner's alone; a group that
// may write is the operator's choice, as with volumes that containers share.
func makeDataDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w: choose another with --data", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	if info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("open %s: %w", dir, ErrDirOpen)
	}
	return nil
}

// lockDir takes the data directory for this process until the file is closed, also
// by the process's death.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w: run as its owner, or choose another with --data", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock data directory %s: %w", dir, ErrDirInUse)
	}
	return f, nil
}

// listen opens all sockets of the node, or none.
func (s *Server) listen(ctx context.Context) (*listeners, error) {
	ls := &listeners{}
	var lc net.ListenConfig
	tcp := func(to *net.Listener, flag, address string) error {
		if address == "" {
			return nil
		}
		l, err := lc.Listen(ctx, "tcp", address)
		if err != nil {
			return explain(err, flag, address)
		}
		*to = l
		return nil
	}
	err := errors.Join(
		tcp(&ls.plain, "--http", s.cfg.HTTP),
		tcp(&ls.secure, "--https", s.cfg.HTTPS),
		tcp(&ls.admin, "--admin", s.cfg.Admin),
	)
	for _, a := range s.cfg.Links {
		var l net.Listener
		err = errors.Join(err, tcp(&l, "--link", a))
		if l != nil {
			ls.links = append(ls.links, l)
		}
	}
	if err == nil {
		ls.socket, err = listenSocket(ctx, filepath.Join(s.cfg.DataDir, admin.SocketFile))
	}
	if err != nil {
		ls.closeAll()
		return nil, err
	}
	s.httpPort, s.httpsPort = portOf(ls.plain), portOf(ls.secure)
	return ls, nil
}

func portOf(l net.Listener) int {
	if l == nil {
		return 0
	}
	if a, ok := l.Addr().(*net.TCPAddr); ok {
		return a.Port
	}
	return 0
}

// listenSocket opens the unix socket. The directory is locked, so a file that is
// there belongs to a server that was killed.
func listenSocket(ctx context.Context, path string) (net.Listener, error) {
	if len(path) > 103 { // sun_path is 104 bytes on some systems, with a final zero
		return nil, ErrSocketPath
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open admin socket: %w", err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("open admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("open admin socket: %w", err)
	}
	return l, nil
}

// explain says what to do about a port that can't be opened.
func explain(err error, flag, address string) error {
	switch {
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("listen on %s: %w: ports below 1024 need root or CAP_NET_BIND_SERVICE; choose another with %s", address, syscall.EACCES, flag)
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listen on %s: %w: stop what uses it, or choose another with %s", address, syscall.EADDRINUSE, flag)
	}
	return fmt.Errorf("listen for %s: %w", flag, err)
}
