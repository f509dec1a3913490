package screen

import (
	"strconv"
	"strings"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/culvert-tunnel/culvert/internal/agent"
)

// Where there is room for more than the bare lines.
const (
	airy  = 18 // rows for blank lines between the parts
	roomy = 13 // rows for all lines of what is known of the link
)

// frame draws the whole screen, of exactly height lines none of which is wider than it.
func (m model) frame() string {
	if m.width < 1 || m.height < 1 {
		return ""
	}
	p := painter{model: m, theme: newTheme(m.dark), width: m.width}
	var body []string
	room := max(0, m.height-2)
	switch m.page {
	case pageQR:
		body = p.qr(room)
	case pageHelp:
		body = p.help()
	default:
		body = p.status(room)
	}
	lines := append([]string{p.header()}, body...)
	lines = lines[:min(len(lines), max(1, m.height-1))]
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	if m.height > 1 {
		lines = append(lines, p.footer())
	}
	for i, l := range lines {
		lines[i] = ansi.Truncate(l, m.width, "…")
	}
	return strings.Join(lines, "\n")
}

// title is that of the terminal's window.
func (m model) title() string {
	state, _ := m.state(newTheme(m.dark))
	return "culvert: " + state
}

// painter draws the parts of a frame.
type painter struct {
	model
	theme
	width int
}

// state says in a word how things stand.
func (m model) state(t theme) (string, lipgloss.Style) {
	st := m.sight.status
	waiting := 0
	for _, e := range st.Endpoints {
		switch {
		case e.Error != "":
			return "endpoint lost", t.bad
		case e.State != "online":
			waiting++
		}
	}
	switch {
	case !m.stopped.IsZero():
		return "stopping", t.warn
	case !st.Connected && st.Error == "":
		return "connecting", t.warn
	case !st.Connected:
		return "reconnecting", t.bad
	case waiting > 0:
		return "binding", t.warn
	}
	return "online", t.good
}

// header is the first line.
func (p painter) header() string {
	state, style := p.state(p.theme)
	left := p.name.Render("culvert") + "  " + style.Render("● "+state)
	if st := p.sight.status; state == "online" && !st.Since.IsZero() {
		left += p.dim.Render(" for " + ago(p.sight.at.Sub(st.Since)))
	}
	return p.spread(" "+left, p.dim.Render(clean(p.cfg.Version))+" ")
}

// spread puts two texts at the ends of a line; the second one only if there is room.
func (p painter) spread(left, right string) string {
	space := p.width - ansi.StringWidth(left) - ansi.StringWidth(right)
	if space < 2 {
		return left
	}
	return left + strings.Repeat(" ", space) + right
}

// footer is the last line: what keys there are, or the answer to one.
func (p painter) footer() string {
	if p.said != "" {
		return " " + p.good.Render(clean(p.said))
	}
	type hint struct{ key, what string }
	hints := []hint{{"?", "keys"}, {"q", "QR code"}, {"c", "copy"}}
	switch {
	case p.page != pageStatus:
		hints = []hint{{"esc", "back"}}
	case len(p.sight.notices) > 0:
		hints = append(hints, hint{"x", "dismiss"})
	}
	if p.page == pageStatus && len(p.sight.status.Endpoints) > 1 {
		hints = append(hints, hint{"↑↓", "choose"})
	}
	stop := hint{"ctrl-c", "stop"}
	if !p.stopped.IsZero() {
		stop.what = "stop at once"
	}
	hints = append(hints[:1:1], append([]hint{stop}, hints[1:]...)...) // the important ones survive a narrow window
	line := ""
	for _, h := range hints {
		next := line + " " + p.accent.Render(h.key) + " " + p.dim.Render(h.what) + " "
		if ansi.StringWidth(next) > p.width {
			break
		}
		line = next
	}
	return line
}

// status draws the parts of the first page into so many lines.
func (p painter) status(room int) []string {
	air := p.height >= airy
	var parts [][]string
	used := 0
	add := func(lines []string) {
		if lines = lines[:min(len(lines), max(0, room-used))]; len(lines) == 0 {
			return
		}
		if air {
			lines = append([]string{""}, lines...)
		}
		parts, used = append(parts, lines), used+len(lines)
	}
	add(p.trouble())
	add(p.endpoints(room))
	add(p.facts())
	add(p.notices())
	if p.cfg.Inspector != nil {
		spare := room - used
		if air {
			spare--
		}
		add(p.requests(spare))
	}
	var lines []string
	for _, part := range parts {
		lines = append(lines, part...)
	}
	return lines
}

