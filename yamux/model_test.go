package yamux

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// The model of a session: what each direction of each stream was given and has
// brought. Bytes are a function of stream, direction and place, so that any that is
// lost, invented or out of order shows at once.
type model struct {
	t       *testing.T
	seed    uint64
	sockets bool // streams are also joined to sockets
	unit    time.Duration
	over    atomic.Bool // the session may end at any time from now on

	mu      sync.Mutex
	streams map[uint32]*modelStream
}

type modelStream struct {
	model   *model
	id      uint32
	aborted atomic.Bool // one side reset it, or closed it without reading to the end
	dirs    [2]direction
}

// direction of a stream. Each field is written by one side, and read at the end.
type direction struct {
	sent, received int64
	fin            atomic.Bool
	eof            bool
}

func (m *model) stream(id uint32) *modelStream {
	m.mu.Lock()
	defer m.mu.Unlock()
	ms := m.streams[id]
	if ms == nil {
		ms = &modelStream{model: m, id: id}
		m.streams[id] = ms
	}
	return ms
}

func (m *model) errorf(format string, args ...any) {
	m.t.Errorf("seed %d: %s", m.seed, fmt.Sprintf(format, args...))
}

func patternAt(id uint32, dir int, at int64) byte {
	x := uint64(at)*0x9e3779b97f4a7c15 + uint64(id)<<8 + uint64(dir)
	return byte(x>>56) ^ byte(x>>17)
}

// patternReader gives n bytes of a direction from a place on.
type patternReader struct {
	id   uint32
	dir  int
	at   int64
	left int
	rand *rand.Rand
}

func (r *patternReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), r.left)
	if r.rand != nil {
		n = min(n, 1+r.rand.IntN(40_000))
	}
	for i := range n {
		p[i] = patternAt(r.id, r.dir, r.at+int64(i))
	}
	r.at += int64(n)
	r.left -= n
	if r.left == 0 && r.rand != nil && r.rand.IntN(2) == 0 {
		return n, io.EOF
	}
	return n, nil
}

func (ms *modelStream) bytes(dir int, at int64, n int) []byte {
	b := make([]byte, n)
	_, _ = io.ReadFull(&patternReader{id: ms.id, dir: dir, at: at, left: n}, b)
	return b
}

// got checks and counts bytes that came.
func (ms *modelStream) got(dir int, b []byte) {
	d := &ms.dirs[dir]
	for i, c := range b {
		if want := patternAt(ms.id, dir, d.received+int64(i)); c != want {
			ms.model.errorf("stream %d, direction %d, byte %d is %d, not %d", ms.id, dir, d.received+int64(i), c, want)
			ms.aborted.Store(true)
			break
		}
	}
	d.received += int64(len(b))
}

// player is one end of a stream.
type player struct {
	*modelStream
	st   *Stream
	side int // and the direction in which it sends
}

var errEnough = errors.New("enough")

// play does random things with an end of a stream until both directions are over.
func (m *model) play(st *Stream, side int, seed uint64) {
	p := player{m.stream(st.ID()), st, side}
	var tasks sync.WaitGroup
	tasks.Go(func() { p.writes(rand.New(rand.NewPCG(seed, 1))) })
	tasks.Go(func() { p.reads(rand.New(rand.NewPCG(seed, 2))) })
	r := rand.New(rand.NewPCG(seed, 3))
	if r.IntN(8) == 0 {
		tasks.Go(func() {
			for range r.IntN(10) {
				m.pause(r)
				_ = st.SetDeadline(time.Now().Add(time.Duration(r.IntN(30)-5) * m.unit))
			}
			if r.IntN(2) == 0 {
				p.aborted.Store(true)
				_ = st.Reset()
			}
			_ = st.SetDeadline(time.Time{})
		})
	}
	tasks.Wait()
	p.dirs[side].fin.Store(true)
	if !p.dirs[1-side].eof {
		p.aborted.Store(true)
	}
	if err := st.Close(); err != nil && !p.bad() {
		m.errorf("stream %d: close: %v", p.id, err)
	}
}

func (m *model) pause(r *rand.Rand) {
	if d := time.Duration(r.IntN(20)) * m.unit; d > 0 {
		<-time.After(d)
	}
}

func (p player) bad() bool { return p.aborted.Load() || p.model.over.Load() }

// goesOn judges the error of an operation and reports whether there may be more.
func (p player) goesOn(what string, err error) bool {
	switch {
	case err == nil, errors.Is(err, errEnough):
		return true
	case errors.Is(err, os.ErrDeadlineExceeded):
		_ = p.st.SetDeadline(time.Time{})
		return true
	case !p.bad():
		p.model.errorf("stream %d, side %d: %s: %v", p.id, p.side, what, err)
	case !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, net.ErrClosed) && !p.model.over.Load():
		p.model.errorf("stream %d, side %d: %s failed with what is no reset: %v", p.id, p.side, what, err)
	}
	return false
}

