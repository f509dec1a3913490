package main

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-tunnel/culvert/bench/line"
	"github.com/culvert-tunnel/culvert/internal/splice"
)

// row is one kind of work with its targets: ours divided by the other.
type row struct {
	name, unit string
	less       bool // less is better
	targets    map[string]float64
	run        func(context.Context, implementation) (float64, error)
}

func targets(hashicorp, libp2p, bare float64) map[string]float64 {
	t := make(map[string]float64)
	for name, v := range map[string]float64{"hashicorp": hashicorp, "go-yamux": libp2p, "bare": bare} {
		if v > 0 {
			t[name] = v
		}
	}
	return t
}

func rows() []row {
	bulk := func(secure bool, streams int) func(context.Context, implementation) (float64, error) {
		return func(ctx context.Context, impl implementation) (float64, error) {
			return runBulk(ctx, impl, secure, streams)
		}
	}
	relay := func(conns int) func(context.Context, implementation) (float64, error) {
		return func(ctx context.Context, impl implementation) (float64, error) { return runRelay(ctx, impl, conns) }
	}
	beside := func(secure bool) func(context.Context, implementation) (float64, error) {
		return func(ctx context.Context, impl implementation) (float64, error) { return runBeside(ctx, impl, secure) }
	}
	return []row{
		{"one stream, plain", "GB/s", false, targets(2.3, 1.2, 0.8), bulk(false, 1)},
		{"one stream, TLS", "GB/s", false, targets(1.8, 1.25, 0.8), bulk(true, 1)},
		{"64 streams, plain", "GB/s", false, targets(1.6, 1.3, 0.6), bulk(false, 64)},
		{"64 streams, TLS", "GB/s", false, targets(1.3, 1.15, 0.6), bulk(true, 64)},
		{"relay over TLS, 1 connection", "GB/s", false, targets(2.0, 1.4, 1.0), relay(1)},
		{"relay over TLS, 64 connections", "GB/s", false, targets(1.45, 1.35, 1.0), relay(64)},
		{"ping-pong, 64 streams", "1000/s", false, targets(4, 2, 1.4), runPingPong},
		{"relay ping-pong over TLS, p50", "µs", true, targets(0.85, 0.98, 1.05), runRelayPing},
		{"open + byte + close, 32 parallel", "1000/s", false, targets(3.5, 3, 4), runOpen},
		{"heap per idle stream", "bytes", true, targets(0.25, 0.4, 0), func(ctx context.Context, i implementation) (float64, error) { return runHeap(ctx, i, false) }},
		{"heap per stream after a burst", "bytes", true, targets(1.0/200, 0.6, 0), func(ctx context.Context, i implementation) (float64, error) { return runHeap(ctx, i, true) }},
		{"ping p99 beside bulk, plain", "µs", true, targets(1, 0.5, 0), beside(false)},
		{"ping p99 beside bulk, TLS", "µs", true, targets(1, 0.5, 0), beside(true)},
		{"ping p50 beside 8 bulk, 100 Mbit/s, 20 ms", "ms", true, targets(0.2, 0.125, 0), runSlow},
		{"one stream, 1 Gbit/s, 50 ms", "Mbit/s", false, targets(12, 1.15, 0.9), runFar},
	}
}

// seconds that a row of throughput runs.
const seconds = 2 * time.Second

// group runs functions and returns the first error.
type group struct {
	tasks sync.WaitGroup
	once  sync.Once
	err   error
}

func (g *group) run(f func() error) {
	g.tasks.Go(func() {
		if err := f(); err != nil {
			g.once.Do(func() { g.err = err })
		}
	})
}

func (g *group) wait() error {
	g.tasks.Wait()
	return g.err
}

