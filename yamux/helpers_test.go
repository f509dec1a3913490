package yamux

import (
	"context"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Settings of the randomized tests, as flags or environment variables.
var (
	seedFlag = flag.Uint64("yamux.seed", envUint("CULVERT_YAMUX_SEED", 0), "only this seed in randomized tests")
	longFlag = flag.Duration("yamux.long", envDuration("CULVERT_YAMUX_LONG"), "how long randomized tests run, each")
)

func envUint(name string, or uint64) uint64 {
	if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
		return n
	}
	return or
}

func envDuration(name string) time.Duration {
	d, _ := time.ParseDuration(os.Getenv(name))
	return d
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tcpPair returns the two ends of a loopback connection.
func tcpPair(tb testing.TB) (net.Conn, net.Conn) {
	tb.Helper()
	return socketPair(tb, "tcp", "127.0.0.1:0")
}

func socketPair(tb testing.TB, network, address string) (net.Conn, net.Conn) {
	tb.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	a, err := net.Dial(network, ln.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// narrowPair is a tcpPair whose send buffers are so small that most writes are
// taken in part. Smaller than a segment of loopback, they would leave TCP to its
// timers.
func narrowPair(tb testing.TB) (net.Conn, net.Conn) {
	tb.Helper()
	a, b := tcpPair(tb)
	for _, c := range []net.Conn{a, b} {
		tcp := c.(*net.TCPConn)
		if err := tcp.SetWriteBuffer(64 << 10); err != nil {
			tb.Fatal(err)
		}
	}
	return a, b
}

func pipePair(testing.TB) (net.Conn, net.Conn) { return net.Pipe() }

// wires are the kinds of connections that sessions treat differently.
var wires = []struct {
	name string
	pair func(testing.TB) (net.Conn, net.Conn)
}{{"tcp", tcpPair}, {"narrow", narrowPair}, {"pipe", pipePair}, {"buffered", bufferedPair}}

// eachWire runs f with a pair of sessions over each kind of connection.
func eachWire(t *testing.T, f func(t *testing.T, c, s *Session)) {
	t.Helper()
	for _, w := range wires {
		t.Run(w.name, func(t *testing.T) {
			a, b := w.pair(t)
			c, s := sessions(t, a, b, Config{})
			f(t, c, s)
		})
	}
}

// run runs s until the test ends, then checks that nothing is left of it.
func run(tb testing.TB, s *Session) *Session {
	tb.Helper()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(context.Background()) }()
	tb.Cleanup(func() {
		s.Close()
		<-ended
		st := s.Stats()
		if st.Streams != 0 || st.Waiting != 0 || st.Window != 0 {
			tb.Errorf("left in a session that has ended: %+v", st)
		}
	})
	return s
}

// sessions runs a session on each end of a connection.
func sessions(tb testing.TB, a, b net.Conn, cfg Config) (client, server *Session) {
	tb.Helper()
	return run(tb, Client(a, cfg)), run(tb, Server(b, cfg))
}

// tcpSessions are sessions over loopback.
func tcpSessions(tb testing.TB) (client, server *Session) {
	tb.Helper()
	a, b := tcpPair(tb)
	return sessions(tb, a, b, Config{})
}

// streams opens a stream and returns both ends.
func streams(tb testing.TB, from, to *Session) (opened, accepted *Stream) {
	tb.Helper()
	opened = open(tb, from)
	return opened, accept(tb, to)
}

func open(tb testing.TB, s *Session) *Stream {
	tb.Helper()
	st, err := s.Open(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return st
}

func accept(tb testing.TB, s *Session) *Stream {
	tb.Helper()
	st, err := s.Accept(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return st
}

// filler returns bytes that differ from seed to seed and from place to place.
func filler(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

// flows fails the test unless a stream from a to b echoes some bytes soon.
func flows(tb testing.TB, a, b *Session) {
	tb.Helper()
	st, other := streams(tb, a, b)
	defer st.Close()
	defer other.Close()
	deadline := time.Now().Add(20 * time.Second)
	_, _ = st.SetDeadline(deadline), other.SetDeadline(deadline)
	want := filler(1, 300<<10)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(func() {
		_, _ = io.Copy(other, other)
		_ = other.CloseWrite()
	})
	tasks.Go(func() {
		_, _ = st.Write(want)
		_ = st.CloseWrite()
	})
	got, err := io.ReadAll(st)
	if err != nil || string(got) != string(want) {
		tb.Errorf("%d bytes of %d came back: %v", len(got), len(want), err)
	}
}

// until polls a condition that other goroutines bring about. It is for what has no
// channel to wait on; tests in a bubble need it not.
func until(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			tb.Fatalf("never: %s\n%s", what, buf[:runtime.Stack(buf, true)])
		}
		<-tick.C
	}
}

// is fails the test unless err is each of the targets.
func is(tb testing.TB, err error, targets ...error) {
	tb.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			tb.Errorf("error %v is not %v", err, target)
		}
	}
}

// heapNow is the heap in use after a collection.
func heapNow() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools keep what they hold for one cycle
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
