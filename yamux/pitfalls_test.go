package yamux

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stalled returns a session on a connection whose other side reads nothing at all.
func stalled(t *testing.T, cfg Config) *Session {
	t.Helper()
	a, _ := net.Pipe()
	return run(t, Client(a, cfg))
}

// TestPitfall01StalledPeer: with an other side that stopped reading the
// connection, deadlines, Reset, Close and the session's Close return at once, and
// an unanswered Open kills nothing.
func TestPitfall01StalledPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := stalled(t, Config{KeepAliveInterval: -1, OpenBacklog: 20, SendQueue: 2 * maxFrame})
		began := time.Now()
		deadlined, reset, closed, rest := open(t, s), open(t, s), open(t, s), open(t, s)
		results := make(chan error, 8)
		write := func(st *Stream) {
			go func() {
				_, err := st.Write(make([]byte, 1<<20))
				results <- err
			}()
			synctest.Wait()
		}
		_ = deadlined.SetWriteDeadline(began.Add(time.Second))
		write(deadlined)
		is(t, <-results, os.ErrDeadlineExceeded)
		if d := time.Since(began); d != time.Second {
			t.Errorf("the deadline came after %v", d)
		}
		write(reset)
		_ = reset.Reset()
		is(t, <-results, ErrStreamClosed)
		write(closed)
		_ = closed.Close()
		is(t, <-results, ErrStreamClosed)
		write(rest)

		// Open goes on up to the backlog, waits, and heeds its context.
		for range 18 {
			open(t, s)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := s.Open(ctx)
		is(t, err, context.DeadlineExceeded)
		if s.Err() != nil {
			t.Errorf("the session ended: %v", s.Err())
		}
		began = time.Now()
		_ = s.Close()
		is(t, <-results, ErrSessionClosed)
		if d := time.Since(began); d != 0 {
			t.Errorf("close took %v", d)
		}
	})
}

// TestPitfall01NoFrameHalfOwned: writes that give up leave whole frames behind, so
// that the other side gets exactly the bytes they said had gone out.
func TestPitfall01NoFrameHalfOwned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memPair(memPath{buffer: 1000, rate: 100_000}, memPath{buffer: 1 << 20})
		c, s := sessions(t, a, b, Config{SendQueue: 2 * maxFrame})
		var tasks sync.WaitGroup
		for i := range 8 {
			tasks.Go(func() {
				st := open(t, c)
				var sent []byte
				for k := range 20 {
					p := filler(uint64(100*i+k), 20_000)
					_ = st.SetWriteDeadline(time.Now().Add(time.Duration(k) * 40 * time.Millisecond))
					n, err := st.Write(p)
					sent = append(sent, p[:n]...)
					if n < len(p) {
						is(t, err, os.ErrDeadlineExceeded)
					}
				}
				_ = st.CloseWrite()
				other, err := s.Accept(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := io.Copy(other, other); err != nil {
					t.Error(err)
				}
				_ = other.CloseWrite()
				got, err := io.ReadAll(st)
				if err != nil || !bytes.Equal(got, sent) {
					t.Errorf("sent %d bytes, got %d: %v", len(sent), len(got), err)
				}
			})
		}
		tasks.Wait()
	})
}

// TestPitfall02ReceiveLoopAndClose: bytes come in from all streams while they, and
// then the session, are closed; nothing locks up.
func TestPitfall02ReceiveLoopAndClose(t *testing.T) {
	eachWire(t, func(t *testing.T, c, s *Session) {
		var tasks sync.WaitGroup
		for i := range 40 {
			st, other := streams(t, c, s)
			tasks.Go(func() { _, _ = st.ReadFrom(neverEnding{}) })
			tasks.Go(func() { _, _ = other.ReadFrom(neverEnding{}) })
			tasks.Go(func() {
				_, _ = io.CopyN(io.Discard, other, int64(i)*10_000)
				switch i % 4 {
				case 0:
					_ = other.Close()
				case 1:
					_ = st.Reset()
				case 2:
					_ = other.Reset()
					_ = st.Close()
				case 3: // left to the session's end
					<-s.Done()
				}
				_ = st.Close()
				_ = other.Close()
			})
		}
		flows(t, c, s)
		tasks.Go(func() { _ = s.Close() })
		tasks.Go(func() { _ = s.Close() })
		tasks.Go(func() { _ = c.Close() })
		tasks.Wait()
	})
}

// TestPitfall02GoAwayDrains: GoAway(0) from the other side ends nothing.
func TestPitfall02GoAwayDrains(t *testing.T) {
	a, b := tcpPair(t)
	s := run(t, Server(b, Config{}))
	p := newRawPeer(t, a)
	p.send(header{kind: typeData, flags: flagSYN, stream: 1, length: 5}, header{kind: typeGoAway})
	p.alive()
	st := accept(t, s)
	_, err := s.Open(t.Context())
	is(t, err, ErrGoAway)
	p.send(header{kind: typeData, flags: flagFIN, stream: 1, length: 7})
	if got, err := io.ReadAll(st); len(got) != 12 || err != nil {
		t.Errorf("read %d bytes: %v", len(got), err)
	}
	if _, err := st.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	_ = st.Close()
	p.want(typeData, flagFIN)
	p.alive()
}

