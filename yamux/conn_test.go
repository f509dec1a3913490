package yamux

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
)

// TestConformance holds streams against what users of package net rely on. There
// are no deviations.
func TestConformance(t *testing.T) {
	for _, w := range wires {
		for _, opened := range []bool{true, false} {
			t.Run(w.name+map[bool]string{true: "/opened", false: "/accepted"}[opened], func(t *testing.T) {
				nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
					a, b := w.pair(t)
					c, s := sessions(t, a, b, Config{})
					one, two := streams(t, c, s)
					if !opened {
						one, two = two, one
					}
					return one, two, func() { c.Close(); s.Close(); one.Close(); two.Close() }, nil
				})
			})
		}
	}
}

// TestEchoes carries large streams over every kind of connection in both
// directions at once.
func TestEchoes(t *testing.T) {
	eachWire(t, func(t *testing.T, c, s *Session) {
		var tasks sync.WaitGroup
		for i := range 6 {
			from, to := c, s
			if i%2 == 1 {
				from, to = s, c
			}
			tasks.Go(func() { flows(t, from, to) })
		}
		tasks.Wait()
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		c, s := sessions(t, a, b, Config{})
		st, other := streams(t, c, s)

		began := time.Now()
		_ = st.SetReadDeadline(began.Add(time.Second))
		_, err := st.Read(make([]byte, 1))
		is(t, err, os.ErrDeadlineExceeded)
		if d := time.Since(began); d != time.Second {
			t.Errorf("read waited %v", d)
		}
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%v is no time-out", err)
		}

		// In the past, it comes before bytes that are there; cleared, they can be read.
		if _, err := other.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		_ = st.SetReadDeadline(time.Now().Add(-time.Hour))
		_, err = st.Read(make([]byte, 1))
		is(t, err, os.ErrDeadlineExceeded)
		_ = st.SetReadDeadline(time.Time{})
		if n, err := st.Read(make([]byte, 1)); n != 1 || err != nil {
			t.Errorf("read after the deadline was cleared: %d, %v", n, err)
		}

		// Later and later, then past: who reads is woken by the last one only.
		woken := make(chan time.Duration, 1)
		began = time.Now()
		_ = st.SetReadDeadline(began.Add(time.Second))
		go func() {
			_, err := st.Read(make([]byte, 1))
			is(t, err, os.ErrDeadlineExceeded)
			woken <- time.Since(began)
		}()
		synctest.Wait()
		_ = st.SetReadDeadline(began.Add(time.Hour))
		<-time.After(time.Minute)
		_ = st.SetReadDeadline(time.Now())
		if d := <-woken; d != time.Minute {
			t.Errorf("woken after %v", d)
		}

		// A writer is stopped by the other side's window, and told what went out.
		_ = st.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := st.Write(make([]byte, 1<<20))
		is(t, err, os.ErrDeadlineExceeded)
		if n != InitialWindow {
			t.Errorf("%d bytes went out", n)
		}
		_, err = st.Write(nil)
		is(t, err, os.ErrDeadlineExceeded)
		_ = st.SetDeadline(time.Time{})
		got := make([]byte, InitialWindow)
		if _, err := io.ReadFull(other, got); err != nil {
			t.Error(err)
		}
		if n, err := st.Write(got); n != len(got) || err != nil {
			t.Errorf("write after the deadline was cleared: %d, %v", n, err)
		}
	})
}

func TestDeadlinesConcurrently(t *testing.T) {
	c, s := tcpSessions(t)
	st, _ := streams(t, c, s)
	var tasks sync.WaitGroup
	for range 4 {
		tasks.Go(func() {
			for i := range 200 {
				_ = st.SetDeadline(time.Now().Add(time.Duration(i%3) * time.Millisecond))
				_, err := st.Read(make([]byte, 1))
				is(t, err, os.ErrDeadlineExceeded)
				_, _ = st.Write(make([]byte, 100))
			}
		})
	}
	tasks.Wait()
}

