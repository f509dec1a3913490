package fault

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// breaker is a TCP proxy in front of the server that does to links what networks do.
type breaker struct {
	t      *testing.T
	l      net.Listener
	target string
	rate   atomic.Int64 // bytes per second and direction; 0: any
	tasks  sync.WaitGroup

	mu      sync.Mutex
	pairs   map[*pair]bool
	refuses bool
}

// pair is one connection through the breaker.
type pair struct {
	agent, node *net.TCPConn
	silent      atomic.Bool  // what arrives is thrown away
	left        atomic.Int64 // bytes that still pass before a cut; negative: any
}

func newBreaker(t *testing.T, target string) *breaker {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	b := &breaker{t: t, l: l, target: target, pairs: make(map[*pair]bool)}
	b.tasks.Go(b.accept)
	t.Cleanup(func() {
		_ = l.Close()
		b.cut(reset)
		b.tasks.Wait()
	})
	return b
}

func (b *breaker) address() string { return b.l.Addr().String() }

func (b *breaker) accept() {
	for {
		c, err := b.l.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		refuses := b.refuses
		b.mu.Unlock()
		if refuses {
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
			continue
		}
		node, err := net.DialTimeout("tcp", b.target, patience)
		if err != nil {
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
			continue
		}
		p := &pair{agent: c.(*net.TCPConn), node: node.(*net.TCPConn)}
		p.left.Store(-1)
		b.mu.Lock()
		b.pairs[p] = true
		b.mu.Unlock()
		var both sync.WaitGroup
		both.Go(func() { b.carry(p, p.agent, p.node) })
		both.Go(func() { b.carry(p, p.node, p.agent) })
		b.tasks.Go(func() {
			both.Wait()
			b.mu.Lock()
			delete(b.pairs, p)
			b.mu.Unlock()
			_, _ = p.agent.Close(), p.node.Close()
		})
	}
}

// carry copies one direction until it ends or is cut.
func (b *breaker) carry(p *pair, from, to *net.TCPConn) {
	buf := make([]byte, 64<<10)
	for {
		size := len(buf)
		rate := b.rate.Load()
		if rate > 0 {
			size = int(min(int64(size), max(rate/50, 1)))
		}
		n, err := from.Read(buf[:size])
		if n > 0 && !p.silent.Load() {
			if left := p.left.Load(); left >= 0 && p.left.Add(-int64(n)) < 0 {
				_, _ = to.Write(buf[:min(int64(n), left)]) // half a write, and no more
				p.end(reset)
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				p.end(reset)
				return
			}
			if rate > 0 {
				<-time.After(time.Duration(n) * time.Second / time.Duration(rate))
			}
		}
		if errors.Is(err, io.EOF) && !p.silent.Load() {
			_ = to.CloseWrite()
			return
		}
		if err != nil {
			if !p.silent.Load() {
				p.end(reset)
			}
			return
		}
	}
}

// how a link dies.
type how int

const (
	reset  how = iota // both sides see a reset
	closes            // both sides see an orderly end
	half              // a reset in the middle of a write
	silent            // neither side sees anything
)

func (p *pair) end(h how) {
	if h == reset {
		_, _ = p.agent.SetLinger(0), p.node.SetLinger(0)
	}
	_, _ = p.agent.Close(), p.node.Close()
}

// cut ends all links in that way and returns how many there were.
func (b *breaker) cut(h how) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for p := range b.pairs {
		switch h {
		case silent:
			p.silent.Store(true)
		case half:
			p.left.Store(rand.Int64N(64 << 10)) //nolint:gosec // a test
		case reset, closes:
			p.end(h)
		}
	}
	return len(b.pairs)
}

// refuse has further connections reset, or not any more.
func (b *breaker) refuse(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuses = on
}
