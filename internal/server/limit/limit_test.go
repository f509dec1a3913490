package limit

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(endpoint.Limits{Connections: 2, Rate: 3})
		enter := func(want error) {
			t.Helper()
			if err := g.Enter(); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		}
		enter(nil)
		enter(nil)
		enter(ErrTooMany)
		g.Leave()
		enter(nil)
		g.Leave()
		enter(ErrTooFast)
		time.Sleep(time.Second) //nolint:forbidigo // of the bubble
		enter(nil)
		g.Leave()
		g.Leave()
		if n := g.present.Load(); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
	var none *Gate
	if none.Enter() != nil || none.Limits() != (endpoint.Limits{}) || !none.Policer().In(1<<20) || New(endpoint.Limits{}) != nil {
		t.Error("without limits something is limited")
	}
	none.Leave()
}

// TestBandwidth: both directions are as fast as the limit, and smooth.
func TestBandwidth(t *testing.T) {
	for name, l := range map[string]endpoint.Limits{
		"endpoint": {Bandwidth: 100_000}, "connection": {ConnectionBandwidth: 100_000}, "both": {Bandwidth: 100_000, ConnectionBandwidth: 300_000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				c := New(l).Conn(near)
				const size = 500_000
				go func() { _, _ = far.Write(make([]byte, size)) }()
				began, last, gap := time.Now(), time.Now(), time.Duration(0)
				buf := make([]byte, 64<<10)
				for got := 0; got < size; {
					n, err := c.Read(buf)
					if err != nil {
						t.Fatal(err)
					}
					got += n
					gap, last = max(gap, time.Since(last)), time.Now()
				}
				if d := time.Since(began); d < 4900*time.Millisecond || d > 5*time.Second {
					t.Errorf("reading took %s", d)
				}
				if gap > 50*time.Millisecond {
					t.Errorf("a pause of %s", gap)
				}
				go func() { _, _ = io.Copy(io.Discard, far) }()
				began = time.Now()
				if _, err := c.Write(make([]byte, size)); err != nil {
					t.Fatal(err)
				}
				if d := time.Since(began); d < 4900*time.Millisecond || d > 5*time.Second {
					t.Errorf("writing took %s", d)
				}
				_ = c.Close()
			})
		})
	}
}

func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(endpoint.Limits{Bandwidth: 100_000})
		done := make(chan int, 2)
		began := time.Now()
		for range 2 {
			near, far := net.Pipe()
			c := g.Conn(near)
			go func() { _, _ = io.Copy(io.Discard, far) }()
			go func() {
				n, _ := c.Write(make([]byte, 100_000))
				_ = c.Close()
				done <- n
			}()
		}
		<-done
		<-done
		if d := time.Since(began); d < 1900*time.Millisecond || d > 2*time.Second {
			t.Errorf("both together took %s", d)
		}
	})
}

func TestClosingEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		c := New(endpoint.Limits{Bandwidth: 128}).Conn(near)
		go func() { _, _ = io.Copy(io.Discard, far) }()
		ended := make(chan error, 1)
		go func() {
			_, err := c.Write(make([]byte, 1<<20))
			ended <- err
		}()
		synctest.Wait()
		_ = c.(*paced).Reset()
		if err := <-ended; err == nil {
			t.Error("the write succeeded")
		}
	})
}

func TestPolicer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(endpoint.Limits{Bandwidth: 100_000}).Policer()
		if !p.In(65_000) {
			t.Error("a datagram larger than the bucket never passes")
		}
		if p.In(1) || !p.Out(1) {
			t.Error("it was not paid for, or by the other direction")
		}
		passed := 0
		for range 10_000 {
			time.Sleep(time.Millisecond) //nolint:forbidigo // of the bubble
			if p.In(1000) {
				passed += 1000
			}
		}
		if passed < 900_000 || passed > 1_000_000 {
			t.Errorf("%d bytes passed in 10 s", passed)
		}
	})
}
