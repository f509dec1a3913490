// Package report shows what a benchmark found: medians with the least and the greatest
// value of each figure, and the ratios between subjects of the same run.
package report

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"

	"github.com/culvert-tunnel/culvert/bench/sample"
)

// Subject is one column.
type Subject struct {
	Name     string `json:"name"`
	Version  string `json:"version,omitempty"`
	Settings string `json:"settings,omitempty"`
	Limit    bool   `json:"limit,omitempty"`
}

// Row is one figure of a work for all subjects.
type Row struct {
	Work   string `json:"work"`
	Metric string `json:"metric"`
	Unit   string `json:"unit"`
	Higher bool   `json:"higher_is_better"`
	// Values are those of the rounds, for each subject; without any, Notes says why.
	Values [][]float64 `json:"values"`
	Notes  []string    `json:"notes,omitempty"`
	// Steps are what the values are of if not of all subjects: of the first, in one state
	// after the other, which are not compared.
	Steps []string `json:"steps,omitempty"`
}

// Report is a whole run.
type Report struct {
	When     string    `json:"when"`
	Machine  string    `json:"machine"`
	Command  string    `json:"command"`
	Rounds   int       `json:"rounds"`
	Path     string    `json:"path"` // between server and agent
	Missing  []string  `json:"missing,omitempty"`
	Subjects []Subject `json:"subjects"` // the first is what the others are compared with
	Rows     []Row     `json:"rows"`
}

// ratio is the first subject's median by that of subject i, NaN without both or if it is
// the same.
func (r Row) ratio(i int) float64 {
	if i == 0 || len(r.Steps) > 0 || len(r.Values[0]) == 0 || len(r.Values[i]) == 0 || sample.Median(r.Values[i]) == 0 {
		return math.NaN()
	}
	return sample.Median(r.Values[0]) / sample.Median(r.Values[i])
}

func (r Row) cell(i int) string {
	if len(r.Values[i]) == 0 {
		return r.Notes[i]
	}
	return sample.Spread(r.Values[i])
}

// names are those of a row's values.
func (r *Report) names(row Row) []string {
	if len(row.Steps) > 0 {
		return row.Steps
	}
	names := make([]string, len(r.Subjects))
	for i, s := range r.Subjects {
		names[i] = s.Name
	}
	return names
}

// label names a row below its work.
func (r Row) label() string { return r.Metric + ", " + r.Unit }

// Text prints a table for the terminal.
func (r *Report) Text(w io.Writer) error {
	fmt.Fprintf(w, "%s · %s · %d rounds, interleaved · %s\n", r.When, r.Machine, r.Rounds, r.Path)
	for _, s := range r.Subjects {
		fmt.Fprintf(w, "  %s: %s; %s\n", s.Name, s.Version, s.Settings)
	}
	for _, m := range r.Missing {
		fmt.Fprintf(w, "  not here: %s\n", m)
	}
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	work := ""
	for _, row := range r.Rows {
		if row.Work != work {
			work = row.Work
			fmt.Fprintf(table, "%s\n", work)
		}
		for i, of := range r.names(row) {
			name := ""
			if i == 0 {
				name = "  " + row.label()
			}
			ratio := ""
			if x := row.ratio(i); !math.IsNaN(x) {
				ratio = fmt.Sprintf("%s / it = %.2f", r.Subjects[0].Name, x)
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", name, of, row.cell(i), ratio)
		}
	}
	return table.Flush()
}

// Markdown prints tables for a page: a row for each figure, a column for each subject
// with the ratio to the first in brackets. Work that was done in steps has a table of its own.
func (r *Report) Markdown(w io.Writer) error {
	fmt.Fprintf(w, "%s, %s. %d rounds, interleaved; medians; in brackets the ratio of %s's median to it. %s.\nRepeat it with `%s`.\n\n",
		r.When, r.Machine, r.Rounds, r.Subjects[0].Name, r.Path, r.Command)
	fmt.Fprint(w, "| program | version | settings |\n|---|---|---|\n")
	for _, s := range r.Subjects {
		fmt.Fprintf(w, "| %s | %s | %s |\n", s.Name, s.Version, s.Settings)
	}
	for _, m := range r.Missing {
		fmt.Fprintf(w, "\nNot on that machine: %s.\n", m)
	}
	work := ""
	for i, row := range r.Rows {
		name, names := "", r.names(row)
		if row.Work != work {
			work, name = row.Work, row.Work
			if i == 0 || len(row.Steps) > 0 {
				fmt.Fprintf(w, "\n| work | figure | %s |\n|---|---|%s\n", strings.Join(names, " | "), strings.Repeat("---|", len(names)))
			}
		}
		fmt.Fprintf(w, "| %s | %s |", name, row.label())
		for i := range names {
			switch x := row.ratio(i); {
			case len(row.Values[i]) == 0:
				fmt.Fprintf(w, " %s |", row.Notes[i])
			case math.IsNaN(x):
				fmt.Fprintf(w, " %s |", sample.Figure(sample.Median(row.Values[i])))
			default:
				fmt.Fprintf(w, " %s (%.2f) |", sample.Figure(sample.Median(row.Values[i])), x)
			}
		}
		fmt.Fprintln(w)
	}
	return nil
}
