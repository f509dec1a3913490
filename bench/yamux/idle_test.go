package main

import (
	"context"
	"crypto/tls"
	"net"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/internal/link"
)

// memory is what the process holds for goroutines and data, in bytes.
func memory() (bytes, goroutines float64) {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse), float64(runtime.NumGoroutine())
}

// connections returns both ends of n authenticated TLS connections.
func connections(b *testing.B, n int) []link.Conn {
	b.Helper()
	ln, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	address := "localhost:" + strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
	cfg := link.ServerConfig(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &certificate, nil })
	conns := make([]link.Conn, 0, 2*n)
	for range n {
		accepted := make(chan link.Conn, 1)
		go func() {
			c, err := ln.Accept()
			if err != nil {
				b.Error(err)
				accepted <- nil
				return
			}
			conn, err := link.Accept(b.Context(), c, nil, cfg, time.Minute)
			if err != nil {
				b.Error(err)
			}
			accepted <- conn
		}()
		dialer := link.Dialer{Roots: roots}
		c, err := dialer.Dial(b.Context(), address)
		if err != nil {
			b.Fatal(err)
		}
		conns = append(conns, c, <-accepted)
	}
	return conns
}

// sessions runs a link over each pair of connections, and returns when each has
// measured its round trip.
func sessions(conns []link.Conn) (links []*link.Link, end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	for i := 0; i < len(conns); i += 2 {
		for _, l := range []*link.Link{link.Client(conns[i], link.Config{}), link.Server(conns[i+1], link.Config{})} {
			links = append(links, l)
			tasks.Go(func() { _ = l.Run(ctx) })
		}
	}
	for _, l := range links {
		for l.RTT() == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	return links, func() {
		cancel()
		tasks.Wait()
	}
}

// BenchmarkIdleSessions is what 10,000 idle sessions hold beyond their TLS
// connections.
func BenchmarkIdleSessions(b *testing.B) {
	const n = 10_000 / 2 // pairs
	for b.Loop() {
		conns := connections(b, n)
		before, had := memory()
		links, end := sessions(conns)
		after, have := memory()
		b.ReportMetric((after-before)/(2*n), "bytes/session")
		b.ReportMetric((have-had)/(2*n), "goroutines/session")
		runtime.KeepAlive(links)
		end()
	}
}

// BenchmarkIdleStreams is what one of 50,000 idle streams holds, at one side.
func BenchmarkIdleStreams(b *testing.B) {
	const n, each = 10, 2500 // pairs of sessions, streams in each
	for b.Loop() {
		links, end := sessions(connections(b, n))
		streams := make([]link.Stream, 0, 2*n*each)
		before, had := memory()
		for i := 0; i < len(links); i += 2 {
			for range each {
				c, err := links[i].Open(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				if _, err := c.Write(make([]byte, 1)); err != nil {
					b.Fatal(err)
				}
				s, err := links[i+1].Accept(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				if _, err := s.Read(make([]byte, 1)); err != nil {
					b.Fatal(err)
				}
				streams = append(streams, c, s)
			}
		}
		after, have := memory()
		b.ReportMetric((after-before)/float64(len(streams)), "bytes/stream")
		b.ReportMetric((have-had)/float64(len(streams)), "goroutines/stream")
		runtime.KeepAlive(streams)
		end()
	}
}
