// Package work is what benchmarks do with a tunnel: the load, by established programs
// where they exist, and the services behind it.
package work

import (
	"context"
	"os/exec"
	"time"

	"github.com/culvert-tunnel/culvert/bench/rival"
)

// Metric is one figure of a work.
type Metric struct {
	Name   string
	Unit   string
	Higher bool // is better
}

// Work is one kind of load.
type Work struct {
	Name    string
	Metrics []Metric
	Quick   bool     // part of the short run
	Once    bool     // is long: one round is enough
	Needs   []string // programs on PATH
	// Fresh has the subject's processes started anew before every measurement.
	Fresh bool
	// Limits are subjects without processes of their own; false where only those tell.
	Limits bool
	// PerCPU is the amount that processor time is told for, with the unit it makes;
	// 0: it is not told.
	PerCPU  float64
	CPUUnit string
	CPU     float64 // seconds in that unit
	// Run does the work for about d and returns a value for each metric, and the amount
	// that was done.
	Run func(ctx context.Context, s *rival.Subject, d time.Duration) (values []float64, amount float64, err error)
}

const gib = 1 << 30

// All lists the work. agents is how many idle agents are measured, connections how many
// idle visitors.
func All(agents, connections int) []Work {
	perGiB := func(w Work) Work {
		w.PerCPU, w.CPUUnit, w.CPU, w.Limits = gib, "CPU s/GiB", 1, true
		return w
	}
	perOne := func(w Work) Work {
		w.PerCPU, w.CPUUnit, w.CPU, w.Limits = 1, "CPU µs each", 1e6, true
		return w
	}
	all := []Work{
		perGiB(bulk("bulk, 1 connection, down", 1, true)),
		perGiB(bulk("bulk, 1 connection, up", 1, false)),
		perGiB(bulk("bulk, 64 connections, down", 64, true)),
		perGiB(bulk("bulk, 64 connections, up", 64, false)),
		perOne(pingPong("ping-pong 64 B, 1 connection", load{})),
		perOne(pingRate("ping-pong 64 B, 64 connections", 64)),
		perOne(connections32("open + 1 byte + close, 32 workers")),
		perOne(requests("HTTP 1 KiB, 64 kept connections", "/1k", 64, false)),
		perOne(beside(90, requests("HTTP 1 KiB, 64 kept connections", "/1k", 64, false))),
		perOne(requests("HTTP 1 KiB, a connection each, 64 at once", "/1k", 64, true)),
		perOne(streams("HTTP/2 over TLS, 1 KiB, 4 connections of 16 streams", "/1k", 4, 16)),
		perOne(requests("HTTP 64 KiB, 64 kept connections", "/64k", 64, false)),
		perOne(requests("HTTP 10 MiB, 8 kept connections", "/10m", 8, false)),
		pingPong("ping-pong beside 1 bulk down", load{reading: 1}),
		pingPong("ping-pong beside 8 bulk down", load{reading: 8}),
		pingPong("ping-pong beside 1 visitor that stopped reading", load{stopped: 1}),
		pingPong("ping-pong beside 16 visitors that stopped reading", load{stopped: 16}),
		agentStart(),
		serverKilled(),
		idleConnections(connections),
		idleAgents(agents),
	}
	for i := range all {
		switch all[i].Name {
		case "bulk, 1 connection, down", "ping-pong 64 B, 1 connection", "open + 1 byte + close, 32 workers",
			"HTTP 1 KiB, 64 kept connections", "ping-pong beside 1 bulk down":
			all[i].Quick = true
		}
	}
	return all
}

// output runs a program at the visitors' host and returns what it printed.
func output(ctx context.Context, s *rival.Subject, name string, args ...string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", err
	}
	return rival.Command{Path: path, Args: args}.Output(ctx, s.Visitor())
}