func (p player) writes(r *rand.Rand) {
	d := &p.dirs[p.side]
	for range r.IntN(12) {
		if r.IntN(4) == 0 {
			p.model.pause(r)
		}
		if r.IntN(6) == 0 {
			_ = p.st.SetWriteDeadline(time.Now().Add(time.Duration(r.IntN(40)-2) * p.model.unit))
		}
		size := []int{r.IntN(20), r.IntN(5000), r.IntN(100_000), r.IntN(400_000)}[r.IntN(4)]
		var n int64
		var err error
		switch r.IntN(6) {
		case 0:
			n, err = p.st.ReadFrom(&patternReader{p.id, p.side, d.sent, size, r})
		case 1:
			if p.model.sockets {
				n, err = p.readFromSocket(size)
				break
			}
			fallthrough
		default:
			var k int
			k, err = p.st.Write(p.bytes(p.side, d.sent, size))
			n = int64(k)
		}
		d.sent += n
		if !p.goesOn("write", err) {
			return
		}
	}
	switch r.IntN(12) {
	case 0:
		p.aborted.Store(true)
		_ = p.st.Reset()
	case 1:
		p.aborted.Store(true)
		d.fin.Store(true)
		_ = p.st.Close()
	default:
		d.fin.Store(true)
		if err := p.st.CloseWrite(); err != nil && !p.bad() {
			p.model.errorf("stream %d: close write: %v", p.id, err)
		}
	}
}

func (p player) reads(r *rand.Rand) {
	d := &p.dirs[1-p.side]
	buf := make([]byte, 1+r.IntN(100_000))
	for {
		if r.IntN(8) == 0 {
			p.model.pause(r)
		}
		if r.IntN(10) == 0 {
			_ = p.st.SetReadDeadline(time.Now().Add(time.Duration(r.IntN(40)-2) * p.model.unit))
		}
		if r.IntN(150) == 0 {
			p.aborted.Store(true)
			p.dirs[p.side].fin.Store(true)
			_ = p.st.Close()
			return
		}
		var err error
		if r.IntN(10) == 0 {
			err = p.writesTo(r)
		} else {
			var n int
			n, err = p.st.Read(buf[:1+r.IntN(len(buf))])
			p.got(1-p.side, buf[:n])
		}
		if err == io.EOF { //nolint:errorlint // must be bare
			d.eof = true
			return
		}
		if !p.goesOn("read", err) || errors.Is(err, errEnough) {
			p.aborted.Store(true)
			p.dirs[p.side].fin.Store(true)
			_ = p.st.Close() // or both sides might write to who does not read
			return
		}
	}
}

// writesTo reads by WriteTo and returns io.EOF at the end. A destination that
// failed has lost what was on its way, so after errEnough nothing is read.
func (p player) writesTo(r *rand.Rand) error {
	way := writingTo(writeTo)
	if r.IntN(2) == 0 {
		way = writeToThen
	}
	if p.model.sockets && r.IntN(2) == 0 {
		return p.writeToSocket(way)
	}
	enough := int64(1) << 40
	if r.IntN(20) == 0 {
		enough = r.Int64N(200_000)
	}
	_, err := way(p.st, writerFunc(func(b []byte) (int, error) {
		k := int(min(int64(len(b)), enough))
		enough -= int64(k)
		p.got(1-p.side, b[:k])
		if r.IntN(16) == 0 {
			p.model.pause(r)
		}
		if k < len(b) {
			p.aborted.Store(true)
			return k, errEnough
		}
		return k, nil
	}))
	if err == nil {
		err = io.EOF
	}
	return err
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// final checks a stream after both its ends are done.
func (ms *modelStream) final() {
	for dir := range ms.dirs {
		d := &ms.dirs[dir]
		switch {
		case d.received > d.sent:
			ms.model.errorf("stream %d, direction %d: %d bytes were sent, %d came", ms.id, dir, d.sent, d.received)
		case d.eof && !d.fin.Load():
			ms.model.errorf("stream %d, direction %d: EOF without FIN", ms.id, dir)
		case d.eof && d.received != d.sent:
			ms.model.errorf("stream %d, direction %d: %d bytes were sent, %d came before EOF", ms.id, dir, d.sent, d.received)
		case !d.eof && !ms.aborted.Load() && !ms.model.over.Load():
			ms.model.errorf("stream %d, direction %d: never ended", ms.id, dir)
		}
	}
}

// session plays on both sides of a session until all streams are done.
func (m *model) session(r *rand.Rand, sides [2]*Session, ended [2]chan error) {
	var tasks, accepting sync.WaitGroup
	expected := make(chan struct{}, 1000)
	for i, s := range sides {
		accepting.Go(func() {
			for {
				st, err := s.Accept(m.t.Context())
				if err != nil {
					return
				}
				tasks.Go(func() { m.play(st, i, m.seed+uint64(st.ID())*2+1) })
				expected <- struct{}{}
			}
		})
		n := 1 + r.IntN(6)
		seed := r.Uint64()
		tasks.Go(func() {
			r := rand.New(rand.NewPCG(seed, 4))
			for range n {
				m.pause(r)
				st, err := s.Open(m.t.Context())
				if err != nil {
					if !errors.Is(err, ErrGoAway) && !m.over.Load() {
						m.errorf("open: %v", err)
					}
					return
				}
				if _, err := st.Write(nil); err != nil && !m.over.Load() {
					m.errorf("write of nothing: %v", err)
				}
				tasks.Go(func() { m.play(st, i, m.seed+uint64(st.ID())*2) })
			}
		})
	}
	m.disturb(r, sides)
	tasks.Wait()
	if !m.over.Load() {
		m.settle(sides)
	}
	m.over.Store(true)
	_ = sides[r.IntN(2)].Shutdown(m.t.Context())
	for i := range sides {
		<-ended[i]
	}
	accepting.Wait()
	tasks.Wait()
	for _, ms := range m.streams {
		ms.final()
	}
}

// disturb ends the session early, in one way or another, for some seeds.
func (m *model) disturb(r *rand.Rand, sides [2]*Session) {
	s := sides[r.IntN(2)]
	pause := time.Duration(r.IntN(200)) * m.unit
	switch r.IntN(12) {
	case 0:
		<-time.After(pause)
		m.abandon()
		_ = s.GoAway()
	case 1:
		<-time.After(pause)
		m.over.Store(true)
		_ = s.Close()
	case 2:
		<-time.After(pause)
		m.over.Store(true)
		_ = s.conn.Close()
	}
}

// abandon notes that streams may be refused from now on.
func (m *model) abandon() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range uint32(32) {
		ms := m.streams[id]
		if ms == nil {
			ms = &modelStream{model: m, id: id}
			m.streams[id] = ms
		}
		ms.aborted.Store(true)
	}
}

