package screen

import (
	"strconv"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/agent/inspect"
)

// endpoints draws one endpoint at length, several as a table.
func (p painter) endpoints(room int) []string {
	all := p.sight.status.Endpoints
	switch len(all) {
	case 0:
		return []string{p.dim.Render(" No endpoints: the configuration has none.")}
	case 1:
		return p.card(&all[0])
	}
	most := min(len(all), max(2, room*2/5))
	if len(all) <= most {
		return p.table(all, 0)
	}
	most-- // for the line that says how many there are
	first := min(max(0, p.at()-most/2), len(all)-most)
	lines := p.table(all[first:first+most], first)
	return append(lines, p.dim.Render(" "+strconv.Itoa(first+1)+"–"+strconv.Itoa(first+most)+" of "+count(int64(len(all)), "endpoint", "endpoints")))
}

// card draws the only endpoint. Its URLs are broken rather than cut: one that is cut
// can't be copied.
func (p painter) card(e *agent.EndpointStatus) []string {
	var lines []string
	for i, u := range e.URLs {
		u = cleanURL(u)
		style := p.url
		if i > 0 {
			style = p.plain
		}
		if len(e.URLs) > 1 && i > 0 && p.height < roomy {
			break
		}
		link := style
		if strings.HasPrefix(u, "http") {
			link = style.Hyperlink(u)
		}
		for len(u) > 0 {
			n := min(len(u), max(1, p.width-1))
			lines = append(lines, " "+link.Render(u[:n]))
			u = u[n:]
		}
	}
	if len(e.URLs) == 0 {
		lines = append(lines, " "+p.dim.Render("Waiting for the server to give "+clean(e.Name)+" a URL…"))
	}
	word, style := p.health(e)
	lines = append(lines, " "+p.dim.Render("→ ")+clean(e.Upstream)+"  "+style.Render(word))
	if e.UpstreamError != "" {
		lines = append(lines, p.wrap(clean(e.UpstreamError), 2, p.bad)...)
	}
	if e.Error != "" {
		lines = append(lines, p.wrap("Endpoint lost: "+clean(e.Error), 2, p.bad)...)
	}
	return lines
}

// health says in a word how the upstream is.
func (p painter) health(e *agent.EndpointStatus) (string, lipgloss.Style) {
	switch {
	case !e.Healthy:
		return "✗ down", p.bad
	case e.Visits == 0:
		return "○ not used yet", p.dim
	}
	return "✓ up", p.good
}

// table draws a line for each of these endpoints, the first of which has this index.
func (p painter) table(some []agent.EndpointStatus, first int) []string {
	name := 0
	url := 0
	for i := range some {
		name = max(name, ansi.StringWidth(clean(some[i].Name)))
		url = max(url, len(cleanURL(some[i].URL)))
	}
	name = min(name, p.width/4, 24)
	const lead, health, open = 4, 6, 9
	if p.width < 60 {
		name = 0 // the URL says it
	} else {
		name++
	}
	rest := p.width - lead - name - health - 1
	withOpen := rest-open > url+8
	if withOpen {
		rest -= open
	}
	url = min(url, rest)
	var lines []string
	for i := range some {
		e := &some[i]
		dot, style := "●", p.good
		switch {
		case e.Error != "":
			dot, style = "✗", p.bad
		case e.State != "online" || !p.sight.status.Connected:
			dot, style = "◌", p.warn
		}
		mark, shown := " ", p.plain.Foreground(p.url.GetForeground())
		if first+i == p.at() {
			mark, shown = p.accent.Render("▌"), p.url
		}
		u := cleanURL(e.URL)
		if strings.HasPrefix(u, "http") {
			shown = shown.Hyperlink(u)
		}
		if u == "" {
			u, shown = "…", p.dim
		}
		line := mark + style.Render(dot) + " "
		if name > 0 {
			line += fill(clean(e.Name), name)
		}
		line += shown.Render(cut(u, url)) + strings.Repeat(" ", max(0, url-ansi.StringWidth(u))+1)
		word, health := p.health(e)
		if e.Healthy && e.Visits == 0 {
			word = "○ new"
		}
		line += health.Render(fill(word, 6)) + " "
		if withOpen {
			line += p.dim.Render(right(strconv.FormatInt(e.Open, 10)+" open", open-1)) + " "
		}
		why := clean(e.Error)
		if why == "" {
			why = clean(e.UpstreamError)
		}
		if tail := p.width - ansi.StringWidth(line) - 1; why != "" && tail > 8 {
			line += p.bad.Render(cut(why, tail))
		} else if tail > 8 {
			line += p.dim.Render(cut("→ "+clean(e.Upstream), tail))
		}
		lines = append(lines, line)
	}
	return lines
}