func TestCloseWrite(t *testing.T) {
	eachWire(t, func(t *testing.T, c, s *Session) {
		st, other := streams(t, c, s)
		want := filler(2, 1<<20)
		var tasks sync.WaitGroup
		tasks.Go(func() {
			if _, err := st.Write(want); err != nil {
				t.Error(err)
			}
			if err := errors.Join(st.CloseWrite(), st.CloseWrite()); err != nil {
				t.Error(err)
			}
			_, err := st.Write([]byte("x"))
			is(t, err, ErrStreamClosed, net.ErrClosed)
		})
		got, err := io.ReadAll(other)
		tasks.Wait()
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("got %d bytes: %v", len(got), err)
		}
		// The other direction goes on, as long as it likes.
		if _, err := other.Write(want[:100]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(st, got[:100]); err != nil {
			t.Fatal(err)
		}
		if err := other.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := st.Read(got); err != io.EOF { //nolint:errorlint // must be bare
			t.Errorf("at the end: %v", err)
		}
		until(t, "both sides forget the stream", func() bool {
			return c.Stats().Streams == 0 && s.Stats().Streams == 0
		})
	})
}

func TestCloseResetsWhoSendsOn(t *testing.T) {
	eachWire(t, func(t *testing.T, c, s *Session) {
		st, other := streams(t, c, s)
		if _, err := other.Write([]byte("unread")); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(st.Close(), st.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := other.Read(make([]byte, 1)); err != io.EOF { //nolint:errorlint // must be bare
			t.Errorf("read: %v", err)
		}
		for err := error(nil); ; {
			if _, err = other.Write([]byte("more")); err != nil {
				is(t, err, ErrStreamReset, syscall.ECONNRESET)
				break
			}
		}
		_, err := st.Read(make([]byte, 1))
		is(t, err, ErrStreamClosed, net.ErrClosed)
		_, err = st.Write([]byte("x"))
		is(t, err, net.ErrClosed)
		is(t, st.SetDeadline(time.Now()), net.ErrClosed)
		if err := other.Close(); err != nil {
			t.Errorf("close of a stream that was reset: %v", err)
		}
		until(t, "both sides forget the stream", func() bool {
			return c.Stats().Streams == 0 && s.Stats().Streams == 0
		})
	})
}

func TestResetOfStream(t *testing.T) {
	eachWire(t, func(t *testing.T, c, s *Session) {
		st, other := streams(t, c, s)
		if _, err := st.Write([]byte("last words")); err != nil {
			t.Fatal(err)
		}
		reading := make(chan error, 1)
		go func() {
			_, err := st.Read(make([]byte, 1))
			reading <- err
		}()
		until(t, "words arrive", func() bool { return s.Stats().BytesIn > 2*headerSize+10 })
		if err := errors.Join(st.Reset(), st.Reset()); err != nil {
			t.Fatal(err)
		}
		is(t, <-reading, ErrStreamClosed, net.ErrClosed)
		_, err := st.Write([]byte("x"))
		is(t, err, ErrStreamClosed, net.ErrClosed)

		got, err := io.ReadAll(other)
		is(t, err, ErrStreamReset, syscall.ECONNRESET)
		if string(got) != "last words" {
			t.Errorf("before the reset: %q", got)
		}
		_, err = other.Write([]byte("x"))
		is(t, err, ErrStreamReset, syscall.ECONNRESET)
		flows(t, s, c)
	})
}

func TestResetBeforeTheOtherSideKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		c, s := sessions(t, a, b, Config{})
		st := open(t, c)
		_ = st.Reset()
		<-time.After(time.Second)
		if n := s.Stats().Waiting; n != 0 {
			t.Errorf("%d streams arrived", n)
		}
		flows(t, c, s)
	})
}

// TestCloseAgain: a stream that has ended, however it did, can be closed.
func TestCloseAgain(t *testing.T) {
	c, s := tcpSessions(t)
	st, other := streams(t, c, s)
	if err := errors.Join(st.Reset(), st.Close(), st.Close()); err != nil {
		t.Error(err)
	}
	_, _ = other.Read(make([]byte, 1))
	if err := errors.Join(other.Close(), other.Close()); err != nil {
		t.Error(err)
	}
}