// settle checks that nothing is left of the streams.
func (m *model) settle(sides [2]*Session) {
	left := func() bool {
		for _, s := range sides {
			if st := s.Stats(); st.Streams != 0 || st.Queued != 0 || st.Window != 0 {
				return true
			}
		}
		return false
	}
	for range 2000 {
		if !left() {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	m.errorf("left of all streams: %+v, %+v", sides[0].Stats(), sides[1].Stats())
}

// modelConfig is a config whose limits are met, and that saves no stream which only
// waits to be given up.
func modelConfig(r *rand.Rand) Config {
	return Config{
		SendQueue:     []int{0, 1, 300_000}[r.IntN(3)],
		SessionWindow: []int{0, -1, 1 << 20}[r.IntN(3)],
		OpenBacklog:   []int{0, 1, 3}[r.IntN(3)],
		CloseTimeout:  1000 * time.Hour,
	}
}

// modelPath is a path that takes a batch in much less than the silence that ends a
// session.
func modelPath(r *rand.Rand) memPath {
	p := memPath{
		rate:   []int{0, 0, 1 << 20, 20 << 20}[r.IntN(4)],
		buffer: []int{1000, 10_000, 100_000, 1 << 20}[r.IntN(4)] + r.IntN(100),
		rand:   rand.New(rand.NewPCG(r.Uint64(), 5)),
	}
	if p.buffer >= 10_000 {
		p.delay = time.Duration(r.IntN(3)*r.IntN(10)) * time.Millisecond
	}
	return p
}

// startSides runs both sides of a session.
func startSides(t *testing.T, a, b net.Conn, r *rand.Rand) (sides [2]*Session, ended [2]chan error) {
	sides = [2]*Session{Client(a, modelConfig(r)), Server(b, modelConfig(r))}
	for i, s := range sides {
		ended[i] = make(chan error, 1)
		go func() { ended[i] <- s.Run(t.Context()) }()
	}
	return sides, ended
}

// seeds runs f with seeds, for so long or so many.
func seeds(t *testing.T, count int, f func(t *testing.T, seed uint64)) {
	if *seedFlag != 0 {
		f(t, *seedFlag)
		return
	}
	began, first := time.Now(), uint64(time.Now().UnixNano())
	n := 0
	for ; !t.Failed() && (n < count || time.Since(began) < *longFlag); n++ {
		f(t, first+uint64(n)*1000)
	}
	t.Logf("%d seeds", n)
}

// TestModel runs the model over connections in memory, with a clock of its own:
// who waits for what never comes is found as a deadlock.
func TestModel(t *testing.T) {
	seeds(t, 25, func(t *testing.T, seed uint64) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			// Keep-alive never rests, so synctest sees no deadlock of what waits beside it.
			stuck := time.AfterFunc(24*time.Hour, func() { panicStuck(seed) })
			defer stuck.Stop()
			m := &model{t: t, seed: seed, unit: time.Millisecond, streams: make(map[uint32]*modelStream)}
			a, b := memPair(modelPath(r), modelPath(r))
			sides, ended := startSides(t, a, b, r)
			m.session(r, sides, ended)
		})
	})
}
