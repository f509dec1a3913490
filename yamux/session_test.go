package yamux

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// bubble runs f with two sessions over net.Pipe and a clock of its own.
func bubble(t *testing.T, cfg Config, f func(t *testing.T, c, s *Session)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		c, s := sessions(t, a, b, cfg)
		f(t, c, s)
	})
}

func TestAcceptWaits(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, c, s *Session) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := s.Accept(ctx)
		is(t, err, context.DeadlineExceeded)

		// Several that wait all get one.
		var tasks sync.WaitGroup
		for range 10 {
			tasks.Go(func() { accept(t, s) })
		}
		synctest.Wait()
		for range 10 {
			open(t, c)
		}
		tasks.Wait()

		failed := make(chan error, 1)
		go func() {
			_, err := s.Accept(t.Context())
			failed <- err
		}()
		synctest.Wait()
		_ = s.Close()
		is(t, <-failed, ErrSessionClosed, net.ErrClosed)
	})
}

func TestOpenBacklog(t *testing.T) {
	bubble(t, Config{OpenBacklog: 2}, func(t *testing.T, c, s *Session) {
		open(t, c)
		second := open(t, c)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := c.Open(ctx)
		is(t, err, context.DeadlineExceeded)

		opened := make(chan *Stream)
		for range 2 {
			go func() { opened <- open(t, c) }()
		}
		synctest.Wait()
		_ = second.Reset() // makes room, and so does the acknowledgement of the first
		third := <-opened
		accept(t, s)
		<-opened
		_ = third

		failed := make(chan error, 1)
		go func() {
			_, err := c.Open(t.Context())
			failed <- err
		}()
		synctest.Wait()
		_ = c.Close()
		is(t, <-failed, ErrSessionClosed)
	})
}

func TestAcceptBacklog(t *testing.T) {
	bubble(t, Config{AcceptBacklog: 3}, func(t *testing.T, c, s *Session) {
		var opened []*Stream
		for range 5 {
			st := open(t, c)
			if _, err := st.Write([]byte{byte(st.ID())}); err != nil {
				t.Fatal(err)
			}
			opened = append(opened, st)
		}
		synctest.Wait()
		if st := s.Stats(); st.Streams != 3 || st.Waiting != 3 {
			t.Errorf("%+v", st)
		}
		for i, st := range opened {
			_ = st.SetReadDeadline(time.Now().Add(time.Second))
			_, err := st.Read(make([]byte, 1))
			if got := errors.Is(err, ErrStreamReset); got != (i >= 3) {
				t.Errorf("stream %d: %v", i, err)
			}
		}
		for range 3 {
			accept(t, s)
		}
		flows(t, c, s)
	})
}

func TestMaxStreams(t *testing.T) {
	bubble(t, Config{MaxStreams: 3}, func(t *testing.T, c, s *Session) {
		var kept []*Stream
		for range 3 {
			st, _ := streams(t, c, s)
			kept = append(kept, st)
		}
		extra := open(t, c)
		_, err := extra.Read(make([]byte, 1))
		is(t, err, ErrStreamReset, syscall.ECONNRESET)
		open(t, s) // what is opened here does not count
		_ = kept[0].Reset()
		synctest.Wait()
		flows(t, c, s)
	})
}

func TestGoAway(t *testing.T) {
	bubble(t, Config{OpenBacklog: 1}, func(t *testing.T, c, s *Session) {
		st, other := streams(t, c, s)
		<-time.After(time.Second)
		open(t, c)
		waiting := make(chan error, 1)
		go func() {
			_, err := c.Open(t.Context())
			waiting <- err
		}()
		synctest.Wait()
		if err := errors.Join(s.GoAway(), s.GoAway()); err != nil {
			t.Fatal(err)
		}
		is(t, <-waiting, ErrGoAway, net.ErrClosed)
		for _, side := range []*Session{c, s} {
			_, err := side.Open(t.Context())
			is(t, err, ErrGoAway)
		}
		// The open ones go on.
		if _, err := st.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if _, err := other.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		<-time.After(time.Minute)
		if c.Err() != nil || s.Err() != nil {
			t.Error(c.Err(), s.Err())
		}
	})
}

// TestGoAwayCrossesSYN: a stream that was opened before the other side's GoAway
// came is refused.
func TestGoAwayCrossesSYN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := memPath{delay: time.Second, buffer: 1 << 20}
		a, b := memPair(slow, slow)
		c, s := sessions(t, a, b, Config{})
		_ = s.GoAway()
		st := open(t, c)
		_, err := st.Read(make([]byte, 1))
		is(t, err, ErrStreamReset)
	})
}

func TestShutdownDrains(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, c, s *Session) {
		st, other := streams(t, c, s)
		down := make(chan error, 1)
		go func() { down <- s.Shutdown(t.Context()) }()
		synctest.Wait()
		want := filler(3, 1<<20)
		go func() {
			_, _ = other.Write(want)
			_ = other.Close()
		}()
		<-time.After(time.Minute)
		got, err := io.ReadAll(st)
		if err != nil || string(got) != string(want) {
			t.Errorf("drained %d bytes: %v", len(got), err)
		}
		select {
		case err := <-down:
			t.Errorf("shut down before the last stream ended: %v", err)
		default:
		}
		_ = st.Close()
		if err := <-down; err != nil {
			t.Error(err)
		}
		<-c.Done()
		is(t, c.Err(), ErrPeerClosed, syscall.ECONNRESET)
		is(t, s.Err(), ErrSessionClosed)
		is(t, s.Shutdown(t.Context()), ErrSessionClosed)
		is(t, s.GoAway(), ErrSessionClosed)
	})
}

