package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"strconv"
	"time"

	"github.com/culvert-tunnel/culvert/bench/report"
	"github.com/culvert-tunnel/culvert/bench/rival"
	"github.com/culvert-tunnel/culvert/bench/work"
)

// growth lists what becomes more, and how many.
var growth = []struct {
	kind   string
	counts []int
}{
	{work.Visitors, []int{1, 10, 100, 1000, 10_000}},
	{work.Agents, []int{1, 10, 100, 1000, 2000}},
	{work.Names, []int{1, 10, 100, 500, 1000}}, // an agent may have no more
}

// idleFor is how long a subject with all held is looked at for its processor time.
const idleFor = 10 * time.Second

// grow tells what each visitor, agent and name costs as they become more.
func (b *bench) grow(ctx context.Context) error {
	binary, err := b.binary(ctx)
	if err != nil {
		return err
	}
	r := rival.Culvert("culvert", binary)
	s, err := r.Start(ctx, b.dir, b.site)
	if err != nil {
		return err
	}
	b.subjects = append(b.subjects, s)
	b.report.Subjects = append(b.report.Subjects, report.Subject{Name: r.Name, Version: version(ctx, r), Settings: r.Settings})
	b.report.Rounds = 1
	for _, g := range growth {
		if !b.works.MatchString(g.kind) {
			continue
		}
		rows := []report.Row{
			{Metric: "each at the server", Unit: "KiB"},
			{Metric: "each at the agent", Unit: "KiB"},
			{Metric: "server, idle", Unit: "CPU µs/s each"},
			{Metric: "ping-pong beside them, p50", Unit: "µs"},
			{Metric: "ping-pong beside them, p99", Unit: "µs"},
		}
		for i := range rows {
			rows[i].Work = g.kind
			for _, n := range g.counts {
				rows[i].Steps = append(rows[i].Steps, strconv.Itoa(n))
			}
		}
		for _, n := range g.counts {
			values, err := b.held(ctx, s, g.kind, n)
			if err != nil {
				return fmt.Errorf("%d %s: %w", n, g.kind, err)
			}
			for i, v := range values {
				var samples []float64
				if !math.IsNaN(v) {
					samples = []float64{v}
				}
				rows[i].Values = append(rows[i].Values, samples)
				rows[i].Notes = append(rows[i].Notes, "–")
			}
			fmt.Fprintf(os.Stderr, "%s %d %s\n", time.Now().Format(time.TimeOnly), n, g.kind)
		}
		b.report.Rows = append(b.report.Rows, rows...)
	}
	return nil
}

// held measures the subject with n of a kind.
func (b *bench) held(ctx context.Context, s *rival.Subject, kind string, n int) ([]float64, error) {
	if err := s.Renew(ctx); err != nil {
		return nil, err
	}
	time.Sleep(2 * time.Second)
	server, agent := s.ServerMemory().Own, s.AgentMemory().Own
	c, err := work.Holding(s, kind, n)
	if err != nil {
		return nil, err
	}
	p, err := c.Start(ctx, b.site.Server)
	if err != nil {
		return nil, err
	}
	defer p.Stop()
	if _, err := p.Find(ctx, work.Held, 2*time.Minute); err != nil {
		return nil, err
	}
	time.Sleep(2 * time.Second)
	each := func(after, before int64) float64 { return float64(after-before) / 1024 / float64(n) }
	atServer, atAgent := each(s.ServerMemory().Own, server), each(s.AgentMemory().Own, agent)
	if kind != work.Visitors {
		atAgent = math.NaN() // the agents are not the subject's
	}
	before := s.ServerCPU()
	time.Sleep(idleFor)
	cpu := (s.ServerCPU() - before).Seconds() * 1e6 / idleFor.Seconds() / float64(n)
	p50, p99, err := work.Pings(ctx, s, b.each)
	return []float64{atServer, atAgent, cpu, p50, p99}, err
}
