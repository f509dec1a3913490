// Package connect measures how long an agent takes to be of use. Nothing in it is a test.
package connect

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
)

// BenchmarkConnect takes an agent from nothing to the first byte of a visitor's
// answer and away again: connect, bind, first byte through, disconnect. The times
// reported end with the first byte.
func BenchmarkConnect(b *testing.B) {
	log := slog.New(slog.DiscardHandler)
	ready := make(chan server.Ready, 1)
	s, err := server.New(server.Config{
		HTTP: "127.0.0.1:0", HTTPS: "127.0.0.1:0", TCPHost: "127.0.0.1", TCPPorts: registry.PortRange{First: 28000, Last: 28999},
		DataDir: b.TempDir(), Drain: time.Second, Logger: log, Ready: func(r server.Ready) { ready <- r },
	})
	must(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Run(ctx) }()
	r := <-ready
	defer func() {
		cancel()
		<-served
	}()

	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("!"))
			_ = c.Close()
		}
	}()
	up, err := agent.ParseUpstream(l.Addr().String(), agent.UpstreamTLS{})
	must(b, err)

	var times []time.Duration
	for i := 0; b.Loop(); i++ {
		online := make(chan string, 1)
		a := agent.New(agent.Config{
			Servers: []string{r.HTTPS.String()}, Token: *r.Token, ID: fmt.Sprint("bench-", i), Generation: 1, Drain: time.Second, Logger: log,
			Endpoints: []agent.Endpoint{{Spec: endpoint.Spec{Kind: endpoint.TCP, Name: "bench"}, Upstream: up}},
			Online:    func(_ string, urls []string) { online <- urls[0] },
		})
		actx, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		began := time.Now()
		go func() { ended <- a.Run(actx) }()
		_, port, _ := strings.Cut(strings.TrimPrefix(<-online, "tcp://"), ":")
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		must(b, err)
		_, err = io.ReadFull(c, make([]byte, 1))
		must(b, err)
		times = append(times, time.Since(began))
		_ = c.Close()
		stop()
		must(b, <-ended)
	}
	var sum time.Duration
	for _, t := range times {
		sum += t
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(ms(sum)/float64(len(times)), "mean-ms")
	b.ReportMetric(ms(slices.Min(times)), "min-ms")
	b.ReportMetric(ms(slices.Max(times)), "max-ms")
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
