package line

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Line is a path between two network namespaces. It needs root.
type Line struct {
	near, far *host
	close     chan struct{}
	tasks     sync.WaitGroup
}

const (
	nearAddress = "10.77.0.1"
	farAddress  = "10.77.0.2"
)

// New makes a line. Close it.
func New(cfg Config) (*Line, error) {
	cfg = cfg.withDefaults()
	near, err := newHost(nearAddress, farAddress, cfg.MTU)
	if err != nil {
		return nil, err
	}
	far, err := newHost(farAddress, nearAddress, cfg.MTU)
	if err != nil {
		near.close()
		return nil, err
	}
	l := &Line{near: near, far: far, close: make(chan struct{})}
	l.carry(cfg, near.tun, far.tun)
	l.carry(cfg, far.tun, near.tun)
	return l, nil
}

// Close ends the line and all that goes over it.
func (l *Line) Close() {
	close(l.close)
	l.near.close()
	l.far.close()
	l.tasks.Wait()
}

// Near is the one end.
func (l *Line) Near() Host { return l.near }

// Far is the other end.
func (l *Line) Far() Host { return l.far }

// IP implements Host.
func (h *host) IP() string { return h.ip }

// Listen implements Host.
func (h *host) Listen(ctx context.Context, address string) (net.Listener, error) {
	var ln net.Listener
	err := h.do(func() (err error) {
		ln, err = Loopback.Listen(ctx, address)
		return err
	})
	return ln, err
}

// Dial implements Host.
func (h *host) Dial(ctx context.Context, address string) (net.Conn, error) {
	var c net.Conn
	err := h.do(func() (err error) {
		c, err = Loopback.Dial(ctx, address)
		return err
	})
	return c, err
}

// Start implements Host: a process belongs to the namespace of the thread that made it.
func (h *host) Start(cmd *exec.Cmd) error { return h.do(cmd.Start) }

// packet on its way.
type packet struct {
	data []byte
	due  time.Time
}

// carry moves packets from one device to the other: first through the queue at the
// line's rate, then over the distance.
func (l *Line) carry(cfg Config, from, to *os.File) {
	way := make(chan packet, 1<<16)
	l.tasks.Go(func() {
		defer close(way)
		var free time.Time // when the line has sent what is in the queue
		buf := make([]byte, cfg.MTU+64)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			now := time.Now()
			if free.Before(now) {
				free = now
			}
			if cfg.Rate > 0 {
				if int64(free.Sub(now).Seconds()*float64(cfg.Rate)/8) > int64(cfg.Queue) {
					continue // the queue is full
				}
				free = free.Add(time.Duration(float64(n*8) / float64(cfg.Rate) * float64(time.Second)))
			}
			if cfg.Loss > 0 && rand.Float64() < cfg.Loss { //nolint:gosec // chance, not a secret
				continue
			}
			select {
			case way <- packet{append([]byte(nil), buf[:n]...), free.Add(cfg.Delay)}:
			case <-l.close:
				return
			}
		}
	})
	l.tasks.Go(func() {
		for p := range way {
			if wait := time.Until(p.due); wait > 0 {
				select {
				case <-time.After(wait):
				case <-l.close:
					return
				}
			}
			if _, err := to.Write(p.data); err != nil {
				return
			}
		}
	})
}

// host is a network namespace, entered by one thread.
type host struct {
	ip   string
	tun  *os.File
	work chan func()
}

func newHost(own, other string, mtu int) (*host, error) {
	h := &host{ip: own, work: make(chan func())}
	ready := make(chan error)
	go func() {
		// The thread is in another namespace now and ends with this goroutine.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			h.tun, err = openTUN()
		}
		if err == nil {
			err = configure(own, other, mtu)
		}
		ready <- err
		if err != nil {
			return
		}
		for f := range h.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		if h.tun != nil {
			_ = h.tun.Close()
		}
		return nil, fmt.Errorf("make a network namespace with a TUN device (needs root): %w", err)
	}
	return h, nil
}

func (h *host) do(f func() error) error {
	done := make(chan error)
	h.work <- func() { done <- f() }
	return <-done
}

func (h *host) close() {
	_ = h.tun.Close()
	close(h.work)
}

const device = "line0"

func openTUN() (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(device)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), device), nil
}

// configure runs in the namespace's thread, which its children share it with.
func configure(own, other string, mtu int) error {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"addr", "add", own, "peer", other, "dev", device},
		{"link", "set", device, "mtu", strconv.Itoa(mtu), "txqueuelen", "1000", "up"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
	}
	return nil
}
