package yamux

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"runtime/metrics"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// rawPeer is the other side of a session, and speaks in bytes.
type rawPeer struct {
	tb   testing.TB
	conn net.Conn
	r    *bufio.Reader
}

func newRawPeer(tb testing.TB, conn net.Conn) *rawPeer {
	tb.Cleanup(func() { conn.Close() })
	return &rawPeer{tb, conn, bufio.NewReader(conn)}
}

func (p *rawPeer) send(headers ...header) {
	p.tb.Helper()
	var b []byte
	for _, h := range headers {
		b = h.appendTo(b)
		if h.kind == typeData && h.length < 1<<20 {
			b = append(b, make([]byte, h.length)...)
		}
	}
	if _, err := p.conn.Write(b); err != nil {
		p.tb.Fatal(err)
	}
}

// next reads a frame.
func (p *rawPeer) next() (header, []byte, error) {
	var b [headerSize]byte
	if _, err := io.ReadFull(p.r, b[:]); err != nil {
		return header{}, nil, err
	}
	h := parseHeader(b[:])
	if h.kind != typeData {
		return h, nil, nil
	}
	body := make([]byte, h.length)
	_, err := io.ReadFull(p.r, body)
	return h, body, err
}

// want reads until a frame of this kind with these flags comes.
func (p *rawPeer) want(kind byte, flags uint16) header {
	p.tb.Helper()
	_ = p.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		h, _, err := p.next()
		if err != nil {
			p.tb.Fatalf("waiting for a frame of type %d, flags %d: %v", kind, flags, err)
		}
		if h.kind == kind && h.flags == flags {
			return h
		}
	}
}

// alive fails the test unless the session answers a ping.
func (p *rawPeer) alive() {
	p.tb.Helper()
	p.send(header{kind: typePing, flags: flagSYN, length: 4711})
	for p.want(typePing, flagACK).length != 4711 {
	}
}

// watchHeap samples the heap, garbage included, until stop says by how much it grew.
func watchHeap() (stop func() int64) {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	read := func() int64 { metrics.Read(sample); return int64(sample[0].Value.Uint64()) }
	base, peak := heapNow(), int64(0)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			peak = max(peak, read())
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	}()
	return func() int64 { close(done); <-ended; return max(peak, heapNow()) - base }
}

// mostGrowth is by how much hostile bytes may grow the heap.
const mostGrowth = 16 << 20

// repeated makes bytes of n headers, each made by f from its number.
func repeated(n int, f func(i int) header) []byte {
	b := make([]byte, 0, n*headerSize)
	for i := range n {
		b = f(i).appendTo(b)
	}
	return b
}

// hostility is what an other side, the client, may send.
type hostility struct {
	name   string
	first  []header                       // open with these
	send   func(add func(...header))      // then these
	flood  func(i int) header             // then a million of these
	want   error                          // nil: the session goes on
	accept bool                           // an app accepts all streams
	check  func(t *testing.T, s *Session) // at the end, of a session that goes on
}

var syn1 = header{kind: typeWindow, flags: flagSYN, stream: 1}

func one(h header) func(func(...header)) { return func(add func(...header)) { add(h) } }