// TestLinger: a closed stream whose other side never ends is reset in the end.
func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		c, s := sessions(t, a, b, Config{CloseTimeout: time.Minute})
		st, other := streams(t, c, s)
		_ = st.Close()
		<-time.After(time.Minute - time.Second)
		if c.Stats().Streams != 1 {
			t.Error("the stream was forgotten early")
		}
		<-time.After(2 * time.Second)
		if c.Stats().Streams != 0 || s.Stats().Streams != 0 {
			t.Error("the stream is still known")
		}
		_, err := other.Write([]byte("x"))
		is(t, err, ErrStreamReset)
	})
}

func TestSessionEndsReachStreams(t *testing.T) {
	eachWire(t, func(t *testing.T, c, s *Session) {
		st, other := streams(t, c, s)
		full, fullThere := streams(t, c, s)
		finished, _ := streams(t, c, s)
		_ = finished.CloseWrite()
		fails := make(chan error, 4)
		for _, end := range []*Stream{st, other} {
			go func() {
				_, err := end.Read(make([]byte, 1))
				fails <- err
			}()
		}
		for _, end := range []*Stream{full, fullThere} {
			go func() {
				_, err := end.Write(make([]byte, 1<<20))
				fails <- err
			}()
		}
		<-time.After(time.Millisecond) // most runs find them waiting; no outcome depends on it
		_ = c.Close()
		<-s.Done()
		for range cap(fails) {
			if err := <-fails; !errors.Is(err, net.ErrClosed) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("stream failed with %v", err)
			}
		}
		is(t, c.Err(), ErrSessionClosed, net.ErrClosed)
		_, err := st.Read(make([]byte, 1))
		is(t, err, ErrSessionClosed, net.ErrClosed)
		_, err = st.Write(make([]byte, 1))
		is(t, err, ErrSessionClosed, net.ErrClosed)
		_, err = finished.Write(make([]byte, 1))
		is(t, err, net.ErrClosed)
		if err := st.Close(); err != nil {
			t.Errorf("close after the session's end: %v", err)
		}
	})
}

func TestAddresses(t *testing.T) {
	c, s := tcpSessions(t)
	st, other := streams(t, c, s)
	if st.LocalAddr() != c.LocalAddr() || st.RemoteAddr().String() != other.LocalAddr().String() || other.RemoteAddr() != s.RemoteAddr() {
		t.Error("addresses are not the connection's")
	}
	if st.ID() != 1 || other.ID() != 1 || open(t, s).ID() != 2 || open(t, c).ID() != 3 {
		t.Error("the client's streams are odd, the server's even")
	}
}

// TestPeerDiesWithinFrame: to a stream, a connection that breaks off is a reset,
// wherever in a frame it does.
func TestPeerDiesWithinFrame(t *testing.T) {
	for _, sent := range []int{headerSize / 2, headerSize, headerSize + 10} {
		a, b := tcpPair(t)
		c := run(t, Client(a, Config{}))
		st := open(t, c)
		frame := append(header{kind: typeData, stream: st.ID(), length: 100}.appendTo(nil), make([]byte, 100)...)
		if _, err := b.Write(frame[:sent]); err != nil {
			t.Fatal(err)
		}
		b.Close()
		_, err := io.ReadFull(st, make([]byte, 100))
		if !errors.Is(err, syscall.EPIPE) { // that is what writing found, if it was first
			is(t, err, syscall.ECONNRESET)
		}
		<-c.Done()
	}
}

// TestCloseWithinFrame: bytes of a frame that was under way as its stream was closed
// are given credit for, or who sent them could not send what brings it a reset.
func TestCloseWithinFrame(t *testing.T) {
	for _, before := range []int{100, 100_000} {
		s, p := raw(t)
		frame := append(header{kind: typeData, flags: flagSYN, stream: 1, length: InitialWindow}.appendTo(nil), make([]byte, InitialWindow)...)
		if _, err := p.conn.Write(frame[:before]); err != nil {
			t.Fatal(err)
		}
		st := accept(t, s)
		until(t, "the first bytes come", func() bool { return s.Stats().BytesIn >= int64(before) })
		_ = st.Close()
		if _, err := p.conn.Write(frame[before:]); err != nil {
			t.Fatal(err)
		}
		if h := p.want(typeWindow, 0); h.length < InitialWindow/2 {
			t.Errorf("credit for %d bytes", h.length)
		}
		p.send(header{kind: typeData, stream: 1, length: 1})
		p.want(typeWindow, flagRST)
	}
}
