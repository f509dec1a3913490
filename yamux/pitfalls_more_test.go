package yamux

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestPitfall06SYNIsNotOvertaken: streams that are opened and written to by many at
// once arrive whole; data before its SYN would be dropped.
func TestPitfall06SYNIsNotOvertaken(t *testing.T) {
	eachWire(t, func(t *testing.T, c, s *Session) {
		var tasks sync.WaitGroup
		for i := range 16 {
			tasks.Go(func() {
				for k := range 20 {
					st, err := c.Open(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					var writers sync.WaitGroup
					for range 3 {
						writers.Go(func() { _, _ = st.Write(make([]byte, 1+(i*k)%6000)) })
					}
					writers.Wait()
					_ = st.CloseWrite()
					if got, err := io.ReadAll(st); err != nil || string(got) != fmt.Sprint(3*(1+(i*k)%6000)) {
						t.Errorf("the other side got %q bytes: %v", got, err)
					}
				}
			})
		}
		for range 16 * 20 {
			other := accept(t, s)
			tasks.Go(func() {
				n, err := io.Copy(io.Discard, other)
				if err != nil {
					t.Error(err)
				}
				_, _ = fmt.Fprint(other, n)
				_ = other.Close()
			})
		}
		tasks.Wait()
		until(t, "all streams are forgotten", func() bool { return c.Stats().Streams+s.Stats().Streams == 0 })
	})
}

// TestPitfall07CallersDoNotDrain: while a slow connection is busy with the bulk of
// others, callers with little to say are not made to send it.
func TestPitfall07CallersDoNotDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := memPath{rate: 10_000, buffer: 1000}
		a, b := memPair(slow, slow)
		c, _ := sessions(t, a, b, Config{})
		for range 10 {
			st := open(t, c)
			go func() { _, _ = st.ReadFrom(neverEnding{}) }()
		}
		synctest.Wait()
		began := time.Now()
		st := open(t, c)
		for range maxQueued { // a third would wait for its own frames
			if _, err := st.Write([]byte("x")); err != nil {
				t.Error(err)
			}
		}
		_ = st.CloseWrite()
		_ = open(t, c).Reset()
		_ = st.Close()
		if d := time.Since(began); d != 0 {
			t.Errorf("callers were held for %v", d)
		}
	})
}

// TestPitfall08Reads: a header is waited for alone only between frames, and then
// not for each of many small ones.
func TestPitfall08Reads(t *testing.T) {
	for _, tt := range []struct{ frames, size, most int }{
		{50, maxPayload, 50 * 6},
		{2000, 100, 2000 * 112 / (3 << 10) * 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			a, b := memPair(memPath{buffer: 64 << 20}, memPath{buffer: 1 << 20})
			s := Server(b, Config{KeepAliveInterval: -1})
			total := 0
			for i := range tt.frames {
				h := header{kind: typeData, stream: uint32(2*(i/4) + 1), length: uint32(min(tt.size, InitialWindow/4))}
				if i%4 == 0 {
					h.flags = flagSYN
				}
				total += headerSize + int(h.length)
				if _, err := a.Write(append(h.appendTo(nil), make([]byte, h.length)...)); err != nil {
					t.Fatal(err)
				}
			}
			b.in.counting = true
			run(t, s)
			synctest.Wait()
			headers := 0
			for _, size := range b.in.reads {
				if size <= headerSize {
					headers++
				}
			}
			if s.Stats().BytesIn != int64(total) {
				t.Fatalf("%d of %d bytes were read", s.Stats().BytesIn, total)
			}
			if n := len(b.in.reads); n > tt.most || headers > tt.frames+1 || headers > n/2+1 {
				t.Errorf("%d frames of %d bytes: %d reads, %d of just a header", tt.frames, tt.size, n, headers)
			}
		})
	}
}

// TestPitfall09BothSidesWrite: both sides fill all windows before either reads.
func TestPitfall09BothSidesWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		c, s := sessions(t, a, b, Config{SendQueue: 2 * maxFrame})
		var ends []*Stream
		for range 10 {
			st, other := streams(t, c, s)
			ends = append(ends, st, other)
		}
		var tasks sync.WaitGroup
		want := filler(6, 2<<20)
		for _, end := range ends {
			tasks.Go(func() {
				if _, err := end.Write(want); err != nil {
					t.Error(err)
				}
				_ = end.CloseWrite()
			})
		}
		synctest.Wait()
		for _, end := range ends {
			tasks.Go(func() {
				if got, err := io.ReadAll(end); err != nil || !bytes.Equal(got, want) {
					t.Errorf("read %d bytes: %v", len(got), err)
				}
			})
		}
		tasks.Wait()
	})
}

// piecewise is a connection that gives at most so many bytes at once.
type piecewise struct {
	net.Conn
	most int
}

func (c piecewise) Read(p []byte) (int, error) { return c.Conn.Read(p[:min(len(p), c.most)]) }

// TestPitfall10UnreadStreams: 100 streams that nobody reads hold no more than their
// windows and a tenth, in whatever frames and pieces the bytes came, and all others
// flow.
func TestPitfall10UnreadStreams(t *testing.T) {
	const count = 100
	for _, tt := range []struct{ frame, piece int }{
		{maxPayload, 1 << 20},
		{InitialWindow, 1 << 20},
		{InitialWindow, 1000},
		{InitialWindow, 5000},
		{20_000, 9000},
		{4097, 1 << 20},
		{100, 1 << 20},
	} {
		t.Run(fmt.Sprintf("frames of %d in pieces of %d", tt.frame, tt.piece), func(t *testing.T) {
			a, b := memPair(memPath{buffer: 1 << 20}, memPath{buffer: 1 << 20})
			before := heapNow()
			s := run(t, Server(piecewise{b, tt.piece}, Config{}))
			p := newRawPeer(t, a)
			for i := range uint32(count) {
				flags := uint16(flagSYN)
				for left := InitialWindow; left > 0; {
					n := min(left, tt.frame)
					p.send(header{kind: typeData, flags: flags, stream: 2*i + 1, length: uint32(n)})
					left -= n
					flags = 0
				}
			}
			p.alive()
			grown := heapNow() - before
			if most := int64(count * InitialWindow * 11 / 10); grown > most {
				t.Errorf("the heap grew by %d KiB, of which %d would be fair", grown>>10, most>>10)
			}
			for range count {
				accept(t, s)
			}
			// Another one flows.
			st := open(t, s)
			if _, err := st.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			p.want(typeData, flagSYN)
			p.send(header{kind: typeData, flags: flagACK | flagFIN, stream: st.ID(), length: 100_000})
			if got, err := io.ReadAll(st); err != nil || len(got) != 100_000 {
				t.Errorf("read %d bytes: %v", len(got), err)
			}
		})
	}
}