// TestPitfall03ReadsDoNotWaitForPongs: an other side that answers no ping still
// gets and gives bytes.
func TestPitfall03ReadsDoNotWaitForPongs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		s := run(t, Server(b, Config{}))
		p := newRawPeer(t, a)
		say := func(flags uint16) {
			go func() {
				_, _ = a.Write(append(header{kind: typeData, flags: flags, stream: 1, length: 1}.appendTo(nil), 'x'))
			}()
		}
		say(flagSYN)
		pings, echoed := 0, 0
		go func() {
			st := accept(t, s)
			_, _ = io.Copy(st, st)
		}()
		for pings < 3 || echoed < 30 {
			h, body, err := p.next()
			if err != nil {
				t.Fatal(err)
			}
			if h.kind == typePing {
				pings++
			}
			if echoed += len(body); len(body) > 0 {
				<-time.After(time.Second)
				say(0)
			}
		}
	})
}

// TestPitfall03WindowOverflow (CVE-2026-31814) and TestPitfall03DataWithSYN
// (CVE-2026-32314): the session ends with the error and does not panic.
func TestPitfall03WindowOverflow(t *testing.T) {
	s, p := raw(t)
	p.send(syn1, header{kind: typeWindow, stream: 1, length: 1<<32 - 1})
	<-s.Done()
	is(t, s.Err(), ErrWindowOverflow)
}

func TestPitfall03DataWithSYN(t *testing.T) {
	s, p := raw(t)
	p.send(header{kind: typeData, flags: flagSYN, stream: 1, length: InitialWindow + 1})
	<-s.Done()
	is(t, s.Err(), ErrWindowExceeded)
}

// raw is a session and an other side that speaks in bytes.
func raw(t *testing.T) (*Session, *rawPeer) {
	t.Helper()
	a, b := tcpPair(t)
	return run(t, Server(b, Config{})), newRawPeer(t, a)
}

// TestPitfall04StalledReaders: 100 streams whose readers stopped, all others flow
// as ever.
func TestPitfall04StalledReaders(t *testing.T) {
	eachWire(t, func(t *testing.T, c, s *Session) {
		for range 100 {
			st, _ := streams(t, c, s)
			go func() { _, _ = st.ReadFrom(neverEnding{}) }()
		}
		for range 3 {
			flows(t, c, s)
			flows(t, s, c)
		}
	})
}

// TestPitfall04WritersOfOneStream: many writers on a stream that is stalled take no
// turn of those on others.
func TestPitfall04WritersOfOneStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memPair(memPath{buffer: 1000, rate: 10 << 20}, memPath{buffer: 1 << 20})
		c, s := sessions(t, a, b, Config{KeepAliveInterval: -1, SendQueue: 2 * maxFrame})
		var stalled []*Stream
		for range 20 {
			st, _ := streams(t, c, s)
			stalled = append(stalled, st)
		}
		one, other := streams(t, c, s)
		<-time.After(time.Second)
		for _, st := range stalled {
			for range 20 {
				go func() { _, _ = st.Write(make([]byte, 100_000)) }()
			}
		}
		want := filler(5, 200_000)
		go func() {
			_, _ = one.Write(want)
			_ = one.CloseWrite()
		}()
		_ = other.SetReadDeadline(time.Now().Add(time.Minute))
		if got, err := io.ReadAll(other); err != nil || !bytes.Equal(got, want) {
			t.Errorf("read %d bytes: %v", len(got), err)
		}
	})
}

// TestPitfall05WindowGrows: one stream fills a path that holds far more than the
// initial window. 256 KiB each 50 ms would be 42 Mbit/s of these 800.
func TestPitfall05WindowGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := memPath{delay: 25 * time.Millisecond, rate: 100e6, buffer: 32 << 20}
		a, b := memPair(path, path)
		c, s := sessions(t, a, b, Config{})
		st, other := streams(t, c, s)
		go func() { _, _ = st.ReadFrom(neverEnding{}) }()
		if _, err := io.CopyN(io.Discard, other, 64<<20); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		const n = 200e6
		if _, err := io.CopyN(io.Discard, other, n); err != nil {
			t.Fatal(err)
		}
		if rate := n / time.Since(began).Seconds(); rate < 0.9*100e6 {
			t.Errorf("%.0f MB/s of 100", rate/1e6)
		}
		if w := s.Stats().Window; w < 4<<20 || w > 16<<20 {
			t.Errorf("the window grew by %d KiB", w>>10)
		}
		_ = other.Close()
		_ = st.Close()
	})
}