func TestShutdownGivesUp(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, c, s *Session) {
		streams(t, c, s)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		is(t, s.Shutdown(ctx), context.DeadlineExceeded)
		is(t, s.Err(), ErrSessionClosed)
		<-c.Done() // nothing to wait for any more
		if err := c.Shutdown(t.Context()); err == nil {
			t.Error("a session that has ended was shut down")
		}
	})
}

func TestRunEndsWithItsContext(t *testing.T) {
	a, b := tcpPair(t)
	defer b.Close()
	c := Client(a, Config{})
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	cause := errors.New("over")
	cancel(cause)
	is(t, <-ended, cause)
	<-c.Done()
}

func TestCloseBeforeRun(t *testing.T) {
	a, b := tcpPair(t)
	defer b.Close()
	c := Client(a, Config{})
	_ = c.Close()
	is(t, c.Run(t.Context()), ErrSessionClosed)
	_, err := c.Open(t.Context())
	is(t, err, ErrSessionClosed)
	_, err = c.Ping(t.Context())
	is(t, err, ErrSessionClosed)
}

func TestPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := memPath{delay: 20 * time.Millisecond, buffer: 1 << 20}
		a, b := memPair(path, path)
		c, _ := sessions(t, a, b, Config{})
		if c.RTT() != 0 {
			t.Error("a round trip is known before it was measured")
		}
		d, err := c.Ping(t.Context())
		if err != nil || d != 40*time.Millisecond {
			t.Errorf("ping: %v, %v", d, err)
		}
		if st := c.Stats(); st.RTT != 40*time.Millisecond || st.LeastRTT != st.RTT || c.RTT() != st.RTT {
			t.Errorf("%+v", st)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err = c.Ping(ctx)
		is(t, err, context.DeadlineExceeded)

		// More than are reasonable fail at once; the others are answered.
		var tasks sync.WaitGroup
		var mu sync.Mutex
		refused := 0
		for range 2 * maxPings {
			tasks.Go(func() {
				_, err := c.Ping(t.Context())
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					is(t, err, ErrTooManyPings)
					refused++
				}
			})
		}
		tasks.Wait()
		if refused != maxPings {
			t.Errorf("%d pings were refused", refused)
		}
		waiting := make(chan error, 1)
		go func() {
			_, err := c.Ping(t.Context())
			waiting <- err
		}()
		synctest.Wait()
		_ = c.Close()
		is(t, <-waiting, ErrSessionClosed)
	})
}

// TestStats follows the counters through a transfer.
func TestStats(t *testing.T) {
	bubble(t, Config{KeepAliveInterval: -1}, func(t *testing.T, c, s *Session) {
		synctest.Wait()
		before, beforeS := c.Stats(), s.Stats()
		st := open(t, c)
		if n := c.Stats().Streams; n != 1 {
			t.Errorf("%d streams", n)
		}
		if _, err := st.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if after := s.Stats(); after.Streams != 1 || after.Waiting != 1 || after.BytesIn-beforeS.BytesIn != 1000+headerSize {
			t.Errorf("%+v", after)
		}
		if after := c.Stats(); after.BytesOut-before.BytesOut != 1000+headerSize || after.Queued != 0 || c.Queued() != 0 {
			t.Errorf("%+v", after)
		}
		accept(t, s)
		if n := s.Stats().Waiting; n != 0 {
			t.Errorf("%d streams wait", n)
		}
	})
}

// TestLazyOpening: a SYN and an ACK wait 2 ms for a frame to travel with, and not
// longer; and a reader does not make its SYN wait at all.
func TestLazyOpening(t *testing.T) {
	bubble(t, Config{KeepAliveInterval: -1}, func(t *testing.T, c, s *Session) {
		sent := func(s *Session) int64 { synctest.Wait(); return s.Stats().BytesOut }
		before := sent(c)
		open(t, c)
		if sent(c) != before {
			t.Error("the SYN was sent at once")
		}
		<-time.After(lazily)
		if sent(c) != before+headerSize {
			t.Error("no SYN after 2 ms")
		}
		before = sent(s)
		accept(t, s)
		if sent(s) != before {
			t.Error("the ACK was sent at once")
		}
		<-time.After(lazily)
		if sent(s) != before+headerSize {
			t.Error("no ACK after 2 ms")
		}

		before = sent(c)
		st := open(t, c)
		go func() { _, _ = st.Read(make([]byte, 1)) }()
		if sent(c) != before+headerSize {
			t.Error("a reader waits for a stream that the other side does not know")
		}
		other := accept(t, s)
		before = sent(s)
		if _, err := other.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Second)
		if sent(s) != before+headerSize+1 {
			t.Error("the ACK did not travel with the data")
		}
		if n := len(s.mu.lazy) + len(c.mu.lazy); n != 0 || s.mu.unacked+c.mu.unacked != 0 {
			t.Errorf("%d debts are left, and streams not acknowledged", n)
		}
	})
}

func TestStreamIDsRunOut(t *testing.T) {
	for _, client := range []bool{true, false} {
		a, b := tcpPair(t)
		c, s := sessions(t, a, b, Config{})
		if !client {
			c, s = s, c
		}
		c.mu.Lock()
		c.mu.nextID += 1<<32 - 6
		c.mu.Unlock()
		flows(t, c, s)
		if client {
			flows(t, c, s)
		}
		_, err := c.Open(t.Context())
		is(t, err, ErrStreamIDs)
		flows(t, s, c)
	}
}
