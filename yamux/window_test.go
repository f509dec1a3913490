package yamux

import (
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// far is a path of 40 ms there and back that holds more than an initial window.
var far = memPath{delay: 20 * time.Millisecond, rate: 100e6, buffer: 32 << 20}

// grow makes st's window at the other side grow by bulk, until it carried n bytes.
func grow(t *testing.T, st, other *Stream, n int64) {
	t.Helper()
	go func() { _, _ = st.ReadFrom(io.LimitReader(neverEnding{}, n)) }()
	if _, err := io.CopyN(io.Discard, other, n); err != nil {
		t.Fatal(err)
	}
}

// TestWindowAccounting: what windows grew by is in the session's and the shared
// budget, within their bounds, and returns with the streams however they end.
func TestWindowAccounting(t *testing.T) {
	for name, end := range map[string]func(st, other *Stream, s *Session){
		"orderly": func(st, other *Stream, _ *Session) {
			_ = st.CloseWrite()
			_, _ = io.Copy(io.Discard, other)
			_ = other.Close()
		},
		"closed here": func(_, other *Stream, _ *Session) { _ = other.Close() },
		"reset":       func(st, _ *Stream, _ *Session) { _ = st.Reset() },
		"reset here":  func(_, other *Stream, _ *Session) { _ = other.Reset() },
		"session":     func(_, _ *Stream, s *Session) { _ = s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				budget := NewBudget(20 << 20)
				a, b := memPair(far, far)
				c, s := sessions(t, a, b, Config{SessionWindow: 16 << 20, Budget: budget})
				st, other := streams(t, c, s)
				st2, other2 := streams(t, c, s)
				grow(t, st, other, 64<<20)
				grow(t, st2, other2, 64<<20)
				w := s.Stats().Window
				if w < 1<<20 || w > 16<<20 || budget.Used() != w {
					t.Errorf("windows grew by %d KiB, %d of them in the budget", w>>10, budget.Used()>>10)
				}
				end(st, other, s)
				end(st2, other2, s)
				synctest.Wait()
				<-time.After(time.Second)
				if s.Stats().Window != 0 || budget.Used() != 0 {
					t.Errorf("%d KiB are left, %d in the budget", s.Stats().Window>>10, budget.Used()>>10)
				}
			})
		})
	}
}

// TestWindowBounds: no growth beyond what is configured, and the stream flows on.
func TestWindowBounds(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg  Config
		most int64
	}{
		"no growth":      {Config{SessionWindow: -1}, 0},
		"stream":         {Config{MaxStreamWindow: 1 << 20}, 1<<20 - InitialWindow},
		"session":        {Config{SessionWindow: 4 << 20}, 4 << 20},
		"shared":         {Config{Budget: NewBudget(4 << 20)}, 4 << 20},
		"shared, no use": {Config{Budget: NewBudget(0)}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := memPair(far, far)
				c, s := sessions(t, a, b, tt.cfg)
				st, other := streams(t, c, s)
				grow(t, st, other, 32<<20)
				w := s.Stats().Window
				if w > tt.most || (tt.most > 0 && w == 0) {
					t.Errorf("grew by %d KiB", w>>10)
				}
				_ = other.Close()
			})
		})
	}
}

// TestWindowEnlarged: on a long path the window is enlarged before the first is used up, for
// who sends more than a little and is read; elsewhere it is not.
func TestWindowEnlarged(t *testing.T) {
	near := memPath{buffer: far.buffer}
	for name, tt := range map[string]struct {
		path       memPath
		sent, read int64
		want       int64 // beyond the first window
	}{
		"long":             {far, InitialWindow, longAfter, longWindow - InitialWindow},
		"a short exchange": {far, longAfter - 1, longAfter - 1, 0},
		"not read":         {far, InitialWindow, longAfter - 1, 0},
		"short":            {near, InitialWindow, longAfter, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := memPair(tt.path, tt.path)
				c, s := sessions(t, a, b, Config{})
				<-time.After(time.Second) // the round trip is measured
				st, other := streams(t, c, s)
				if _, err := st.Write(make([]byte, tt.sent)); err != nil {
					t.Fatal(err)
				}
				if _, err := io.CopyN(io.Discard, other, tt.read); err != nil {
					t.Fatal(err)
				}
				if w := s.Stats().Window; w != tt.want {
					t.Errorf("grew by %d instead of %d", w, tt.want)
				}
				_ = other.Close()
			})
		})
	}
}

