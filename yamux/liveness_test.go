package yamux

import (
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestKeepAlive: an idle session lives, and one whose other side is silent ends
// within 12 s, and not before it had time to answer.
func TestKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		c, s := sessions(t, a, b, Config{})
		st, other := streams(t, c, s)
		<-time.After(24 * time.Hour)
		if c.Err() != nil || s.Err() != nil {
			t.Fatal(c.Err(), s.Err())
		}
		_, _ = st, other
	})
	for name, reads := range map[string]bool{"reads": true, "reads nothing": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				defer a.Close()
				s := Server(b, Config{})
				st := open(t, s)
				ended := make(chan error, 1)
				go func() { ended <- s.Run(t.Context()) }()
				if reads {
					go func() { _, _ = io.Copy(io.Discard, a) }()
				}
				began := time.Now()
				_, err := st.Read(make([]byte, 1))
				is(t, err, ErrKeepAlive, syscall.ETIMEDOUT)
				if d := time.Since(began); d > 12*time.Second || d < 10*time.Second {
					t.Errorf("ended after %v", d)
				}
				is(t, <-ended, ErrKeepAlive)
			})
		})
	}
}

// TestKeepAliveDeadWhileBusy: a connection that takes no more bytes is no busy one.
func TestKeepAliveDeadWhileBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memPair(memPath{buffer: 1 << 20}, memPath{buffer: 100_000})
		defer a.Close()
		s := run(t, Server(b, Config{}))
		began := time.Now()
		_, err := open(t, s).Write(make([]byte, 1<<20))
		is(t, err, ErrKeepAlive)
		if d := time.Since(began); d > 16*time.Second {
			t.Errorf("ended after %v", d)
		}
	})
}

// TestKeepAliveBusy: on a slow path the answer to a ping comes late, behind bulk
// of either direction; the session lives.
func TestKeepAliveBusy(t *testing.T) {
	for name, both := range map[string]bool{"one direction": false, "both directions": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// 60 s of bulk are on the way: no pong comes back in less.
				slow := memPath{rate: 32 << 10, buffer: 2 << 20}
				a, b := memPair(slow, slow)
				c, s := sessions(t, a, b, Config{})
				for range 10 {
					st, other := streams(t, c, s)
					go func() { _, _ = st.ReadFrom(neverEnding{}) }()
					go func() { _, _ = io.Copy(io.Discard, other) }()
					if both {
						go func() { _, _ = other.ReadFrom(neverEnding{}) }()
						go func() { _, _ = io.Copy(io.Discard, st) }()
					}
				}
				<-time.After(10 * time.Minute)
				if c.Err() != nil || s.Err() != nil {
					t.Errorf("ended: %v, %v", c.Err(), s.Err())
				}
				_ = c.Close()
			})
		})
	}
}

// TestKeepAliveSlowBatch: a connection that takes one batch of the session's for
// longer than the silence that would end it is busy all the while.
func TestKeepAliveSlowBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memPair(memPath{rate: 12 << 10, buffer: 1000}, memPath{buffer: 1 << 20})
		c, s := sessions(t, a, b, Config{})
		for range 5 {
			st, other := streams(t, c, s)
			go func() { _, _ = st.ReadFrom(neverEnding{}) }()
			go func() { _, _ = io.Copy(io.Discard, other) }()
		}
		<-time.After(10 * time.Minute)
		if c.Err() != nil || s.Err() != nil {
			t.Errorf("ended: %v, %v", c.Err(), s.Err())
		}
		_ = c.Close()
	})
}

// TestKeepAliveAnyByte: bytes are a sign of life, also of who answers no ping.
func TestKeepAliveAnyByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer a.Close()
		s := run(t, Server(b, Config{}))
		go func() { _, _ = io.Copy(io.Discard, a) }()
		for range 1000 {
			if _, err := a.Write(header{kind: typeWindow, stream: 1}.appendTo(nil)[:headerSize]); err != nil {
				t.Fatal(s.Err())
			}
			<-time.After(7 * time.Second)
		}
		if s.Err() != nil {
			t.Error(s.Err())
		}
	})
}

func TestKeepAliveOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer a.Close()
		s := run(t, Server(b, Config{KeepAliveInterval: -1}))
		<-time.After(time.Hour)
		if s.Err() != nil {
			t.Error(s.Err())
		}
	})
}
