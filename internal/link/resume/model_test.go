package resume

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var schedules = flag.Int("schedules", 40, "random schedules of the model")

// TestModel: whatever happens to the transport connections, and whenever, no byte is
// lost, comes twice or out of order, nobody waits for ever, and what is kept stays
// bounded.
func TestModel(t *testing.T) {
	for seed := range uint64(*schedules) {
		synctest.Test(t, func(t *testing.T) {
			m := newModel(t, seed)
			m.run()
			if t.Failed() {
				t.Fatalf("schedule %d", seed)
			}
		})
	}
}

const modelKeep = 96 << 10

// model is two Conns, and a network that fails.
type model struct {
	t      *testing.T
	rand   *rand.Rand // of the network's goroutine
	seed   uint64
	budget *Budget
	a, b   *Conn // a dials
	bytes  int
	cuts   int
	kept   atomic.Int64 // buffers that a Conn has and not given back

	mu   sync.Mutex
	line *memory // a's present end
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 1))} //nolint:gosec // a test
	m.bytes = 1 + m.rand.IntN(2<<20)
	m.budget = NewBudget(int64(m.rand.IntN(256 << 10)))
	cfg := Config{Keep: modelKeep, Budget: m.budget}
	ta, tb := newPair(seed)
	m.line = ta
	m.a, m.b = New(ta, cfg), New(tb, cfg)
	return m
}

func (m *model) run() {
	var tasks, network sync.WaitGroup
	stop := make(chan struct{})
	network.Go(func() { m.breakThings(stop) })
	network.Go(func() { m.reconnect(stop) })
	tasks.Go(func() { m.write(m.a, 1) })
	tasks.Go(func() { m.write(m.b, 2) })
	tasks.Go(func() { m.read(m.a, 2) })
	tasks.Go(func() { m.read(m.b, 1) })
	tasks.Wait()
	close(stop)
	network.Wait()
	<-time.After(15 * time.Second) // with nothing to do, nothing is held
	for name, c := range map[string]*Conn{"a": m.a, "b": m.b} {
		c.mu.Lock()
		if held := c.mu.ring.held; held > 0 && c.mu.t != nil {
			m.t.Errorf("%s holds %d bytes after a rest", name, held)
		}
		c.mu.Unlock()
	}
	_, _ = m.a.Close(), m.b.Close()
	if n := m.kept.Load(); n != 0 {
		m.t.Errorf("%d buffers were not given back", n)
	}
	if used := m.budget.Used(); used != 0 {
		m.t.Errorf("%d bytes on the budget after the end", used)
	}
}

// source is the same endless stream of bytes for the same arguments.
func (m *model) source(direction uint64) *rand.ChaCha8 {
	return rand.NewChaCha8([32]byte{byte(m.seed), byte(m.seed >> 8), byte(direction)})
}

// write writes as Yamux does.
func (m *model) write(c *Conn, direction uint64) {
	r := rand.New(rand.NewPCG(m.seed, 10+direction)) //nolint:gosec // a test
	from := m.source(direction)
	for left := m.bytes; left > 0; {
		for range 1 + r.IntN(4) {
			room := make([]byte, KeepRoom+min(left, 1+r.IntN(1<<(1+r.IntN(17)))))
			b := room[KeepRoom:]
			_, _ = from.Read(b)
			var err error
			if r.IntN(2) == 0 {
				_, err = c.Write(b)
				clear(room)
			} else {
				m.kept.Add(1)
				err = c.Keep(room, func() {
					m.kept.Add(-1)
					clear(room)
				})
			}
			if err != nil {
				m.t.Errorf("write: %v", err)
				return
			}
			left -= len(b)
		}
		for wait := false; ; wait = true {
			_, done, err := c.Flush(wait)
			if err != nil {
				m.t.Errorf("flush: %v", err)
				return
			}
			if done {
				break
			}
		}
		c.mu.Lock()
		kept := int64(c.mu.ring.end - c.mu.ring.begin) //nolint:gosec // small
		c.mu.Unlock()
		if kept > modelKeep+4<<18 {
			m.t.Errorf("%d bytes kept", kept)
		}
		if r.IntN(10) == 0 {
			<-time.After(time.Duration(r.IntN(1000)) * time.Millisecond)
		}
	}
}

func (m *model) read(c *Conn, direction uint64) {
	r := rand.New(rand.NewPCG(m.seed, 20+direction)) //nolint:gosec // a test
	from := m.source(direction)
	for left := m.bytes; left > 0; {
		b := make([]byte, min(left, 1+r.IntN(64<<10)))
		n, err := c.Read(b)
		if err != nil {
			m.t.Errorf("read with %d bytes to come: %v", left, err)
			return
		}
		want := make([]byte, n)
		_, _ = from.Read(want)
		if !bytes.Equal(b[:n], want) {
			m.t.Errorf("other bytes, %d before the end", left)
			_ = c.Close()
			return
		}
		left -= n
		if r.IntN(50) == 0 {
			<-time.After(time.Duration(r.IntN(300)) * time.Millisecond)
		}
	}
	// Somebody must read on: answers and acks come this way.
	go func() { _, _ = io.Copy(io.Discard, c) }()
}