// TestWindowNarrows: on a short path the window of bulk is larger while nobody else says
// anything, and small while somebody does. Short pieces of bulk are nobody else's.
func TestWindowNarrows(t *testing.T) {
	short := memPath{delay: 50 * time.Microsecond, rate: 400e6, buffer: 32 << 20}
	synctest.Test(t, func(t *testing.T) {
		a, b := memPair(short, short)
		c, s := sessions(t, a, b, Config{})
		<-time.After(time.Second) // the round trip is measured
		st, other := streams(t, c, s)
		go func() {
			for piece := make([]byte, 100_000); ; {
				if _, err := st.Write(piece); err != nil {
					return
				}
				if _, err := st.Write(piece[:100]); err != nil {
					return
				}
			}
		}()
		grown := func(bytes int64) int64 {
			t.Helper()
			if _, err := io.CopyN(io.Discard, other, bytes); err != nil {
				t.Fatal(err)
			}
			return s.Stats().Window
		}
		if n := grown(256 << 20); n == 0 {
			t.Error("did not grow while nobody else said anything")
		}
		talker, listener := streams(t, c, s)
		go func() { _, _ = io.Copy(io.Discard, listener) }()
		over := make(chan struct{})
		go func() {
			defer close(over)
			for range 40 {
				if _, err := talker.Write(make([]byte, 64)); err != nil {
					t.Error(err)
				}
				<-time.After(10 * time.Millisecond)
			}
		}()
		if n := grown(64 << 20); n != 0 {
			t.Errorf("is larger by %d while somebody else speaks", n)
		}
		<-over
		if n := grown(256 << 20); n == 0 {
			t.Error("did not grow again")
		}
		_ = other.Close()
		_ = c.Close()
	})
}

// TestWindowShrinks: a stream that was fast and is slow now gives its window back.
func TestWindowShrinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memPair(far, far)
		c, s := sessions(t, a, b, Config{})
		st, other := streams(t, c, s)
		grow(t, st, other, 64<<20)
		big := s.Stats().Window
		go func() {
			for {
				if _, err := st.Write(make([]byte, 100_000)); err != nil {
					return
				}
			}
		}()
		for range 600 {
			if _, err := io.CopyN(io.Discard, other, 100_000); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Second)
		}
		if small := s.Stats().Window; small > 0 {
			t.Errorf("still %d of %d KiB", small>>10, big>>10)
		}
		_ = c.Close()
	})
}

// TestWindowOfUnreadStreams: a window that grew stays on the account while bytes
// that it let in are unread, also after FIN. Else streams that are filled, ended
// and not read would hold any amount.
func TestWindowOfUnreadStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memPair(far, far)
		c, s := sessions(t, a, b, Config{SessionWindow: 16 << 20})
		st, other := streams(t, c, s)
		grow(t, st, other, 64<<20)
		w := s.Stats().Window
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			_, _ = st.ReadFrom(io.LimitReader(neverEnding{}, w/2))
			_ = st.Close()
		}()
		<-sent
		<-time.After(time.Minute)
		if got := s.Stats().Window; got != w {
			t.Errorf("%d KiB are unread, and %d on the account of %d", w>>11, got>>10, w>>10)
		}

		// Also when WriteTo has them and its destination takes none.
		r, blocked := io.Pipe()
		written := make(chan error, 1)
		go func() {
			_, err := other.WriteTo(blocked)
			written <- err
		}()
		<-time.After(time.Minute)
		if got := s.Stats().Window; got != w {
			t.Errorf("%d KiB are unwritten, and %d on the account of %d", w>>11, got>>10, w>>10)
		}
		if n, err := io.CopyN(io.Discard, r, w/2); n != w/2 || err != nil {
			t.Error(n, err)
		}
		if err := <-written; err != nil {
			t.Error(err)
		}
		if got := s.Stats().Window; got != 0 {
			t.Errorf("%d KiB are on the account at the end", got>>10)
		}
		_ = other.Close()
	})
}

