package report

import (
	"fmt"
	"html"
	"io"
	"slices"

	"github.com/culvert-tunnel/culvert/bench/sample"
)

// Sizes of a chart, in pixels.
const (
	chartWidth = 760
	nameWidth  = 130
	valueWidth = 130
	barHeight  = 18
	barGap     = 8
	headHeight = 56
)

// SVG draws one row: a bar for the median of each subject, or step, with a line from its least
// to its greatest value.
func (r *Report) SVG(w io.Writer, row Row) error {
	most := 0.0
	for _, v := range row.Values {
		if len(v) > 0 {
			most = max(most, slices.Max(v))
		}
	}
	names := r.names(row)
	height := headHeight + len(names)*(barHeight+barGap) + barGap
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" font-family="system-ui, sans-serif" font-size="13">
<style>
text { fill: #1b1f24 } .soft { fill: #59636e } .bar { fill: #8c959f } .own { fill: #0a7ea4 } .limit { fill: #c8ced5 } .range { stroke: #1b1f24 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .soft { fill: #9198a1 } .bar { fill: #656c76 } .own { fill: #3fb6dc } .limit { fill: #3d444d } .range { stroke: #e6edf3 } }
</style>
<title>%s</title>
<text x="8" y="22" font-size="15" font-weight="600">%s</text>
<text x="8" y="42" class="soft">%s</text>
`, chartWidth, height, chartWidth, height, html.EscapeString(row.Work+": "+row.Metric), html.EscapeString(row.Work),
		html.EscapeString(row.label()+direction(row.Higher)+"; median of "+fmt.Sprint(r.Rounds)+" rounds, least to greatest"))
	if err != nil {
		return err
	}
	for i, name := range names {
		y := headHeight + i*(barHeight+barGap)
		class := "bar"
		switch {
		case i == 0 || len(row.Steps) > 0:
			class = "own"
		case r.Subjects[i].Limit:
			class = "limit"
		}
		fmt.Fprintf(w, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", nameWidth-8, y+barHeight-5, html.EscapeString(name))
		v := row.Values[i]
		if len(v) == 0 || most <= 0 {
			fmt.Fprintf(w, `<text x="%d" y="%d" class="soft">%s</text>`+"\n", nameWidth, y+barHeight-5, html.EscapeString(row.Notes[i]))
			continue
		}
		x := func(v float64) float64 { return nameWidth + max(v, 0)/most*(chartWidth-nameWidth-valueWidth) }
		median, middle := sample.Median(v), float64(y)+barHeight/2
		fmt.Fprintf(w, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>`+"\n", class, nameWidth, y, max(x(median)-nameWidth, 1), barHeight)
		fmt.Fprintf(w, `<line class="range" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`+"\n", x(slices.Min(v)), x(slices.Max(v)), middle, middle)
		fmt.Fprintf(w, `<text x="%.1f" y="%d">%s</text>`+"\n", x(slices.Max(v))+8, y+barHeight-5, sample.Figure(median))
	}
	_, err = fmt.Fprintln(w, "</svg>")
	return err
}

func direction(higher bool) string {
	if higher {
		return ", more is better"
	}
	return ", less is better"
}