// requests draws the newest requests into so many lines.
func (p painter) requests(room int) []string {
	if room < 2 {
		return nil
	}
	title := " " + p.strong.Render("Requests") + " "
	lines := []string{title + p.dim.Render(strings.Repeat("─", max(0, p.width-ansi.StringWidth(title)-1)))}
	if len(p.sight.requests) == 0 {
		return append(lines, " "+p.dim.Render("None yet."))
	}
	for i := range p.sight.requests[:min(len(p.sight.requests), room-1)] {
		lines = append(lines, p.request(&p.sight.requests[i]))
	}
	return lines
}

// request draws one.
func (p painter) request(r *inspect.Summary) string {
	when := ""
	if t, err := time.Parse(time.RFC3339Nano, r.Start); err == nil {
		when = t.Local().Format("15:04:05")
	}
	status, style := "···", p.theme.status(r.Status)
	switch {
	case r.Unreached != "":
		status, style = "502", p.bad
	case r.Status > 0:
		status = strconv.Itoa(r.Status)
	case r.State == inspect.Failed:
		status, style = "cut", p.bad
	}
	line := " "
	if p.width >= 50 {
		line += p.dim.Render(when) + "  "
	}
	line += style.Render(right(status, 3)) + "  " + p.get.Render(fill(cleanURL(r.Method), 7)) + " "
	tail := right(taken(r.Duration), 8) + " "
	if r.State == inspect.Open {
		tail = right("open", 8) + " "
	}
	space := p.width - ansi.StringWidth(line) - len(tail)
	if len(p.sight.status.Endpoints) > 1 && p.width >= 70 {
		line += p.dim.Render(fill(clean(r.Endpoint), 12)) + " "
		space -= 13
	}
	return line + fill(cleanURL(r.Path), space) + p.dim.Render(tail)
}

// qr draws the chosen endpoint's URL for a camera.
func (p painter) qr(room int) []string {
	e := p.endpoint()
	if e == nil || e.URL == "" {
		return []string{"", p.dim.Render(" There is no URL yet.")}
	}
	url := cleanURL(e.URL)
	code, err := qrLines(url, p.dark)
	if err != nil {
		return []string{"", p.bad.Render(" This URL is too long for a QR code.")}
	}
	width := ansi.StringWidth(code[0])
	if width > p.width || len(code) > room {
		return []string{
			"", p.warn.Render(" The window is too small for the QR code:"),
			p.warn.Render(" it needs " + strconv.Itoa(width) + " columns and " + strconv.Itoa(len(code)+2) + " rows."),
		}
	}
	margin := strings.Repeat(" ", (p.width-width)/2)
	var lines []string
	if len(code)+3 <= room {
		lines = append(lines, "", strings.Repeat(" ", max(0, (p.width-len(url))/2))+p.linked(cut(url, p.width), p.url), "")
	}
	for _, l := range code {
		lines = append(lines, margin+l)
	}
	return lines
}

// help says what all keys do.
func (p painter) help() []string {
	keys := [][2]string{
		{"q", "QR code of the chosen URL"},
		{"c", "copy the chosen URL (OSC 52)"},
		{"↑ ↓", "choose an endpoint"},
		{"x, X", "dismiss the newest warning, or all"},
		{"ctrl-c", "stop; connections may finish"},
		{"ctrl-c", "once more: stop at once"},
		{"ctrl-z", "suspend"},
		{"?", "this page"},
	}
	var lines []string
	if p.height >= len(keys)+4 {
		lines = append(lines, "")
	}
	for _, k := range keys {
		lines = append(lines, "  "+p.accent.Render(fill(k[0], 9))+k[1])
	}
	return lines
}