// trouble says what keeps visitors away, or that the agent is about to end.
func (p painter) trouble() []string {
	st := p.sight.status
	var lines []string
	if !p.stopped.IsZero() {
		var open int64
		for _, e := range st.Endpoints {
			open += e.Open
		}
		switch {
		case p.aborted:
			lines = append(lines, p.warn.Render(" Stopping at once."))
		case open > 0:
			lines = append(lines, p.warn.Render(" Stopping: "+count(open, "connection", "connections")+" may finish."))
		default:
			lines = append(lines, p.warn.Render(" Stopping."))
		}
	}
	if st.Connected || st.Error == "" {
		return lines
	}
	when := ""
	if !st.Since.IsZero() {
		when = "Connection lost at " + st.Since.Format("15:04:05") + ". "
	}
	next := "Trying again."
	if wait := st.NextTry.Sub(p.sight.at); wait > 0 && p.stopped.IsZero() {
		next = "Next try in " + ago(wait+999e6) + "."
	} else if !p.stopped.IsZero() {
		next = ""
	}
	lines = append(lines, p.warn.Render(" "+when+next))
	return append(lines, p.wrap(clean(st.Error), 2, p.bad)...)
}

// wrap breaks text into at most so many lines.
func (p painter) wrap(text string, most int, style lipgloss.Style) []string {
	lines := strings.Split(ansi.Wrap(text, max(1, p.width-2), ""), "\n")
	if len(lines) > most {
		lines = lines[:most]
		lines[most-1] = cut(lines[most-1]+"…", p.width-2)
	}
	for i, l := range lines {
		lines[i] = " " + style.Render(l)
	}
	return lines
}

// facts says what is known of the link.
func (p painter) facts() []string {
	st := p.sight.status
	dot := p.dim.Render(" · ")
	node := clean(st.Server)
	if st.Node != "" {
		node += dot + clean(st.Node)
	}
	if st.Region != "" {
		node += dot + "region " + clean(st.Region)
	}
	if len(st.Also) > 0 {
		node += dot + "also at " + clean(strings.Join(st.Also, ", "))
	}
	link := p.dim.Render("none")
	if st.Connected {
		link = strings.ToUpper(clean(st.Transport))
		if st.LatencyMS > 0 {
			link += dot + taken(st.LatencyMS)
		}
	}
	var sum agent.EndpointStatus
	for _, e := range st.Endpoints {
		sum.Open, sum.Visits = sum.Open+e.Open, sum.Visits+e.Visits
	}
	what := "connections"
	if p.cfg.Inspector != nil {
		what = "requests"
	}
	traffic := p.strong.Render(rate(p.sight.rate)) + " " + what + "/s"
	if p.cfg.Inspector != nil && p.sight.captured > 0 {
		traffic += dot + count(int64(p.sight.captured), "request", "requests") //nolint:gosec // far below
	}
	link += dot + count(sum.Visits, "connection", "connections") + ", " + strconv.FormatInt(sum.Open, 10) + " open"
	traffic += dot + "in " + size(p.sight.in) + ", out " + size(p.sight.out)
	all := [][2]string{{"Traffic", traffic}, {"Link", link}, {"Server", node}}
	if p.cfg.Page != "" {
		label := "Inspector"
		if p.cfg.Inspector == nil {
			label = "Local API"
		}
		all = append(all, [2]string{label, p.linked(cleanURL(p.cfg.Page), p.plain)})
	}
	switch {
	case p.height < roomy:
		all = all[:1]
	case p.height < airy:
		all = append(all[:1:1], all[3:]...)
	}
	var lines []string
	for _, f := range all {
		lines = append(lines, " "+p.dim.Render(fill(f[0], 11))+f[1])
	}
	return lines
}

// linked is a URL that can be clicked where the terminal has that (OSC 8).
func (p painter) linked(url string, style lipgloss.Style) string {
	if strings.HasPrefix(url, "https://") || strings.HasPrefix(url, "http://") {
		style = style.Hyperlink(url)
	}
	return style.Render(url)
}

// notices shows the newest warnings.
func (p painter) notices() []string {
	most := 3
	if p.height < roomy {
		most = 1
	}
	var lines []string
	for _, n := range p.sight.notices[:min(len(p.sight.notices), most)] {
		style := p.warn
		if n.Level > 4 {
			style = p.bad
		}
		text := clean(n.Text)
		if n.Count > 1 {
			text += " (" + count(int64(n.Count), "time", "times") + ")"
		}
		rows := 1
		if p.height >= airy+6 {
			rows = 2
		}
		for i, l := range strings.Split(ansi.Wrap(text, max(1, p.width-13), ""), "\n") {
			switch {
			case i == 0:
				l = style.Render("▲ ") + p.dim.Render(n.At.Format("15:04:05")) + " " + style.Render(l)
			case i >= rows:
				continue
			default:
				l = strings.Repeat(" ", 11) + style.Render(l)
			}
			lines = append(lines, " "+l)
		}
	}
	if more := len(p.sight.notices) - most; more > 0 && p.height >= airy {
		lines = append(lines, " "+p.dim.Render("  and "+count(int64(more), "older warning", "older warnings")))
	}
	return lines
}