// TestBudgetIsShared: sessions grow their windows out of one budget, and one that
// came late still gets some.
func TestBudgetIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := NewBudget(8 << 20)
		var sides []*Session
		for range 3 {
			a, b := memPair(far, far)
			c, s := sessions(t, a, b, Config{Budget: budget})
			st, other := streams(t, c, s)
			grow(t, st, other, 64<<20)
			sides = append(sides, c, s)
		}
		sum := int64(0)
		for i, s := range sides {
			w := s.Stats().Window
			if sum += w; i%2 == 1 && w == 0 {
				t.Errorf("session %d got none", i/2)
			}
		}
		if sum != budget.Used() || sum > 8<<20 {
			t.Errorf("windows grew by %d KiB, %d of them in the budget", sum>>10, budget.Used()>>10)
		}
		for _, s := range sides {
			_ = s.Close()
		}
		synctest.Wait()
		if budget.Used() != 0 {
			t.Errorf("%d KiB are left in the budget", budget.Used()>>10)
		}
	})
}

// TestChats: who says something short is taken for somebody who chats if his stream carried
// little for some time, and not if its rate has only just begun to be measured anew.
func TestChats(t *testing.T) {
	for _, tt := range []struct {
		since time.Duration // that the stream's bytes are counted
		bytes uint32
		chats bool
	}{
		{time.Second, 64, true},
		{absence, 64, true},
		{absence, chatter, false},
		{10 * time.Microsecond, 0, false},
		{-time.Microsecond, 0, false}, // what is said was heard before
		{time.Second, 1 << 30, false},
	} {
		s := &Session{}
		st := &Stream{session: s}
		s.heard.Store(int64(time.Hour))
		st.recv.epoch, st.recv.epochBytes = int64(time.Hour-tt.since), tt.bytes
		st.chatsLocked()
		if got := s.chat.Load() != 0; got != tt.chats {
			t.Errorf("%d bytes in %v: %v", tt.bytes, tt.since, got)
		}
	}
}

// TestWholeWrites: what is written 64 KiB at a time is not torn into a frame of almost that
// and one of a few bytes.
func TestWholeWrites(t *testing.T) {
	const count = 50
	for _, waits := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			a, b := memPair(memPath{buffer: 64 << 20}, memPath{buffer: 1 << 20})
			frames := 0
			counted := make(chan struct{})
			go func() {
				defer close(counted)
				var head [headerSize]byte
				for left := count * maxPayload; left > 0; frames++ {
					if _, err := io.ReadFull(b, head[:]); err != nil {
						t.Error(err)
						return
					}
					h := parseHeader(head[:])
					if h.kind != typeData {
						frames--
						continue
					}
					n, err := io.CopyN(io.Discard, b, int64(h.length))
					if left -= int(n); err != nil {
						t.Error(err)
						return
					}
					if frames == 0 { // all credit for what follows
						var more [headerSize]byte
						header{kind: typeWindow, stream: h.stream, length: count * maxPayload}.put(more[:])
						_, _ = b.Write(more[:])
					}
				}
			}()
			c := Client(a, Config{KeepAliveInterval: -1})
			go func() { _ = c.Run(t.Context()) }()
			st, err := c.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for range count {
				if _, err := st.Write(make([]byte, maxPayload)); err != nil {
					t.Fatal(err)
				}
				if waits {
					synctest.Wait()
				}
			}
			<-counted
			if frames != count {
				t.Errorf("%d writes left in %d frames", count, frames)
			}
			_, _ = c.Close(), b.Close()
		})
	}
}
