package report

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

var example = Report{
	When: "2026-11-24", Machine: "2 cores", Command: "go run ./bench", Rounds: 3, Path: "One machine",
	Missing:  []string{"sish (sish is not on PATH)"},
	Subjects: []Subject{{Name: "culvert", Version: "1"}, {Name: "a & b", Version: "2"}, {Name: "none", Limit: true}},
	Rows: []Row{
		{
			Work: "bulk", Metric: "rate", Unit: "GB/s", Higher: true,
			Values: [][]float64{{3, 1, 2}, {1, 1, 1}, nil}, Notes: []string{"", "", "failed"},
		},
		{
			Work: "bulk", Metric: "server and agent", Unit: "CPU s/GiB",
			Values: [][]float64{{2}, nil, nil}, Notes: []string{"", "–", "–"},
		},
		{
			Work: "visitors", Metric: "each", Unit: "KiB", Steps: []string{"1", "10"},
			Values: [][]float64{{20}, {10}}, Notes: []string{"", ""},
		},
	},
}

func TestText(t *testing.T) {
	var b strings.Builder
	if err := example.Text(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"not here: sish", "2 [1…3]", "culvert / it = 2.00", "failed"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestMarkdown(t *testing.T) {
	var b strings.Builder
	if err := example.Markdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| work | figure | culvert | a & b | none |\n|---|---|---|---|---|\n",
		"| bulk | rate, GB/s | 2 | 1 (2.00) | failed |\n",
		"|  | server and agent, CPU s/GiB | 2 | – | – |\n",
		"\n\n| work | figure | 1 | 10 |\n|---|---|---|---|\n| visitors | each, KiB | 20 | 10 |\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestSVG(t *testing.T) {
	for _, row := range example.Rows {
		var b strings.Builder
		if err := example.SVG(&b, row); err != nil {
			t.Fatal(err)
		}
		d := xml.NewDecoder(strings.NewReader(b.String()))
		bars := 0
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%v in\n%s", err, b.String())
			}
			if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
				bars++
			}
		}
		want := 0
		for _, v := range row.Values {
			if len(v) > 0 {
				want++
			}
		}
		if bars != want {
			t.Errorf("%s: %d bars, want %d", row.Metric, bars, want)
		}
	}
}
