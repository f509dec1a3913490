// Command bench measures Culvert side by side with what it is compared with: every rival
// it finds on PATH, and as limits no proxy at all, two HAProxy and two nginx in a row.
// Servers and agents are processes of their own, all do the same work in interleaved
// rounds, and what counts is the ratio of medians within a run.
//
//	go run ./bench                          # everything that is here
//	go run ./bench --quick                  # the most telling work, in minutes
//	go run ./bench --compare old,new        # two binaries of Culvert
//	go run ./bench --delay 25ms --loss 0.01 # over a slow line (root, Linux)
//	go run ./bench --inspector --rivals none # what the inspector costs
//	go run ./bench --transports --rivals '^$' --delay 25ms --loss 0.01 # QUIC and several links
//	go run ./bench --growth                 # what more visitors, agents and names cost
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/culvert-tunnel/culvert/bench/line"
	"github.com/culvert-tunnel/culvert/bench/report"
	"github.com/culvert-tunnel/culvert/bench/rival"
	"github.com/culvert-tunnel/culvert/bench/work"
)

// options are what the command line says.
type options struct {
	quick, growth         bool
	hurry                 bool // as many rounds as --quick has the time for
	inspector, transports bool
	compare               string
	works, rivals         *regexp.Regexp
	rounds                int
	each                  time.Duration
	delay                 time.Duration
	loss                  float64
	rate                  int64
	agents, connections   int
	markdown, json, svg   string
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "hold" {
		exit(work.Hold(os.Args[2:]))
	}
	o, err := parse(os.Args[1:])
	if err != nil {
		exit(err)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(run(ctx, o))
}

func exit(err error) {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.BoolVar(&o.quick, "quick", false, "only the most telling work, and rivals only as they come, in under 3 minutes")
	f.BoolVar(&o.growth, "growth", false, "what visitors, agents and names cost as they become more, instead of the comparison")
	f.BoolVar(&o.inspector, "inspector", false, "beside Culvert as it comes, Culvert whose agent does not inspect")
	f.BoolVar(&o.transports, "transports", false, "beside Culvert as it comes, Culvert by QUIC, and with four links")
	f.StringVar(&o.compare, "compare", "", "binaries of Culvert to compare with each other, separated by commas, instead of rivals")
	works := f.String("work", "", "only work whose name matches this regular expression")
	rivals := f.String("rivals", "", "only rivals and limits whose name matches this regular expression")
	f.IntVar(&o.rounds, "rounds", 5, "interleaved rounds; the median counts")
	f.DurationVar(&o.each, "for", 2*time.Second, "how long each measurement takes")
	f.DurationVar(&o.delay, "delay", 0, "one way between server and agent; root")
	f.Float64Var(&o.loss, "loss", 0, "share of packets lost between server and agent; root")
	f.Int64Var(&o.rate, "rate", 0, "bits per second between server and agent, 0: unlimited; root")
	f.IntVar(&o.agents, "agents", 200, "idle agents whose memory is measured, each a process")
	f.IntVar(&o.connections, "connections", 2000, "idle visitors whose memory is measured")
	f.StringVar(&o.markdown, "markdown", "", "write the result to this file as Markdown")
	f.StringVar(&o.json, "json", "", "write all values to this file as JSON")
	f.StringVar(&o.svg, "svg", "", "draw a chart for each figure in this folder")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("%q is no flag; see --help", f.Arg(0))
	}
	if o.quick {
		set := make(map[string]bool)
		f.Visit(func(f *flag.Flag) { set[f.Name] = true })
		o.hurry = !set["rounds"]
		if !set["for"] {
			o.each = time.Second
		}
	}
	if o.rounds < 1 || o.each < 100*time.Millisecond || o.loss < 0 || o.loss >= 1 || o.delay < 0 || o.rate < 0 ||
		o.agents < 1 || o.agents > rival.MaxAgents || o.connections < 1 {
		return o, errors.New("a flag's value makes no sense; see --help")
	}
	var err error
	if o.works, err = regexp.Compile(*works); err != nil {
		return o, err
	}
	o.rivals, err = regexp.Compile(*rivals)
	return o, err
}

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "culvert-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	server, agent, path := line.Loopback, line.Loopback, "Server and agent on one machine"
	if o.delay > 0 || o.loss > 0 || o.rate > 0 {
		l, err := line.New(line.Config{Rate: o.rate, Delay: o.delay, Loss: o.loss})
		if err != nil {
			return err
		}
		defer l.Close()
		server, agent = l.Far(), l.Near()
		path = fmt.Sprintf("Between server and agent %s there and back, %g %% loss", 2*o.delay, 100*o.loss)
		if o.rate > 0 {
			path += fmt.Sprintf(", %g Mbit/s", float64(o.rate)/1e6)
		}
	}
	services, stop, err := work.Serve(ctx, agent)
	defer stop()
	if err != nil {
		return err
	}
	b := &bench{options: o, dir: dir, site: rival.Site{Server: server, Agent: agent, Services: services}}
	defer b.stop()
	b.report = report.Report{
		When: time.Now().Format(time.DateOnly), Machine: machine(), Rounds: o.rounds, Path: path,
		Command: strings.Join(append([]string{"go run ./bench"}, os.Args[1:]...), " "),
	}
	if o.growth {
		err = b.grow(ctx)
	} else {
		err = b.compareAll(ctx)
	}
	if len(b.report.Rows) == 0 {
		return err
	}
	return errors.Join(err, b.write())
}

// binary builds this tree's Culvert.
func (b *bench) binary(ctx context.Context) (string, error) {
	path := filepath.Join(b.dir, "culvert")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, "./cmd/culvert")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build Culvert: %w: %s", err, out)
	}
	return path, nil
}

// write puts the report where it was asked for, and always on the terminal.
func (b *bench) write() error {
	r := &b.report
	if err := r.Text(os.Stdout); err != nil {
		return err
	}
	to := func(path string, f func(io.Writer) error) error {
		file, err := os.Create(path)
		if err != nil {
			return err
		}
		return errors.Join(f(file), file.Close())
	}
	var errs []error
	if b.markdown != "" {
		errs = append(errs, to(b.markdown, r.Markdown))
	}
	if b.json != "" {
		errs = append(errs, to(b.json, func(w io.Writer) error {
			e := json.NewEncoder(w)
			e.SetIndent("", "  ")
			return e.Encode(r)
		}))
	}
	if b.svg != "" {
		errs = append(errs, os.MkdirAll(b.svg, 0o755)) //nolint:gosec // pictures for everyone
		for _, row := range r.Rows {
			errs = append(errs, to(filepath.Join(b.svg, slug(row.Work+" "+row.Metric)+".svg"), func(w io.Writer) error { return r.SVG(w, row) }))
		}
	}
	return errors.Join(errs...)
}

var notWord = regexp.MustCompile(`[^a-z0-9]+`)

func slug(s string) string {
	return strings.Trim(notWord.ReplaceAllString(strings.ToLower(s), "-"), "-")
}
