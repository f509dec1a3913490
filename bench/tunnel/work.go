package main

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// work is one kind of load.
type work struct {
	name, unit string
	run        func(ctx context.Context, address string, d time.Duration) (value, amount float64, err error)

	per      float64 // of the amount; 0: processor time isn't counted
	cpuScale float64
	cpuUnit  string
}

const gib = 1 << 30

var works = []work{
	{"bulk, 1 connection, down", "GB/s", bulk(1, 'd'), gib, 1, "CPU s/GiB"},
	{"bulk, 1 connection, up", "GB/s", bulk(1, 'u'), gib, 1, "CPU s/GiB"},
	{"bulk, 64 connections, down", "GB/s", bulk(64, 'd'), gib, 1, "CPU s/GiB"},
	{"bulk, 64 connections, up", "GB/s", bulk(64, 'u'), gib, 1, "CPU s/GiB"},
	{"ping-pong 64 B, 1 connection, p50", "µs", pingPong(0, 0.5), 1, 1e6, "CPU µs"},
	{"ping-pong 64 B, 64 connections", "1000/s", pingRate(64), 1, 1e6, "CPU µs"},
	{"open + 1 byte + close, 32 workers", "1/s", connections, 1, 1e6, "CPU µs"},
	{"ping-pong beside 1 bulk down, p50", "µs", pingPong(1, 0.5), 0, 0, ""},
	{"ping-pong beside 1 bulk down, p99", "µs", pingPong(1, 0.99), 0, 0, ""},
	{"ping-pong beside 8 bulk down, p99", "µs", pingPong(8, 0.99), 0, 0, ""},
}

// serveUpstream serves the service behind the tunnels. The first byte of a visitor
// says what is wanted: 'd' sends for ever, 'u' takes for ever, 'e' gives back.
func serveUpstream(ctx context.Context) (string, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go serveOne(c)
		}
	}()
	return ln.Addr().String(), nil
}

// uploaded counts what came in at the upstream.
var uploaded atomic.Int64

func serveOne(c net.Conn) {
	defer c.Close()
	mode := make([]byte, 1)
	if _, err := io.ReadFull(c, mode); err != nil {
		return
	}
	switch mode[0] {
	case 'd':
		buf := make([]byte, 64<<10)
		for {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	case 'u':
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Read(buf)
			uploaded.Add(int64(n))
			if err != nil {
				return
			}
		}
	default:
		_, _ = c.Write(mode)
		buf := make([]byte, 64)
		for {
			if _, err := io.ReadFull(c, buf); err != nil {
				return
			}
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}
}

func dial(ctx context.Context, address string, mode byte) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	_, err = c.Write([]byte{mode})
	return c, err
}

// load moves bytes over n connections until the returned function is called.
func load(ctx context.Context, address string, n int, mode byte, moved *atomic.Int64) (stop func(), err error) {
	var conns []net.Conn
	var tasks sync.WaitGroup
	stop = func() {
		for _, c := range conns {
			_ = c.Close()
		}
		tasks.Wait()
	}
	for range n {
		c, err := dial(ctx, address, mode)
		if err != nil {
			stop()
			return nil, err
		}
		conns = append(conns, c)
		tasks.Go(func() {
			buf := make([]byte, 64<<10)
			for {
				var err error
				if mode == 'd' {
					var n int
					n, err = c.Read(buf)
					moved.Add(int64(n))
				} else {
					_, err = c.Write(buf)
				}
				if err != nil {
					return
				}
			}
		})
	}
	return stop, nil
}

func bulk(n int, mode byte) func(context.Context, string, time.Duration) (float64, float64, error) {
	return func(ctx context.Context, address string, d time.Duration) (float64, float64, error) {
		var down atomic.Int64
		moved := &down
		if mode == 'u' {
			moved = &uploaded
		}
		first := moved.Load()
		stop, err := load(ctx, address, n, mode, &down)
		if err != nil {
			return 0, 0, err
		}
		time.Sleep(d / 5)
		start, from := time.Now(), moved.Load()
		time.Sleep(d)
		value := float64(moved.Load()-from) / time.Since(start).Seconds() / 1e9
		stop()
		return value, float64(moved.Load() - first), nil
	}
}

// pings times round trips of 64 bytes for a while.
func pings(ctx context.Context, address string, d time.Duration) ([]time.Duration, error) {
	c, err := dial(ctx, address, 'e')
	if err != nil {
		return nil, err
	}
	defer c.Close()
	buf := make([]byte, 64)
	if _, err := io.ReadFull(c, buf[:1]); err != nil {
		return nil, err
	}
	var times []time.Duration
	for end := time.Now().Add(d); time.Now().Before(end); {
		start := time.Now()
		if _, err := c.Write(buf); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return nil, err
		}
		times = append(times, time.Since(start))
	}
	return times, nil
}

// pingPong is the quantile of a ping's time, beside so many bulk downloads.
func pingPong(beside int, q float64) func(context.Context, string, time.Duration) (float64, float64, error) {
	return func(ctx context.Context, address string, d time.Duration) (float64, float64, error) {
		var moved atomic.Int64
		stop, err := load(ctx, address, beside, 'd', &moved)
		if err != nil {
			return 0, 0, err
		}
		defer stop()
		if beside > 0 {
			time.Sleep(d / 5)
		}
		times, err := pings(ctx, address, d)
		if err != nil {
			return 0, 0, err
		}
		slices.Sort(times)
		at := times[min(int(q*float64(len(times))), len(times)-1)]
		return float64(at.Nanoseconds()) / 1e3, float64(len(times)), nil
	}
}

func pingRate(n int) func(context.Context, string, time.Duration) (float64, float64, error) {
	return func(ctx context.Context, address string, d time.Duration) (float64, float64, error) {
		var tasks sync.WaitGroup
		var count atomic.Int64
		errs := make(chan error, n)
		for range n {
			tasks.Go(func() {
				times, err := pings(ctx, address, d)
				count.Add(int64(len(times)))
				errs <- err
			})
		}
		tasks.Wait()
		close(errs)
		var all error
		for err := range errs {
			all = errors.Join(all, err)
		}
		return float64(count.Load()) / d.Seconds() / 1e3, float64(count.Load()), all
	}
}

// connections opens, gets one byte, and closes, with 32 workers.
func connections(ctx context.Context, address string, d time.Duration) (float64, float64, error) {
	var tasks sync.WaitGroup
	var count atomic.Int64
	errs := make(chan error, 32)
	end := time.Now().Add(d)
	for range 32 {
		tasks.Go(func() {
			b := make([]byte, 1)
			for time.Now().Before(end) {
				c, err := dial(ctx, address, 'e')
				if err == nil {
					_, err = io.ReadFull(c, b)
				}
				if err != nil {
					errs <- err
					return
				}
				_ = c.Close()
				count.Add(1)
			}
		})
	}
	tasks.Wait()
	close(errs)
	return float64(count.Load()) / d.Seconds(), float64(count.Load()), <-errs
}
