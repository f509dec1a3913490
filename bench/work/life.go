package work

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/culvert-tunnel/culvert/bench/rival"
)

// recovery bounds how long a subject may take to serve again.
const recovery = 30 * time.Second

// agentStart times an agent from its start to the first byte of a visitor's answer.
func agentStart() Work {
	run := func(ctx context.Context, s *rival.Subject, _ time.Duration) ([]float64, float64, error) {
		if _, err := s.Address(rival.Echo); err != nil {
			return nil, 0, err
		}
		s.StopAgent()
		start := time.Now()
		if err := s.StartAgent(ctx); err != nil {
			return nil, 0, err
		}
		_, err := s.AwaitFirstByte(ctx, rival.Echo, recovery)
		return []float64{time.Since(start).Seconds() * 1e3}, 1, err
	}
	return Work{Name: "agent's start to first byte", Metrics: []Metric{{Name: "time", Unit: "ms"}}, Run: run}
}

// serverKilled times a server's kill -9 and immediate start to the first byte of a
// visitor's answer.
func serverKilled() Work {
	run := func(ctx context.Context, s *rival.Subject, _ time.Duration) ([]float64, float64, error) {
		if _, err := s.Address(rival.Echo); err != nil {
			return nil, 0, err
		}
		start := time.Now()
		s.StopServer()
		if err := s.StartServer(ctx); err != nil {
			return nil, 0, err
		}
		_, err := s.AwaitFirstByte(ctx, rival.Echo, recovery)
		return []float64{time.Since(start).Seconds() * 1e3}, 1, err
	}
	return Work{Name: "server's kill -9 and start to first byte", Metrics: []Metric{{Name: "time", Unit: "ms"}}, Run: run}
}

// calm is how long a subject is left alone before its memory is looked at.
const calm = 2 * time.Second

// idleConnections tells what a visitor who is connected and silent costs.
func idleConnections(n int) Work {
	run := func(ctx context.Context, s *rival.Subject, _ time.Duration) ([]float64, float64, error) {
		time.Sleep(calm)
		server, agent := s.ServerMemory().Own, s.AgentMemory().Own
		conns := make([]net.Conn, 0, n)
		defer func() {
			for _, c := range conns {
				_ = c.Close()
			}
		}()
		for range n {
			c, err := open(ctx, s, 'e')
			if err != nil {
				return nil, 0, fmt.Errorf("connection %d: %w", len(conns)+1, err)
			}
			conns = append(conns, c)
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				return nil, 0, fmt.Errorf("connection %d: %w", len(conns), err)
			}
		}
		time.Sleep(calm)
		per := func(after, before int64) float64 { return float64(after-before) / 1024 / float64(n) }
		return []float64{per(s.ServerMemory().Own, server), per(s.AgentMemory().Own, agent)}, float64(n), nil
	}
	return Work{
		Name: fmt.Sprintf("an idle visitor of %d", n), Fresh: true, Once: true, Run: run,
		Metrics: []Metric{{Name: "at the server", Unit: "KiB"}, {Name: "at the agent", Unit: "KiB"}},
	}
}

// idleAgents tells what an agent that is connected and silent costs the server. Each is
// a process of its own.
func idleAgents(n int) Work {
	run := func(ctx context.Context, s *rival.Subject, _ time.Duration) ([]float64, float64, error) {
		if s.Another == nil {
			return nil, 0, rival.ErrNotOffered
		}
		time.Sleep(calm)
		alone := s.ServerMemory()
		defer s.StopAgents()
		if err := s.StartAgents(ctx, n); err != nil {
			return nil, 0, err
		}
		time.Sleep(calm)
		return []float64{float64(alone.All) / (1 << 20), float64(s.ServerMemory().Own-alone.Own) / 1024 / float64(n)}, float64(n), nil
	}
	return Work{
		Name: fmt.Sprintf("an idle agent of %d, at the server", n), Fresh: true, Once: true, Run: run,
		Metrics: []Metric{{Name: "server with one agent", Unit: "MiB"}, {Name: "each more", Unit: "KiB"}},
	}
}
