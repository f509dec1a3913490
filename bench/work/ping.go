package work

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-tunnel/culvert/bench/rival"
)

// open connects a visitor to the service Echo in a mode.
func open(ctx context.Context, s *rival.Subject, mode byte) (net.Conn, error) {
	c, err := s.Dial(ctx, rival.Echo)
	if err != nil {
		return nil, err
	}
	_, err = c.Write([]byte{mode})
	return c, err
}

// load is what goes on beside a ping-pong.
type load struct {
	reading int // visitors that download as fast as they can
	stopped int // visitors that asked for a download and read nothing
}

// counter counts the bytes that are written to it.
type counter struct{ n atomic.Int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// start starts the load, until stop is called; read counts what its readers get.
func (l load) start(ctx context.Context, s *rival.Subject, read *counter) (stop func(), err error) {
	var conns []net.Conn
	var tasks sync.WaitGroup
	stop = func() {
		for _, c := range conns {
			_ = c.Close()
		}
		tasks.Wait()
	}
	for i := range l.reading + l.stopped {
		c, err := open(ctx, s, 'd')
		if err != nil {
			stop()
			return nil, err
		}
		conns = append(conns, c)
		if i < l.reading {
			tasks.Go(func() { _, _ = io.Copy(read, struct{ io.Reader }{c}) })
		}
	}
	return stop, nil
}

// settle is how long a load runs before it is measured beside.
func settle(d time.Duration) time.Duration { return d / 4 }

// pingPong times round trips one after the other, beside a load.
func pingPong(name string, beside load) Work {
	run := func(ctx context.Context, s *rival.Subject, d time.Duration) ([]float64, float64, error) {
		var read counter
		stop, err := beside.start(ctx, s, &read)
		if err != nil {
			return nil, 0, err
		}
		defer stop()
		if beside != (load{}) {
			time.Sleep(settle(d))
		}
		began, before := time.Now(), read.n.Load()
		times, err := pings(ctx, s, d)
		if err != nil {
			return nil, 0, err
		}
		values := []float64{quantile(times, 0.5), quantile(times, 0.99)}
		if beside.reading > 0 {
			values = append(values, float64(read.n.Load()-before)/time.Since(began).Seconds()/1e9)
		}
		return values, float64(len(times)), nil
	}
	metrics := []Metric{{Name: "p50", Unit: "µs"}, {Name: "p99", Unit: "µs"}}
	if beside.reading > 0 {
		metrics = append(metrics, Metric{Name: "the bulk", Unit: "GB/s", Higher: true})
	}
	return Work{Name: name, Metrics: metrics, Limits: true, Run: run}
}

// Pings is the median and the 99th percentile of round trips, in microseconds.
func Pings(ctx context.Context, s *rival.Subject, d time.Duration) (p50, p99 float64, err error) {
	times, err := pings(ctx, s, d)
	if err != nil {
		return 0, 0, err
	}
	return quantile(times, 0.5), quantile(times, 0.99), nil
}

// quantile is in microseconds.
func quantile(times []time.Duration, q float64) float64 {
	slices.Sort(times)
	return float64(times[min(int(q*float64(len(times))), len(times)-1)].Nanoseconds()) / 1e3
}

// pings times round trips for a while.
func pings(ctx context.Context, s *rival.Subject, d time.Duration) ([]time.Duration, error) {
	c, err := open(ctx, s, 'e')
	if err != nil {
		return nil, err
	}
	defer c.Close()
	// A subject in which nothing moves any more is told, not waited for.
	_ = c.SetDeadline(time.Now().Add(d + 20*time.Second))
	buf := make([]byte, pingSize)
	if _, err := io.ReadFull(c, buf[:1]); err != nil {
		return nil, stands(err)
	}
	var times []time.Duration
	for end := time.Now().Add(d); time.Now().Before(end); {
		start := time.Now()
		if _, err := c.Write(buf); err != nil {
			return nil, stands(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return nil, stands(err)
		}
		times = append(times, time.Since(start))
	}
	return times, nil
}

func stands(err error) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return errors.New("everything stands still")
	}
	return fmt.Errorf("ping-pong: %w", err)
}

// pingRate counts the round trips of n connections at once.
func pingRate(name string, n int) Work {
	run := func(ctx context.Context, s *rival.Subject, d time.Duration) ([]float64, float64, error) {
		var count atomic.Int64
		err := together(n, func() error {
			times, err := pings(ctx, s, d)
			count.Add(int64(len(times)))
			return err
		})
		return []float64{float64(count.Load()) / d.Seconds() / 1e3}, float64(count.Load()), err
	}
	return Work{Name: name, Metrics: []Metric{{Name: "rate", Unit: "1000/s", Higher: true}}, Run: run}
}

// connections32 opens, gets one byte and closes, with 32 workers.
func connections32(name string) Work {
	run := func(ctx context.Context, s *rival.Subject, d time.Duration) ([]float64, float64, error) {
		var count atomic.Int64
		start := time.Now()
		end := start.Add(d)
		err := together(32, func() error {
			for b := make([]byte, 1); time.Now().Before(end); {
				c, err := open(ctx, s, 'e')
				if err != nil {
					return err
				}
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				_, err = io.ReadFull(c, b)
				_ = c.Close()
				if err != nil {
					return err
				}
				count.Add(1)
			}
			return nil
		})
		return []float64{float64(count.Load()) / time.Since(start).Seconds()}, float64(count.Load()), err
	}
	return Work{Name: name, Metrics: []Metric{{Name: "rate", Unit: "1/s", Higher: true}}, Run: run}
}

// together runs f n times at once and returns the errors.
func together(n int, f func() error) error {
	var tasks sync.WaitGroup
	errs := make(chan error, n)
	for range n {
		tasks.Go(func() { errs <- f() })
	}
	tasks.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err // the others say the same
		}
	}
	return nil
}
