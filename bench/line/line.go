// Package line emulates a slow network path for benchmarks: two network namespaces
// of its own, joined by a pair of TUN devices between which every packet takes its
// time. TCP runs end to end, so what is measured is what a real path would do.
package line

import (
	"context"
	"net"
	"time"
)

// Config of a line, the same in both directions.
type Config struct {
	Rate  int64         // bits per second; 0: unlimited
	Delay time.Duration // one way
	Loss  float64       // share of packets that are lost
	Queue int           // bytes that wait for their turn before packets are dropped; default one Rate × 2 Delay, at least 64 KiB
	MTU   int           // default 1500
}

func (c Config) withDefaults() Config {
	if c.MTU <= 0 {
		c.MTU = 1500
	}
	if c.Queue <= 0 {
		c.Queue = max(int(float64(c.Rate)/8*2*c.Delay.Seconds()), 64<<10)
	}
	return c
}

// Pair returns both ends of a TCP connection over the line.
func (l *Line) Pair(ctx context.Context) (client, server net.Conn, err error) {
	ln, err := l.Far().Listen(ctx, l.Far().IP()+":0")
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	type accepted struct {
		conn net.Conn
		err  error
	}
	done := make(chan accepted, 1)
	go func() {
		c, err := ln.Accept()
		done <- accepted{c, err}
	}()
	client, err = l.Near().Dial(ctx, ln.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	a := <-done
	return client, a.conn, a.err
}