var hostilities = []hostility{
	{name: "version", send: one(header{version: 1, kind: typePing, flags: flagSYN}), want: ErrVersion},
	{name: "type", send: one(header{kind: 4, stream: 1}), want: ErrFrameType},
	{name: "type 255", send: one(header{kind: 255}), want: ErrFrameType},
	{name: "data on stream 0", send: one(header{kind: typeData, flags: flagSYN}), want: ErrStreamID},
	{name: "window of stream 0", send: one(header{kind: typeWindow, length: 1}), want: ErrStreamID},
	{name: "wrong parity", send: one(header{kind: typeData, flags: flagSYN, stream: 2}), want: ErrStreamID},
	{name: "duplicate SYN", first: []header{syn1}, send: one(syn1), want: ErrStreamID},
	{name: "length of 4 GiB with SYN", send: one(header{kind: typeData, flags: flagSYN, stream: 1, length: 1<<32 - 1}), want: ErrWindowExceeded},
	{name: "length of 4 GiB", first: []header{syn1}, send: one(header{kind: typeData, stream: 1, length: 1<<32 - 1}), want: ErrWindowExceeded},
	{name: "length of 4 GiB on an unknown stream", send: one(header{kind: typeData, stream: 1, length: 1<<32 - 1}), want: ErrWindowExceeded},
	{name: "more than the credit at once", send: one(header{kind: typeData, flags: flagSYN, stream: 1, length: InitialWindow + 1}), want: ErrWindowExceeded},
	{name: "more than the credit in pieces", first: []header{syn1}, send: func(add func(...header)) {
		for range 4 {
			add(header{kind: typeData, stream: 1, length: InitialWindow / 4})
		}
		add(header{kind: typeData, stream: 1, length: 1})
	}, want: ErrWindowExceeded},
	{name: "more than the credit, read by nobody, after FIN", first: []header{syn1}, send: func(add func(...header)) {
		add(header{kind: typeData, stream: 1, length: InitialWindow, flags: flagFIN})
		add(header{kind: typeData, stream: 1, length: 1})
	}, want: ErrWindowExceeded},
	{name: "window overflows at once", first: []header{syn1}, send: one(header{kind: typeWindow, stream: 1, length: 1<<32 - 1}), want: ErrWindowOverflow},
	{name: "window overflows with SYN", send: one(header{kind: typeWindow, flags: flagSYN, stream: 1, length: 1<<32 - 1}), want: ErrWindowOverflow},
	{name: "window overflows in the end", first: []header{syn1}, send: func(add func(...header)) {
		add(header{kind: typeWindow, stream: 1, length: 1<<32 - 1 - InitialWindow}, header{kind: typeWindow, stream: 1, length: 1})
	}, want: ErrWindowOverflow},
	{name: "largest window", first: []header{syn1}, send: one(header{kind: typeWindow, stream: 1, length: 1<<32 - 1 - InitialWindow})},
	{name: "GoAway 1", send: one(header{kind: typeGoAway, length: 1}), want: &GoAwayError{1}},
	{name: "GoAway 2", send: one(header{kind: typeGoAway, length: 2}), want: &GoAwayError{2}},
	{name: "GoAway of an unknown code", send: one(header{kind: typeGoAway, length: 1<<32 - 1}), want: &GoAwayError{1<<32 - 1}},
	{name: "GoAway 0", send: one(header{kind: typeGoAway}), check: func(t *testing.T, s *Session) {
		_, err := s.Open(t.Context())
		is(t, err, ErrGoAway)
	}},
	{name: "unknown flags", first: []header{syn1}, send: one(header{kind: typeData, flags: 0xfff0, stream: 1, length: 10})},
	{name: "data after FIN", send: func(add func(...header)) {
		add(header{kind: typeData, flags: flagSYN | flagFIN, stream: 1, length: 10}, header{kind: typeData, stream: 1, length: 10})
	}, check: func(t *testing.T, s *Session) {
		if got, err := io.ReadAll(accept(t, s)); len(got) != 10 || err != nil {
			t.Errorf("read %d bytes: %v", len(got), err)
		}
	}},
	{name: "unknown streams", send: func(add func(...header)) {
		for _, flags := range []uint16{0, flagACK, flagFIN, flagRST, flagFIN | flagRST | flagACK} {
			for _, id := range []uint32{1, 2, 3, 1<<32 - 1} {
				add(header{kind: typeData, flags: flags, stream: id, length: 1000}, header{kind: typeWindow, flags: flags, stream: id, length: 1 << 31})
			}
		}
	}},
	{name: "ACK, FIN and RST at once", first: []header{syn1}, send: one(header{kind: typeData, flags: flagACK | flagFIN | flagRST, stream: 1, length: 10})},
	{name: "SYN flood", flood: func(i int) header { return header{kind: typeWindow, flags: flagSYN, stream: uint32(2*i + 1)} }, want: ErrFlood},
	{name: "SYN flood, accepted", accept: true, flood: func(i int) header { return header{kind: typeWindow, flags: flagSYN, stream: uint32(2*i + 1)} }, want: ErrFlood},
	{name: "SYN and RST flood", flood: func(i int) header {
		return header{kind: typeWindow, flags: flagSYN | flagRST, stream: uint32(2*i + 1)}
	}, want: ErrFlood},
	{name: "SYN, then RST flood", flood: func(i int) header {
		return header{kind: typeWindow, flags: []uint16{flagSYN, flagRST}[i%2], stream: uint32(i/2*2 + 1)}
	}, want: ErrFlood},
	{name: "ping flood", flood: func(i int) header { return header{kind: typePing, flags: flagSYN, length: uint32(i)} }, want: ErrFlood},
	{name: "pong flood", flood: func(i int) header { return header{kind: typePing, flags: flagACK, length: uint32(i)} }},
	{name: "RST flood", flood: func(i int) header { return header{kind: typeWindow, flags: flagRST, stream: uint32(i + 1)} }},
	{name: "FIN flood", flood: func(i int) header { return header{kind: typeData, flags: flagFIN, stream: uint32(i + 1)} }},
	{name: "window flood", first: []header{syn1}, flood: func(int) header { return header{kind: typeWindow, stream: 1, length: 1} }},
	{name: "flood of no data", first: []header{syn1}, flood: func(int) header { return header{kind: typeData, stream: 1} }},
	{name: "flood of GoAway", flood: func(int) header { return header{kind: typeGoAway} }},
}

