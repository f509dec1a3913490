package server

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// A node is upgraded in place by a second process on the same data directory. The two meet
// at a unix socket there. The older one lets go of the store, whose engine takes one
// process at a time, serves on from memory, and hands its listening sockets over. The
// newer one opens the store and says that it serves; the older one stops accepting, sends
// its agents there and drains. Should the newer one fail, or vanish, the older one takes
// the store back and has refused nobody in between but agents who wanted new names, who
// ask again.

// upgradeFile is the unix socket in the data directory where a successor asks.
const upgradeFile = "upgrade.sock"

// Errors of an upgrade.
var (
	ErrNoUpgrade   = errors.New("this system can't hand sockets over: stop the running server instead")
	errHandover    = errors.New("the running server does not hand over: see its log")
	errNoSuccessor = errors.New("the new server has not come up")
)

// Bounds of a handover.
const (
	handoverTimeout = 30 * time.Second // for each step of the other side
	retakeEvery     = 200 * time.Millisecond
	maxInherited    = 1 << 17 // sockets; all ports of tcp and udp, in both families
	serving         = 'S'     // says the successor
)

// handOver waits for successors, and returns once one serves.
func (s *Server) handOver(ctx context.Context, ls *listeners) error {
	for {
		c, err := ls.upgrade.Accept()
		if err != nil {
			return err
		}
		err = s.succeed(ctx, c.(*net.UnixConn), ls) // what a unix listener accepts
		_ = c.Close()
		if err == nil {
			s.store.Follow(ctx) // tokens may be revoked while visits end
			s.succeeded.Store(true)
			return nil
		}
		s.cfg.Logger.Error("upgrade failed: this server goes on", "error", err)
		if !s.retake(ctx) {
			return nil
		}
	}
}

// succeed serves one successor up to where it serves.
func (s *Server) succeed(ctx context.Context, c *net.UnixConn, ls *listeners) error {
	s.cfg.Logger.Info("upgrade begins: a new server takes over")
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	s.stopKeeping()
	s.store.Suspend()
	_ = s.lock.Close()
	_ = c.SetDeadline(time.Now().Add(handoverTimeout))
	if err := sendSockets(c, s.sockets(ls)); err != nil {
		return err
	}
	_ = c.SetDeadline(time.Now().Add(2 * handoverTimeout))
	var answer [1]byte
	if n, err := c.Read(answer[:]); n != 1 || answer[0] != serving {
		return errors.Join(errNoSuccessor, err)
	}
	return nil
}

// retake takes the store back, as soon as the successor is gone. It reports whether it
// could before ctx ended.
func (s *Server) retake(ctx context.Context) bool {
	for said := false; ctx.Err() == nil; said = true {
		lock, err := lockDir(s.cfg.DataDir)
		if err == nil {
			s.lock = lock
			if err = s.store.Resume(ctx); err == nil {
				s.stopKeeping = s.keep(ctx)
				return true
			}
			_ = lock.Close()
		}
		if !said {
			s.cfg.Logger.Warn("the store can't be taken back yet", "error", err)
		}
		select {
		case <-time.After(retakeEvery):
		case <-ctx.Done():
		}
	}
	return false
}

// sockets are all that visitors, agents and administration come in by.
func (s *Server) sockets(ls *listeners) []syscall.Conn {
	var all []syscall.Conn
	add := func(x any) {
		if l, ok := x.(*socketListener); ok {
			x = l.Listener
		}
		if c, ok := x.(syscall.Conn); ok {
			all = append(all, c)
		}
	}
	for _, l := range append([]net.Listener{ls.plain, ls.secure, ls.admin, ls.peer, ls.socket, ls.upgrade}, ls.links...) {
		add(l)
	}
	for _, q := range ls.quic {
		add(q.PacketConn)
	}
	for _, p := range s.registry.Ports() {
		if many, ok := p.(interface{ Sockets() []syscall.Conn }); ok {
			all = append(all, many.Sockets()...)
		} else {
			add(p)
		}
	}
	return all
}

// predecessor is the running server that this one replaces.
type predecessor struct{ conn *net.UnixConn }

// served tells it that this one serves.
func (p *predecessor) served() error {
	_ = p.conn.SetDeadline(time.Now().Add(handoverTimeout))
	_, err := p.conn.Write([]byte{serving})
	_ = p.conn.Close()
	return err
}

// takeOver makes this server the one of its data directory: by the running one's leave, if
// there is one and an upgrade is asked for, else by the lock.
func (s *Server) takeOver(ctx context.Context) (err error) {
	if s.cfg.Upgrade {
		if s.before, err = s.meetPredecessor(ctx); err != nil {
			return err
		}
	}
	if s.lock == nil {
		s.lock, err = lockDir(s.cfg.DataDir)
	}
	return err
}

// leave lets go of a predecessor that this server has not replaced.
func (s *Server) leavePredecessor() {
	if s.before != nil {
		_ = s.before.conn.Close()
	}
}

// absent reports whether an error says that no server is running.
func absent(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// keep keeps the store and this node in step until the function that it returns is called.
func (s *Server) keep(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	tasks.Go(func() { _ = s.presence.Run(ctx, s.registry.Regained) }) // they end with ctx
	tasks.Go(func() { _ = s.registry.Run(ctx) })
	tasks.Go(func() { _ = s.events.Run(ctx) })
	tasks.Go(func() { _ = s.keepHome(ctx) })
	return func() {
		cancel()
		tasks.Wait()
	}
}

// giveUpInherited closes the sockets that are nobody's when agents have had the time to
// ask for their ports.
func (s *Server) giveUpInherited(ctx context.Context) error {
	select {
	case <-time.After(move + s.registry.Grace()):
	case <-ctx.Done():
	}
	s.inherited.close()
	return nil
}
