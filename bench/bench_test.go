package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/bench/report"
)

// TestRun runs the program as a whole: Culvert and no proxy at all, for a moment.
func TestRun(t *testing.T) {
	t.Chdir("..")
	dir := t.TempDir()
	file := filepath.Join(dir, "run.json")
	o, err := parse([]string{
		"--rounds", "2", "--for", "100ms", "--rivals", "^none$", "--work", "ping-pong 64|agent's start",
		"--json", file, "--markdown", filepath.Join(dir, "run.md"), "--svg", dir,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r report.Report
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		t.Fatal(err)
	}
	if len(r.Subjects) != 2 || r.Subjects[0].Name != "culvert" || r.Subjects[1].Name != "none" {
		t.Errorf("subjects %+v", r.Subjects)
	}
	if len(r.Rows) != 6 {
		t.Errorf("%d rows, want p50, p99, processor time; rate, processor time; time", len(r.Rows))
	}
	for _, row := range r.Rows {
		// The system counts processor time in ticks, and on a busy machine there may be none.
		idle := strings.Contains(row.Unit, "CPU") && len(row.Values[0]) == 2 && row.Values[0][0] == 0
		if len(row.Values[0]) != 2 || row.Values[0][0] <= 0 && !idle {
			t.Errorf("%s, %s: Culvert's values %v", row.Work, row.Metric, row.Values[0])
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "ping-pong-64-b-1-connection-p50.svg")); err != nil {
		t.Error(err)
	}
}

func TestFlags(t *testing.T) {
	for _, args := range [][]string{
		{"--rounds", "0"},
		{"--for", "1ms"},
		{"--loss", "1"},
		{"--delay", "-1s"},
		{"--work", "("},
		{"--rivals", "["},
		{"--agents", "5000"},
		{"words"},
		{"--nonsense"},
	} {
		if _, err := parse(args); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
	o, err := parse([]string{"--quick", "--rounds", "7"})
	if err != nil || o.rounds != 7 || o.hurry {
		t.Errorf("got %d rounds, %v; want those that were asked for", o.rounds, err)
	}
	if o, err := parse([]string{"--quick"}); err != nil || !o.hurry {
		t.Errorf("takes as many rounds as ever: %v", err)
	}
	for round, want := range map[time.Duration]int{0: 3, 10 * time.Second: 3, 60 * time.Second: 2, 71 * time.Second: 1, time.Hour: 1} {
		if got := affordable(round); got != want {
			t.Errorf("%d rounds of %v; want %d", got, round, want)
		}
	}
}

// TestWithoutCulvert says what is wrong when the binary to compare can't be started.
func TestWithoutCulvert(t *testing.T) {
	o, err := parse([]string{"--compare", filepath.Join(t.TempDir(), "nothing")})
	if err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), o); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