// pump writes to c until stop, then closes it.
func pump(c net.Conn, stop *atomic.Bool) error {
	defer c.Close()
	buf := make([]byte, 64<<10)
	for !stop.Load() {
		if _, err := c.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

// sink reads c to its end and counts.
func sink(c net.Conn, n *atomic.Int64) error {
	defer c.Close()
	buf := make([]byte, 64<<10)
	for {
		k, err := c.Read(buf)
		n.Add(int64(k))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// rate counts what moves in the given time, after a start that doesn't count.
func rate(n *atomic.Int64, stop *atomic.Bool, d time.Duration) float64 {
	time.Sleep(d / 5)
	start, from := time.Now(), n.Load()
	time.Sleep(d)
	moved, took := n.Load()-from, time.Since(start)
	stop.Store(true)
	return float64(moved) / took.Seconds()
}

func runBulk(ctx context.Context, impl implementation, secure bool, streams int) (float64, error) {
	b, err := newBed(ctx, impl, secure)
	if err != nil {
		return 0, err
	}
	defer b.close()
	var g group
	var stop atomic.Bool
	var n atomic.Int64
	pairs, err := openAll(streams, b.open)
	if err != nil {
		return 0, err
	}
	for _, p := range pairs {
		g.run(func() error { return pump(p.near, &stop) })
		g.run(func() error { return sink(p.far, &n) })
	}
	r := rate(&n, &stop, seconds)
	return r / 1e9, g.wait()
}

// ends are those of one connection or stream.
type ends struct{ near, far net.Conn }

// openAll opens n before anything moves: each would wait for all that move already.
func openAll(n int, open func() (near, far net.Conn, err error)) ([]ends, error) {
	list := make([]ends, n)
	for i := range list {
		var err error
		if list[i].near, list[i].far, err = open(); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// relayed opens a connection through two relays: user → relay ⇢ TLS ⇢ relay →
// upstream, and returns user and upstream.
func relayed(ctx context.Context, b *bed, g *group) (user, upstream net.Conn, err error) {
	user, entry, err := pair(ctx)
	if err != nil {
		return nil, nil, err
	}
	exit, upstream, err := pair(ctx)
	if err != nil {
		return nil, nil, err
	}
	near, far, err := b.open()
	if err != nil {
		return nil, nil, err
	}
	g.run(func() error { _, _ = splice.Join(ctx, entry, near, splice.Config{}); return nil })
	g.run(func() error { _, _ = splice.Join(ctx, exit, far, splice.Config{}); return nil })
	return user, upstream, nil
}

func runRelay(ctx context.Context, impl implementation, conns int) (float64, error) {
	b, err := newBed(ctx, impl, true)
	if err != nil {
		return 0, err
	}
	defer b.close()
	var g group
	var stop atomic.Bool
	var n atomic.Int64
	pairs, err := openAll(conns, func() (user, upstream net.Conn, err error) { return relayed(ctx, b, &g) })
	if err != nil {
		return 0, err
	}
	for _, p := range pairs {
		g.run(func() error { return pump(p.far, &stop) })
		g.run(func() error { _ = sink(p.near, &n); return nil })
	}
	r := rate(&n, &stop, seconds)
	return r / 1e9, g.wait()
}

func echo(c net.Conn) error {
	defer c.Close()
	buf := make([]byte, 64)
	for {
		if _, err := io.ReadFull(c, buf); err != nil {
			return nil
		}
		if _, err := c.Write(buf); err != nil {
			return nil
		}
	}
}

// ping sends 64 bytes and waits for them.
func ping(c net.Conn, buf []byte) error {
	if _, err := c.Write(buf); err != nil {
		return err
	}
	_, err := io.ReadFull(c, buf)
	return err
}

func runPingPong(ctx context.Context, impl implementation) (float64, error) {
	b, err := newBed(ctx, impl, false)
	if err != nil {
		return 0, err
	}
	defer b.close()
	var g group
	var stop atomic.Bool
	var n atomic.Int64
	for range 64 {
		c, s, err := b.open()
		if err != nil {
			return 0, err
		}
		g.run(func() error { return echo(s) })
		g.run(func() error {
			defer c.Close()
			buf := make([]byte, 64)
			for !stop.Load() {
				if err := ping(c, buf); err != nil {
					return err
				}
				n.Add(1)
			}
			return nil
		})
	}
	r := rate(&n, &stop, seconds)
	return r / 1e3, g.wait()
}

// pings takes the times of pings for a while.
func pings(c net.Conn, d time.Duration) ([]time.Duration, error) {
	buf := make([]byte, 64)
	var times []time.Duration
	for end := time.Now().Add(d); time.Now().Before(end); {
		start := time.Now()
		if err := ping(c, buf); err != nil {
			return nil, err
		}
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	return times, nil
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func runRelayPing(ctx context.Context, impl implementation) (float64, error) {
	b, err := newBed(ctx, impl, true)
	if err != nil {
		return 0, err
	}
	defer b.close()
	var g group
	user, upstream, err := relayed(ctx, b, &g)
	if err != nil {
		return 0, err
	}
	g.run(func() error { return echo(upstream) })
	times, err := pings(user, seconds)
	_ = user.Close()
	if err := errors.Join(err, g.wait()); err != nil {
		return 0, err
	}
	return float64(quantile(times, 0.5).Nanoseconds()) / 1e3, nil
}

// runOpen opens a connection, sends a byte, gets one back, and closes, for ever.
func runOpen(ctx context.Context, impl implementation) (float64, error) {
	b, err := newBed(ctx, impl, false)
	if err != nil {
		return 0, err
	}
	var g group
	var stop atomic.Bool
	var n atomic.Int64
	answer := func(s net.Conn) error {
		defer s.Close()
		buf := make([]byte, 1)
		if _, err := io.ReadFull(s, buf); err != nil {
			return err
		}
		if _, err := s.Write(buf); err != nil {
			return err
		}
		_, err := s.Read(buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	open, accept, end := b.a.open, b.b.accept, b.close
	if impl.mux == nil {
		ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		open = func() (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String()) }
		accept, end = ln.Accept, func() { _ = ln.Close() }
	}
	go func() {
		for {
			s, err := accept()
			if err != nil {
				return
			}
			g.run(func() error { _ = answer(s); return nil })
		}
	}()
	var askers group
	for range 32 {
		askers.run(func() error {
			buf := make([]byte, 1)
			for !stop.Load() {
				c, err := open()
				if err != nil {
					return err
				}
				if err := ping(c, buf); err != nil {
					return err
				}
				_ = c.Close()
				n.Add(1)
			}
			return nil
		})
	}
	r := rate(&n, &stop, seconds)
	err = askers.wait()
	end()
	return r / 1e3, err
}

func heapInUse() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// runHeap measures an idle stream at one side; both sides are in this process, so
// half of what both need. After a burst: 128 KiB went through it.
func runHeap(ctx context.Context, impl implementation, burst bool) (float64, error) {
	if impl.mux == nil {
		return 0, errNone
	}
	b, err := newBed(ctx, impl, false)
	if err != nil {
		return 0, err
	}
	defer b.close()
	const count = 1000
	streams := make([]net.Conn, 0, 2*count)
	data := make([]byte, 128<<10)
	before := heapInUse()
	for range count {
		c, s, err := b.open()
		if err != nil {
			return 0, err
		}
		streams = append(streams, c, s)
		size := 1
		if burst {
			size = len(data)
		}
		var g group
		g.run(func() error { _, err := c.Write(data[:size]); return err })
		g.run(func() error { _, err := io.ReadFull(s, make([]byte, size)); return err })
		if err := g.wait(); err != nil {
			return 0, err
		}
	}
	after := heapInUse()
	for _, s := range streams {
		_ = s.Close()
	}
	runtime.KeepAlive(streams)
	return (after - before) / count / 2, nil
}

// besideBulk takes the times of pings while bulk flows the same way.
func besideBulk(b *bed, bulk int, settle, d time.Duration) ([]time.Duration, error) {
	var g group
	var stop atomic.Bool
	var n atomic.Int64
	pairs, err := openAll(1+bulk, b.open)
	if err != nil {
		return nil, err
	}
	for _, p := range pairs[1:] {
		g.run(func() error { _ = pump(p.near, &stop); return nil })
		g.run(func() error { _ = sink(p.far, &n); return nil })
	}
	g.run(func() error { return echo(pairs[0].far) })
	time.Sleep(settle)
	times, err := pings(pairs[0].near, d)
	stop.Store(true)
	_ = pairs[0].near.Close()
	b.close()
	return times, errors.Join(err, g.wait())
}

func runBeside(ctx context.Context, impl implementation, secure bool) (float64, error) {
	if impl.mux == nil {
		return 0, errNone
	}
	b, err := newBed(ctx, impl, secure)
	if err != nil {
		return 0, err
	}
	times, err := besideBulk(b, 1, seconds/4, seconds)
	if err != nil {
		return 0, err
	}
	return float64(quantile(times, 0.99).Nanoseconds()) / 1e3, nil
}

func runSlow(ctx context.Context, impl implementation) (float64, error) {
	if impl.mux == nil {
		return 0, errNone
	}
	l, err := line.New(line.Config{Rate: 100e6, Delay: 10 * time.Millisecond})
	if err != nil {
		return 0, err
	}
	defer l.Close()
	b, err := newBedOver(ctx, impl, false, l.Pair)
	if err != nil {
		return 0, err
	}
	times, err := besideBulk(b, 8, 3*time.Second, 4*time.Second)
	if err != nil {
		return 0, err
	}
	return float64(quantile(times, 0.5).Nanoseconds()) / 1e6, nil
}

func runFar(ctx context.Context, impl implementation) (float64, error) {
	l, err := line.New(line.Config{Rate: 1e9, Delay: 25 * time.Millisecond, MTU: 9000})
	if err != nil {
		return 0, err
	}
	defer l.Close()
	b, err := newBedOver(ctx, impl, false, l.Pair)
	if err != nil {
		return 0, err
	}
	c, s, err := b.open()
	if err != nil {
		return 0, err
	}
	var g group
	var stop atomic.Bool
	var n atomic.Int64
	g.run(func() error { _ = pump(c, &stop); return nil })
	g.run(func() error { _ = sink(s, &n); return nil })
	r := rate(&n, &stop, 5*time.Second)
	b.close()
	_, _ = c.Close(), s.Close()
	return r * 8 / 1e6, g.wait()
}
