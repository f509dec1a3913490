package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/culvert-tunnel/culvert/bench/report"
	"github.com/culvert-tunnel/culvert/bench/rival"
	"github.com/culvert-tunnel/culvert/bench/work"
)

// bench is one run.
type bench struct {
	options
	dir      string
	site     rival.Site
	subjects []*rival.Subject
	report   report.Report
}

func (b *bench) stop() {
	for _, s := range b.subjects {
		s.Stop()
	}
}

// compareAll starts all subjects and does all work with them.
func (b *bench) compareAll(ctx context.Context) error {
	candidates, err := b.candidates(ctx)
	if err != nil {
		return err
	}
	for _, r := range candidates {
		s, err := r.Start(ctx, b.dir, b.site)
		switch {
		case err != nil && (len(b.subjects) == 0 || b.compare != ""):
			return fmt.Errorf("start %s: %w", r.Name, err)
		case err != nil:
			b.report.Missing = append(b.report.Missing, fmt.Sprintf("%s: %v", r.Name, err))
			continue
		}
		b.subjects = append(b.subjects, s)
		b.report.Subjects = append(b.report.Subjects, report.Subject{Name: r.Name, Version: version(ctx, r), Settings: r.Settings, Limit: r.Limit})
	}
	works := slices.DeleteFunc(work.All(b.agents, b.connections), func(w work.Work) bool {
		return (b.quick && !w.Quick) || !b.works.MatchString(w.Name)
	})
	if b.hurry {
		b.rounds = affordable(b.each * time.Duration(len(works)*len(b.subjects)))
		b.report.Rounds = b.rounds
	}
	for _, w := range works {
		if i := slices.IndexFunc(w.Needs, func(name string) bool { _, err := exec.LookPath(name); return err != nil }); i >= 0 {
			b.report.Missing = append(b.report.Missing, fmt.Sprintf("%s, for the work %q", w.Needs[i], w.Name))
			continue
		}
		if err := b.measure(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// affordable is how many rounds of such a length --quick has the time for.
func affordable(round time.Duration) int {
	const all, most = 140 * time.Second, 3
	return max(1, min(most, int(all/max(round, 1))))
}

// candidates lists what is to be compared, Culvert first.
func (b *bench) candidates(ctx context.Context) ([]rival.Rival, error) {
	if b.compare != "" {
		var all []rival.Rival
		for i, path := range strings.Split(b.compare, ",") {
			path, err := filepath.Abs(path)
			if err != nil {
				return nil, err
			}
			name := filepath.Base(path)
			if slices.ContainsFunc(all, func(r rival.Rival) bool { return r.Name == name }) {
				name = fmt.Sprintf("%s (%d)", name, i+1)
			}
			all = append(all, rival.Culvert(name, path))
		}
		return all, nil
	}
	binary, err := b.binary(ctx)
	if err != nil {
		return nil, err
	}
	all := []rival.Rival{rival.Culvert("culvert", binary)}
	if b.transports {
		all = append(all, rival.Culvert("quic", binary, "--transport", "quic"), rival.Culvert("4 links", binary, "--links", "4"))
	}
	if b.inspector {
		all = append(all, rival.Culvert("no inspector", binary, "--no-inspect"))
	}
	asTheyCome := b.quick && b.rivals.String() == ""
	for _, r := range rival.All() {
		if b.rivals.MatchString(r.Name) && (!r.Variant || !asTheyCome) {
			all = append(all, r)
		}
	}
	return all, nil
}

// measure does one work with every subject in turn, round after round.
func (b *bench) measure(ctx context.Context, w work.Work) error {
	metrics := w.Metrics
	if w.PerCPU > 0 {
		metrics = append(slices.Clone(metrics), work.Metric{Name: "server and agent", Unit: w.CPUUnit})
	}
	rows := make([]report.Row, len(metrics))
	for i, m := range metrics {
		rows[i] = report.Row{
			Work: w.Name, Metric: m.Name, Unit: m.Unit, Higher: m.Higher,
			Values: make([][]float64, len(b.subjects)), Notes: make([]string, len(b.subjects)),
		}
	}
	rounds := b.rounds
	if w.Once {
		rounds = 1
	}
	out := make([]bool, len(b.subjects)) // of the work
	for round := range rounds {
		order := make([]int, len(b.subjects))
		for i := range order {
			order[i] = i
		}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, i := range order {
			if out[i] {
				continue
			}
			values, err := b.once(ctx, b.subjects[i], w)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				out[i] = true
				for k := range rows {
					rows[k].Values[i], rows[k].Notes[i] = nil, note(err)
				}
				if !errors.Is(err, rival.ErrNotOffered) {
					fmt.Fprintf(os.Stderr, "%s: %s: %v\n", b.subjects[i].Name, w.Name, err)
				}
				continue
			}
			for k := range rows {
				if k < len(values) {
					rows[k].Values[i] = append(rows[k].Values[i], values[k])
				} else {
					rows[k].Notes[i] = "–"
				}
			}
		}
	}
	b.report.Rows = append(b.report.Rows, rows...)
	fmt.Fprintf(os.Stderr, "%s %s\n", time.Now().Format(time.TimeOnly), w.Name)
	return nil
}

var errNothing = errors.New("nothing of it was done in that time")

// once does a work once. A subject that failed it is started anew, so that the next work
// finds it whole.
func (b *bench) once(ctx context.Context, s *rival.Subject, w work.Work) ([]float64, error) {
	own := s.Own()
	if !own && !w.Limits {
		return nil, rival.ErrNotOffered
	}
	if w.Fresh {
		if err := s.Renew(ctx); err != nil {
			return nil, err
		}
	}
	before := s.CPU()
	values, amount, err := w.Run(ctx, s, b.each)
	if err == nil && w.PerCPU > 0 && amount <= 0 {
		err = errNothing
	}
	if err != nil {
		if own && !errors.Is(err, rival.ErrNotOffered) {
			_ = s.Renew(ctx) // the next work says so if it failed
		}
		return nil, err
	}
	if w.PerCPU > 0 && own {
		values = append(values, (s.CPU()-before).Seconds()/(amount/w.PerCPU)*w.CPU)
	}
	return values, nil
}

// note is a failure in a table.
func note(err error) string {
	if errors.Is(err, rival.ErrNotOffered) {
		return "–"
	}
	return "failed"
}

// version asks a rival for its version.
func version(ctx context.Context, r rival.Rival) string {
	if len(r.Version) == 0 {
		return "–"
	}
	paths, err := r.Find()
	if err != nil {
		return "?"
	}
	path := paths[r.Version[0]]
	out, _ := exec.CommandContext(ctx, path, r.Version[1:]...).CombinedOutput()
	if v := number.Find(out); v != nil {
		return string(v)
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return first
}

var number = regexp.MustCompile(`v?\d+\.\d+\.\d+\S*`)

// machine describes where this runs.
func machine() string {
	return fmt.Sprintf("%d cores, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
}
