// Command yamux measures package yamux against the other implementations and
// against the bare connection, in interleaved rounds of one run, and holds the
// ratios of the medians against the targets of docs/yamux.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/culvert-tunnel/culvert/bench/sample"
)

func main() {
	rounds := flag.Int("rounds", 5, "interleaved rounds; the median counts")
	only := flag.String("rows", "", "measure only rows that match this regular expression")
	against := flag.String("against", "", "measure only implementations that match, besides ours")
	profile := flag.String("cpuprofile", "", "write a CPU profile to this file")
	flag.Parse()
	if *profile != "" {
		f, err := os.Create(*profile)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		defer pprof.StopCPUProfile()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *rounds, *only, *against); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, rounds int, only, against string) error {
	wanted, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	rivals, err := regexp.Compile(against)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "work\tunit\tours\thashicorp\tgo-yamux\tbare\tours/hashicorp\tours/go-yamux\tours/bare\t")
	var short []string
	for _, r := range rows() {
		if !wanted.MatchString(r.name) || ctx.Err() != nil {
			continue
		}
		values := measure(ctx, r, rounds, rivals)
		fmt.Fprintf(table, "%s\t%s", r.name, r.unit)
		for _, name := range []string{"ours", "hashicorp", "go-yamux", "bare"} {
			fmt.Fprintf(table, "\t%s", sample.Spread(values[name]))
		}
		for _, rival := range []string{"hashicorp", "go-yamux", "bare"} {
			want, has := r.targets[rival]
			if len(values["ours"]) == 0 || len(values[rival]) == 0 {
				fmt.Fprint(table, "\t-")
				continue
			}
			ratio := sample.Median(values["ours"]) / sample.Median(values[rival])
			fmt.Fprintf(table, "\t%.2f", ratio)
			if !has {
				continue
			}
			sign, met := "≥", ratio >= want
			if r.less {
				sign, met = "≤", ratio <= want
			}
			fmt.Fprintf(table, " (%s %.3g)", sign, want)
			if !met {
				fmt.Fprint(table, " SHORT")
				short = append(short, fmt.Sprintf("%s against %s: %.2f, wanted %s %.3g", r.name, rival, ratio, sign, want))
			}
		}
		fmt.Fprintln(table, "\t")
		fmt.Fprintf(os.Stderr, "done: %s\n", r.name)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(short) == 0 {
		fmt.Println("\nAll rows reach their targets.")
		return nil
	}
	fmt.Printf("\nRows that fall short:\n  %s\n", strings.Join(short, "\n  "))
	return nil
}

// measure runs a row with every implementation in turn, round after round.
func measure(ctx context.Context, r row, rounds int, rivals *regexp.Regexp) map[string][]float64 {
	values := make(map[string][]float64)
	for round := range rounds {
		order := slices.Clone(implementations)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, impl := range order {
			if impl.name != "ours" && !rivals.MatchString(impl.name) {
				continue
			}
			debug.FreeOSMemory()
			v, err := r.run(ctx, impl)
			if err != nil {
				if !strings.Contains(err.Error(), errNone.Error()) {
					fmt.Fprintf(os.Stderr, "%s, %s: %v\n", r.name, impl.name, err)
				}
				continue
			}
			values[impl.name] = append(values[impl.name], v)
		}
	}
	return values
}