// TestHostilePeers: each ends its own session, with the right error, or harms
// nothing; and another session of the process goes on all the while.
func TestHostilePeers(t *testing.T) {
	c, s := tcpSessions(t)
	flows(t, c, s)
	for _, h := range hostilities {
		t.Run(h.name, func(t *testing.T) { h.run(t, c, s) })
	}
}

func (h hostility) run(t *testing.T, c, s *Session) {
	a, b := tcpPair(t)
	victim := run(t, Server(b, Config{KeepAliveInterval: -1}))
	if h.accept {
		defer acceptAll(victim)()
	}
	p := newRawPeer(t, a)
	p.send(h.first...)
	var flood []byte
	if h.flood != nil {
		flood = repeated(1_000_000, h.flood)
	}
	grown := watchHeap()
	if h.send != nil {
		h.send(func(frames ...header) { p.send(frames...) })
	}
	if flood != nil {
		var writing sync.WaitGroup
		defer writing.Wait()
		defer a.Close()
		writing.Go(func() { _, _ = a.Write(flood); p.finish(h.want == nil) })
	}
	if h.want == nil {
		if flood == nil {
			p.alive()
		}
		for flood != nil && p.want(typePing, flagACK).length != 4711 {
		}
		if h.check != nil {
			h.check(t, victim)
		}
	} else {
		h.ends(t, p, victim, flood == nil)
	}
	if n := grown(); n > mostGrowth {
		t.Errorf("the heap grew by %d KiB", n>>10)
	}
	flows(t, c, s)
	flows(t, s, c)
}

// finish sends the ping that alive waits for.
func (p *rawPeer) finish(ping bool) {
	if ping {
		_, _ = p.conn.Write(header{kind: typePing, flags: flagSYN, length: 4711}.appendTo(nil))
	}
}

// ends checks how the session ends. Behind a flood the farewell may be lost, as
// what is not read any more makes TCP break the connection off.
func (h hostility) ends(t *testing.T, p *rawPeer, victim *Session, farewell bool) {
	code, said := GoAwayCode(0), false
	for {
		f, _, err := p.next()
		if err != nil {
			break
		}
		if f.kind == typeGoAway {
			code, said = GoAwayCode(f.length), true
		}
	}
	<-victim.Done()
	var broken *ProtocolError
	var away, wantAway *GoAwayError
	switch err := victim.Err(); {
	case errors.As(h.want, &wantAway):
		if !errors.As(err, &away) || *away != *wantAway {
			t.Errorf("the session ended with %v", err)
		}
		return
	case !errors.As(err, &broken) || !errors.Is(err, h.want):
		t.Errorf("the session ended with %v", err)
	}
	if (farewell && !said) || (said && code != GoAwayProtocol) {
		t.Errorf("said farewell: %v, with code %d", said, code)
	}
}

// acceptAll is an app that takes all streams and is slow to do anything with them.
func acceptAll(s *Session) (wait func()) {
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			_, err := s.Accept(context.Background())
			if err != nil {
				return
			}
		}
	})
	return tasks.Wait
}

// TestHostileSilence: who stops in the middle is given up like who never spoke.
func TestHostileSilence(t *testing.T) {
	whole := append(header{kind: typeData, flags: flagSYN, stream: 1, length: 8000}.appendTo(nil), make([]byte, 8000)...)
	for _, n := range []int{0, 1, headerSize / 2, headerSize - 1, headerSize, headerSize + 1, headerSize + 4000, len(whole) - 1} {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			s := run(t, Server(b, Config{}))
			go func() { _, _ = io.Copy(io.Discard, a) }()
			began := time.Now()
			if _, err := a.Write(whole[:n]); err != nil {
				t.Fatal(err)
			}
			<-s.Done()
			is(t, s.Err(), ErrKeepAlive)
			if d := time.Since(began); d > 12*time.Second {
				t.Errorf("%d bytes and silence: ended after %v", n, d)
			}
			a.Close()
		})
	}
}
