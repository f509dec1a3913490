// Command tunnel measures whole tunnels: a server and an agent as processes of
// their own, and between a visitor and an upstream, which are both this program, the
// same work in interleaved rounds. It compares Culvert binaries with each other and
// with frp, if frps and frpc are on PATH.
//
//	go run ./bench/tunnel                                # this tree, and frp
//	go run ./bench/tunnel -culvert old/culvert,new/culvert
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/culvert-tunnel/culvert/bench/sample"
)

func main() {
	binaries := flag.String("culvert", "", "binaries to compare, separated by commas (default: this tree's)")
	rounds := flag.Int("rounds", 5, "interleaved rounds; the median counts")
	only := flag.String("work", "", "do only work that matches this regular expression")
	seconds := flag.Duration("for", 2*time.Second, "how long each measurement takes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *binaries, *rounds, *only, *seconds); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, binaries string, rounds int, only string, d time.Duration) error {
	wanted, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "culvert-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if binaries == "" {
		binaries = filepath.Join(dir, "culvert")
		build := exec.CommandContext(ctx, "go", "build", "-o", binaries, "./cmd/culvert")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	upstream, err := serveUpstream(ctx)
	if err != nil {
		return err
	}
	subjects, err := start(ctx, dir, strings.Split(binaries, ","), upstream)
	defer func() {
		for _, s := range subjects {
			s.stop()
		}
	}()
	if err != nil {
		return err
	}

	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "work\tunit")
	for _, s := range subjects {
		fmt.Fprintf(table, "\t%s", s.name)
	}
	for _, s := range subjects[1:] {
		fmt.Fprintf(table, "\t%s / %s", subjects[0].name, s.name)
	}
	fmt.Fprintln(table, "\t")
	for _, w := range works {
		if !wanted.MatchString(w.name) {
			continue
		}
		if err := measure(ctx, table, w, subjects, rounds, d); err != nil {
			return err
		}
	}
	return table.Flush()
}

// measure does one work with every subject in turn, round after round, and prints
// medians with least and greatest, and the ratios of medians.
func measure(ctx context.Context, table *tabwriter.Writer, w work, subjects []*subject, rounds int, d time.Duration) error {
	values := make([][]float64, len(subjects))
	cpu := make([][]float64, len(subjects))
	for round := range rounds {
		order := make([]int, len(subjects))
		for i := range order {
			order[i] = i
		}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, i := range order {
			before := subjects[i].cpu()
			v, amount, err := w.run(ctx, subjects[i].address, d)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", w.name, subjects[i].name, err)
			}
			values[i] = append(values[i], v)
			if w.per > 0 {
				cpu[i] = append(cpu[i], (subjects[i].cpu()-before).Seconds()/(amount/w.per)*w.cpuScale)
			}
		}
	}
	line(table, w.name, w.unit, values)
	if w.per > 0 {
		line(table, "  …", w.cpuUnit, cpu)
	}
	return errors.Join(ctx.Err())
}

func line(table *tabwriter.Writer, name, unit string, values [][]float64) {
	fmt.Fprintf(table, "%s\t%s", name, unit)
	for _, v := range values {
		fmt.Fprintf(table, "\t%s", sample.Spread(v))
	}
	for _, v := range values[1:] {
		fmt.Fprintf(table, "\t%.2f", sample.Median(values[0])/sample.Median(v))
	}
	fmt.Fprintln(table, "\t")
}