// breakThings cuts the present connection now and then.
func (m *model) breakThings(stop <-chan struct{}) {
	for {
		select {
		case <-time.After(time.Duration(m.rand.IntN(1<<m.rand.IntN(13))) * time.Millisecond):
		case <-stop:
			return
		}
		m.mu.Lock()
		m.line.cut(m.rand.IntN(5))
		m.cuts++
		m.mu.Unlock()
	}
}

// reconnect is the agent's redialling, whose messages may be lost too.
func (m *model) reconnect(stop <-chan struct{}) {
	r := rand.New(rand.NewPCG(m.seed, 3)) //nolint:gosec // a test
	pause := func() { <-time.After(time.Duration(r.IntN(200)) * time.Millisecond) }
	for seed := m.seed + 1000; ; seed += 2 {
		select {
		case <-m.a.Lost():
		case <-stop:
			return
		}
		for try := 0; ; try++ {
			if try > 20 {
				m.t.Error("no connection after 20 tries")
				return
			}
			pause()
			received, claim, err := m.a.Detach()
			if err != nil {
				m.t.Errorf("detach: %v", err)
				return
			}
			if r.IntN(4) == 0 {
				continue // the Hello was lost
			}
			pause()
			theirs, theirClaim, err := m.b.Detach()
			if err != nil {
				m.t.Errorf("detach: %v", err)
				return
			}
			ta, tb := newPair(seed)
			if r.IntN(4) == 0 {
				ta.cut(0) // the Welcome will be lost
			}
			if err := m.b.Attach(theirClaim, tb, received); err != nil {
				m.t.Errorf("attach: %v", err)
				return
			}
			pause()
			if r.IntN(4) == 0 {
				continue // it was
			}
			if err := m.a.Attach(claim, ta, theirs); err != nil {
				m.t.Errorf("attach: %v", err)
				return
			}
			m.mu.Lock()
			m.line = ta
			m.mu.Unlock()
			break
		}
	}
}

// TestWindow: without another connection a Conn ends, and not before.
func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ta, tb := newPair(1)
		a, b := New(ta, Config{}), New(tb, Config{})
		defer b.Close()
		began := time.Now()
		var ended atomic.Int64
		go func() {
			if _, err := a.Read(make([]byte, 1)); !errors.Is(err, ErrLost) {
				t.Errorf("read: %v", err)
			}
			ended.Store(int64(time.Since(began)))
		}()
		ta.cut(0)
		<-a.Lost()
		if _, done, err := a.Flush(false); err != nil || done {
			t.Errorf("flush while away: %v, %v", done, err)
		}
		<-a.Done()
		synctest.Wait()
		if d := time.Duration(ended.Load()); d != DefaultWindow {
			t.Errorf("ended after %s", d)
		}
		if _, _, err := a.Flush(true); !errors.Is(err, ErrLost) {
			t.Errorf("flush: %v", err)
		}
		_ = a.Close()
	})
}

// TestSilence: a dead connection is noticed within 12 s by both sides.
func TestSilence(t *testing.T) {
	for _, busy := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ta, tb := newPair(1)
			a, b := New(ta, Config{}), New(tb, Config{})
			for _, c := range []*Conn{a, b} {
				go func() { _, _ = io.Copy(io.Discard, c) }()
				if busy {
					go func() {
						for buf := make([]byte, 4<<10); ; {
							if _, err := c.Write(buf); err != nil {
								return
							}
							if _, _, err := c.Flush(true); err != nil {
								return
							}
							<-time.After(20 * time.Millisecond)
						}
					}()
				}
			}
			<-time.After(100 * time.Second) // idle or busy, it lives
			if away(a) || away(b) {
				t.Fatal("a healthy connection was given up")
			}
			ta.cut(1)
			<-time.After(12 * time.Second)
			if !away(a) || !away(b) {
				t.Errorf("busy %v: not noticed: %v, %v", busy, away(a), away(b))
			}
			_, _ = a.Close(), b.Close()
		})
	}
}

// TestClose: the other side learns of the end at once, behind the last bytes.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ta, tb := newPair(2)
		a, b := New(ta, Config{}), New(tb, Config{})
		if _, err := a.Write([]byte("last words")); err != nil {
			t.Fatal(err)
		}
		if _, _, err := a.Flush(true); err != nil {
			t.Fatal(err)
		}
		_ = a.Close()
		got, err := io.ReadAll(b)
		if string(got) != "last words" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		if _, _, err := b.Detach(); !errors.Is(err, ErrPeerClosed) {
			t.Errorf("detach: %v", err)
		}
		_ = b.Close()
	})
}

func away(c *Conn) bool {
	_, back := c.Away()
	return back != nil
}
