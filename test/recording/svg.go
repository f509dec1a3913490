package recording

import (
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"
)

// The size of a cell, and what is around all of them, in pixels.
const (
	cellWidth, cellHeight = 8.4, 18.0
	border, bar           = 16.0, 30.0

	ink, paper = "#d8dee9", "#1f2430"
)

// SVG writes frames as one picture that shows them one after the other, again and again;
// who wants no movement sees the frame with that index. A line that several frames have is
// in it once.
func SVG(w io.Writer, title string, columns, rows, still int, frames []Frame) error {
	var total time.Duration
	for _, f := range frames {
		total += f.For
	}
	width, height := float64(columns)*cellWidth+2*border, float64(rows)*cellHeight+bar+border
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" role="img" aria-label=%s fill="%s">`+"\n",
		width, height, width, height, quoted(title), ink)
	fmt.Fprintf(&b, "<title>%s</title>\n", escaped(title))
	b.WriteString("<style>\ntext{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre}\n" +
		".f{visibility:hidden;animation:" + fmt.Sprintf("%.2fs", total.Seconds()) + " step-end infinite}\n")
	var from time.Duration
	for i, f := range frames {
		fmt.Fprintf(&b, ".f%d{animation-name:k%d}@keyframes k%d{%s}\n", i, i, i, keyframes(from, from+f.For, total))
		from += f.For
	}
	fmt.Fprintf(&b, "@media(prefers-reduced-motion){.f{animation:none}.f%d{visibility:visible}}\n</style>\n", still)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" rx="9" fill="%s"/>`+"\n", paper)
	for i, colour := range []string{"#e0666f", "#e5c07b", "#98c379"} {
		fmt.Fprintf(&b, `<circle cx="%.0f" cy="16" r="5.5" fill="%s"/>`, border+6+float64(i)*19, colour)
	}
	b.WriteString("\n")
	var lines []string
	var body strings.Builder
	for i, f := range frames {
		fmt.Fprintf(&body, `<g class="f f%d">`, i)
		var st style
		for y, text := range strings.Split(strings.TrimRight(f.Text, "\n"), "\n") {
			if y == rows {
				break
			}
			var cells []cell
			cells, st = parse(text, st, func(r rune) int { return ansi.StringWidth(string(r)) })
			drawn := line(cells)
			if drawn == "" {
				continue
			}
			n := slices.Index(lines, drawn)
			if n < 0 {
				n = len(lines)
				lines = append(lines, drawn)
			}
			fmt.Fprintf(&body, `<use href="#l%d" x="%.0f" y="%.0f"/>`, n, border, bar+float64(y)*cellHeight)
		}
		if !f.NoPoint {
			fmt.Fprintf(&body, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.0f" fill="%s" opacity=".7"/>`,
				border+float64(f.X)*cellWidth, bar+float64(f.Y)*cellHeight, cellWidth, cellHeight, ink)
		}
		body.WriteString("</g>\n")
	}
	b.WriteString("<defs>\n")
	for i, l := range lines {
		fmt.Fprintf(&b, `<g id="l%d">%s</g>`+"\n", i, l)
	}
	b.WriteString("</defs>\n" + body.String() + "</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// keyframes shows something between two moments.
func keyframes(from, to, total time.Duration) string {
	percent := func(d time.Duration) string { return fmt.Sprintf("%.3f%%", 100*d.Seconds()/total.Seconds()) }
	k := percent(from) + "{visibility:visible}"
	if from > 0 {
		k = "0%{visibility:hidden}" + k
	}
	if to < total {
		k += percent(to) + "{visibility:hidden}"
	}
	return k
}

// line draws a line, with its top at 0.
func line(cells []cell) string {
	var b strings.Builder
	for i := 0; i < len(cells); {
		j := i + 1
		for j < len(cells) && cells[j].style == cells[i].style && isBlock(cells[j].text) == isBlock(cells[i].text) {
			j++
		}
		cells[i].run(&b, i, cells[i:j])
		i = j
	}
	return b.String()
}

// run draws cells of one style from a column on.
func (st style) run(b *strings.Builder, column int, cells []cell) {
	fg, bg := st.fg, st.bg
	if st.reverse {
		fg, bg = bg, fg
		if fg == "" {
			fg = paper
		}
		if bg == "" {
			bg = ink
		}
	}
	x := float64(column) * cellWidth
	if bg != "" {
		rect(b, x, 0, float64(len(cells))*cellWidth, cellHeight, bg)
	}
	if isBlock(cells[0].text) {
		st.blocks(b, x, cells, fg)
		return
	}
	var s strings.Builder
	for _, c := range cells {
		s.WriteString(c.text)
	}
	text := strings.TrimRight(s.String(), " ")
	if text == "" {
		return
	}
	skip := len(text) - len(strings.TrimLeft(text, " "))
	text = text[skip:]
	var attrs string
	if fg != "" {
		attrs += ` fill="` + fg + `"`
	}
	if st.bold {
		attrs += ` font-weight="bold"`
	}
	if st.faint {
		attrs += ` opacity=".6"`
	}
	if st.italic {
		attrs += ` font-style="italic"`
	}
	if st.underline {
		attrs += ` text-decoration="underline"`
	}
	width := float64(utf8.RuneCountInString(text)) * cellWidth
	if w := ansi.StringWidth(text); w > 0 {
		width = float64(w) * cellWidth
	}
	// The length holds columns where they are, whatever font there is.
	fmt.Fprintf(b, `<text x="%.1f" y="13.5" textLength="%.1f" lengthAdjust="spacingAndGlyphs"%s>%s</text>`,
		x+float64(skip)*cellWidth, width, attrs, escaped(text))
}

// isBlock reports whether a cell is drawn and not written: fonts leave gaps.
func isBlock(text string) bool { return text == "█" || text == "▀" || text == "▄" }

func (st style) blocks(b *strings.Builder, x float64, cells []cell, fg string) {
	if fg == "" {
		fg = ink
	}
	for i := 0; i < len(cells); {
		j := i + 1
		for j < len(cells) && cells[j].text == cells[i].text {
			j++
		}
		y, height := 0.0, cellHeight
		switch cells[i].text {
		case "▀":
			height /= 2
		case "▄":
			y, height = cellHeight/2, cellHeight/2
		}
		rect(b, x+float64(i)*cellWidth, y, float64(j-i)*cellWidth, height, fg)
		i = j
	}
}

// rect draws one with hard edges, so that those side by side meet.
func rect(b *strings.Builder, x, y, width, height float64, colour string) {
	fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s" shape-rendering="crispEdges"/>`, x, y, width, height, colour)
}

func escaped(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}

func quoted(s string) string { return `"` + escaped(s) + `"` }
