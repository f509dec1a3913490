package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/culvert-tunnel/culvert/internal/server/admin"
	"github.com/culvert-tunnel/culvert/internal/server/edge"
	"github.com/culvert-tunnel/culvert/internal/socket"
)

// Errors of starting a node.
var (
	ErrConfig   = errors.New("wrong configuration")
	ErrDirInUse = errors.New("another server uses this data directory: stop it, or choose another with --data")
	ErrDirOpen  = errors.New("everybody may write to this data directory, and so become this server: chmod o-w it, or choose another with --data")
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
	if err := tryLock(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock data directory %s: %w", dir, ErrDirInUse)
	}
	return f, nil
}

// listen opens all sockets of the node, or none.
func (s *Server) listen(ctx context.Context) (*listeners, error) {
	ls := &listeners{}
	tcp := func(to *net.Listener, flag, address string) error {
		if address == "" {
			return nil
		}
		l, err := s.inherited.listen(ctx, "tcp", address)
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
		tcp(&ls.peer, "--peer", s.cfg.Peer),
	)
	for _, a := range s.cfg.Links {
		var l net.Listener
		err = errors.Join(err, tcp(&l, "--link", a))
		if l != nil {
			ls.links = append(ls.links, l)
		}
	}
	if err == nil {
		s.peerAddress, err = s.advertise(ls.peer)
	}
	if a := s.cfg.LinkAdvertise; err == nil && a != "" {
		s.linkAddress, err = advertised("--link-advertise", a, portOf(ls.secure))
	}
	if err == nil {
		ls.socket, err = s.listenSocket(ctx, filepath.Join(s.cfg.DataDir, admin.SocketFile))
	}
	if err == nil {
		ls.upgrade, err = s.listenSocket(ctx, filepath.Join(s.cfg.DataDir, upgradeFile))
	}
	if err != nil {
		ls.closeAll()
		return nil, err
	}
	s.listenQUIC(ctx, ls)
	s.httpPort, s.httpsPort = portOf(ls.plain), portOf(ls.secure)
	return ls, nil
}

// listenQUIC opens the UDP sides of the ports for visitors' TLS and for agents. Everybody
// does without: it is no reason not to start.
func (s *Server) listenQUIC(ctx context.Context, ls *listeners) {
	open := func(l net.Listener, visitors bool, without string) {
		if l == nil || !visitors && s.cfg.NoQUIC {
			return
		}
		socket, err := s.inherited.listenPacket(ctx, "udp", l.Addr().String())
		if err != nil {
			s.cfg.Logger.Warn("no QUIC: a UDP port can't be opened", "advice", "free it, or say "+without, "error", err)
			return
		}
		ls.quic = append(ls.quic, edge.QUIC{PacketConn: socket, Visitors: visitors, Links: !s.cfg.NoQUIC})
	}
	open(ls.secure, !s.cfg.NoHTTP3, "--http3=false --quic=false")
	for _, l := range ls.links {
		open(l, false, "--quic=false")
	}
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

// addrOf is the address of a listener that may not be there.
func addrOf(l net.Listener) net.Addr {
	if l == nil {
		return nil
	}
	return l.Addr()
}

// listenSocket opens a unix socket. The directory is locked, so a file that is there
// belongs to a server that was killed, or is the predecessor's, whose socket goes on.
func (s *Server) listenSocket(ctx context.Context, path string) (net.Listener, error) {
	if l := s.inherited.take("unix", path); l != nil {
		return &socketListener{Listener: l, file: path}, nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open admin socket: %w", err)
	}
	short, err := socket.Shorten(path)
	if err != nil {
		return nil, fmt.Errorf("open admin socket: %w", err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", short.Name)
	if err == nil {
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		short.Close()
		return nil, fmt.Errorf("open admin socket: %w", err)
	}
	short.Close()
	return &socketListener{Listener: l, file: path}, nil
}

// socketListener is a listener whose file is removed with it.
type socketListener struct {
	net.Listener
	file   string
	once   sync.Once
	handed atomic.Bool // the file is another process's now
}

func (l *socketListener) Close() error {
	l.once.Do(func() {
		if !l.handed.Load() {
			_ = os.Remove(l.file)
		}
	})
	return l.Listener.Close()
}

// handOver closes what administration comes in by: it is another process's.
func (l *listeners) handOver() {
	for _, x := range []net.Listener{l.socket, l.upgrade} {
		if s, ok := x.(*socketListener); ok {
			s.handed.Store(true)
		}
	}
	for _, x := range []net.Listener{l.admin, l.peer, l.socket, l.upgrade} {
		if x != nil {
			_ = x.Close()
		}
	}
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
