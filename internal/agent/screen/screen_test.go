package screen

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/agent/inspect"
)

var update = flag.Bool("update", false, "write the golden frames anew")

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.Local)

// shown is a model that has looked at an agent with these endpoints.
func shown(t *testing.T, endpoints ...agent.EndpointStatus) model {
	t.Helper()
	in := inspect.New(inspect.Config{})
	n := NewNotices(slog.DiscardHandler, false)
	st := agent.Status{
		Server: "tunnel.example.com:443", Connected: true, Node: "node-a", Region: "eu", Transport: "tls",
		LatencyMS: 12.4, Since: noon.Add(-3 * time.Minute), Endpoints: endpoints,
	}
	m := newModel(Config{
		Status: func() agent.Status { return st }, Inspector: in, Page: "http://127.0.0.1:4040/", Version: "1.2.3", Notices: n,
	})
	m.look(noon)
	m.sight.requests = []inspect.Summary{
		{Method: "GET", Path: "/slow", State: inspect.Open, Start: stamp(3), Endpoint: "web"},
		{Method: "POST", Path: "/hooks?id=7", Status: 204, State: inspect.Done, Start: stamp(2), Duration: 12.3, Endpoint: "web"},
		{Method: "GET", Path: "/missing", Status: 404, State: inspect.Done, Start: stamp(1), Duration: 1.2, Endpoint: "web"},
		{Method: "GET", Path: "/down", Unreached: "refused", State: inspect.Done, Start: stamp(0), Duration: 0.2, Endpoint: "web"},
	}
	m.sight.captured, m.sight.rate, m.sight.in, m.sight.out = 1234, 2.54, 1234, 5_678_901
	return m
}

func stamp(s int) string {
	return noon.Add(time.Duration(s) * time.Second).UTC().Format(time.RFC3339Nano)
}

func web() agent.EndpointStatus {
	return agent.EndpointStatus{
		Name: "web", Kind: "http", State: "online", URL: "https://calm-otter-42.tunnel.example.com",
		URLs:     []string{"https://calm-otter-42.tunnel.example.com", "http://calm-otter-42.tunnel.example.com"},
		Upstream: "3000", Healthy: true, Visits: 41, Open: 2,
	}
}

// many are endpoints in all the states there are.
func many(n int) []agent.EndpointStatus {
	var list []agent.EndpointStatus
	for i := range n {
		e := agent.EndpointStatus{
			Name: fmt.Sprintf("service-%d", i), Kind: "tcp", State: "online", URL: fmt.Sprintf("tcp://tunnel.example.com:%d", 20000+i),
			Upstream: fmt.Sprint(3000 + i), Healthy: true, Visits: int64(i),
		}
		switch i % 5 {
		case 1:
			e.Healthy, e.UpstreamError = false, "connect: connection refused"
		case 2:
			e.State, e.Error = "lost", "a newer run of the agent took it over"
		case 3:
			e.State, e.URL = "offline", ""
		}
		list = append(list, e)
	}
	return list
}

// sizes of windows: the least that is promised, in between, the usual one, a large one.
var sizes = [][2]int{{40, 10}, {60, 14}, {80, 24}, {120, 40}}

// TestFrames: what is shown in which situation, at each size.
func TestFrames(t *testing.T) {
	for name, make := range map[string]func(t *testing.T) model{
		"one": func(t *testing.T) model { return shown(t, web()) },
		"warned": func(t *testing.T) model {
			e := web()
			e.Healthy, e.UpstreamError = false, "dial tcp 127.0.0.1:3000: connect: connection refused"
			m := shown(t, e)
			for i := range 5 {
				m.cfg.Notices.add(Notice{At: noon, Level: slog.LevelWarn, Text: fmt.Sprintf("notice from the server: your token expires in %d days, and the one who made it can make another", i), Count: i + 1})
			}
			m.sight.notices = m.cfg.Notices.List()
			return m
		},
		"many": func(t *testing.T) model {
			m := shown(t, many(30)...)
			m.choose(17)
			return m
		},
		"reconnecting": func(t *testing.T) model {
			m := shown(t, web())
			m.sight.status.Connected, m.sight.status.Error = false, "dial tunnel.example.com:443: connect: connection refused"
			m.sight.status.Since, m.sight.status.NextTry = noon.Add(-time.Minute), noon.Add(4*time.Second)
			return m
		},
		"two": func(t *testing.T) model {
			m := shown(t, web())
			m.sight.status.Also = []string{"b.example.com:443"}
			return m
		},
		"stopping": func(t *testing.T) model {
			m := shown(t, web())
			m.stopped = noon
			return m
		},
		"starting": func(t *testing.T) model {
			m := shown(t, agent.EndpointStatus{Name: "http-3000", Kind: "http", State: "offline", Upstream: "3000", Healthy: true})
			m.sight = sight{at: noon, status: m.sight.status}
			m.sight.status.Connected = false
			return m
		},
		"help": func(t *testing.T) model { m := shown(t, web()); m.page = pageHelp; return m },
		"qr":   func(t *testing.T) model { m := shown(t, web()); m.page = pageQR; return m },
	} {
		t.Run(name, func(t *testing.T) {
			var got strings.Builder
			for _, size := range sizes {
				m := make(t)
				m.width, m.height = size[0], size[1]
				frame := m.frame()
				fits(t, frame, m.width, m.height)
				fmt.Fprintf(&got, "── %d × %d\n", size[0], size[1])
				for l := range strings.SplitSeq(ansi.Strip(frame), "\n") {
					got.WriteString(strings.TrimRight(l, " ") + "\n")
				}
			}
			golden(t, filepath.Join("testdata", name+".txt"), got.String())
		})
	}
}

// fits fails unless a frame has exactly the size of the window, or less in width.
func fits(t *testing.T, frame string, width, height int) {
	t.Helper()
	lines := strings.Split(frame, "\n")
	if len(lines) != height {
		t.Errorf("%d lines in a window of %d", len(lines), height)
	}
	for _, l := range lines {
		if w := ansi.StringWidth(l); w > width {
			t.Errorf("%d columns in a window of %d: %q", w, width, l)
		}
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; -update writes it anew:\n%s", path, got)
	}
}

// TestEverySize: no window is too small or too large, on any page.
func TestEverySize(t *testing.T) {
	m := shown(t, many(12)...)
	m.cfg.Notices.add(Notice{At: noon, Text: strings.Repeat("wörd ", 60), Count: 1})
	m.sight.notices = m.cfg.Notices.List()
	for _, m.page = range []page{pageStatus, pageQR, pageHelp} {
		for m.width = 0; m.width < 130; m.width += 3 {
			for m.height = 0; m.height < 50; m.height++ {
				if frame := m.frame(); m.width > 0 && m.height > 0 {
					fits(t, frame, m.width, m.height)
				}
			}
		}
	}
}

// evil tries all that a terminal could take for an order.
const evil = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x1b]0;title\x1b\\\u009b31m\r\n\t\x00\x7f\u202egnp.exe\u200b\xff\xfe\x1bP+q\x1b\\" + "a\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301"

// TestHostileText: whatever strangers write, the terminal gets printable characters and
// the styles of this package.
func TestHostileText(t *testing.T) {
	e := web()
	e.Name, e.URL, e.URLs, e.Upstream, e.Error, e.UpstreamError = evil, "https://"+evil, []string{"https://" + evil, "tcp://" + evil}, evil, evil, evil
	for _, endpoints := range [][]agent.EndpointStatus{{e}, {e, e}} {
		m := shown(t, endpoints...)
		st := &m.sight.status
		st.Server, st.Node, st.Region, st.Transport, st.Error, st.Also = evil, evil, evil, evil, evil, []string{evil}
		m.cfg.Page, m.cfg.Version, m.said = "http://"+evil, evil, evil
		m.sight.requests = []inspect.Summary{{Method: evil, Path: evil, Endpoint: evil, Start: evil, Status: 200}}
		slog.New(m.cfg.Notices.Handler()).With("x", evil).Warn(evil, "error", errors.New(evil), evil, evil)
		m.sight.notices = m.cfg.Notices.List()
		m.width, m.height = 100, 40
		for _, st.Connected = range []bool{true, false} {
			for _, m.page = range []page{pageStatus, pageQR} {
				frame := m.frame()
				fits(t, frame, m.width, m.height)
				harmless(t, frame)
				harmless(t, m.View().WindowTitle)
			}
		}
	}
}

// harmless fails if text has any order to a terminal but styles and hyperlinks.
func harmless(t *testing.T, text string) {
	t.Helper()
	for rest := text; rest != ""; {
		seq, width, n, _ := ansi.DecodeSequence(rest, 0, nil)
		rest = rest[n:]
		style := strings.HasPrefix(seq, "\x1b[") && strings.HasSuffix(seq, "m") && strings.Trim(seq[2:len(seq)-1], "0123456789;:") == ""
		link := strings.HasPrefix(seq, "\x1b]8;;") && strings.IndexFunc(seq[5:len(seq)-1], unicode.IsControl) < 0
		marks := strings.IndexFunc(seq, func(r rune) bool { return !unicode.Is(unicode.M, r) }) < 0 && len(seq) <= 2*maxMarks
		if width == 0 && !style && !link && !marks && seq != "\n" {
			t.Fatalf("%q in %q", seq, text)
		}
		if strings.ContainsAny(seq, "\u202e\u200b\u009b\r\t\x00") {
			t.Fatalf("%q in %q", seq, text)
		}
	}
}

// TestNotices: warnings are kept for the screen, and lines are written only while there
// is none, or if they go elsewhere.
func TestNotices(t *testing.T) {
	for _, also := range []bool{false, true} {
		var lines strings.Builder
		n := NewNotices(slog.NewTextHandler(&lines, nil), also)
		log := slog.New(n.Handler()).With("session", "s")
		log.Info("connected")
		for range 3 {
			log.With("server", "a:1").Warn("upstream is down", "name", "web", "error", errors.New("refused"))
		}
		if got := n.List(); len(got) != 1 || got[0].Count != 3 || got[0].Text != "upstream is down (name web): refused" {
			t.Errorf("notices %+v", got)
		}
		if got := strings.Count(lines.String(), "\n"); got != 4 && also || got != 0 && !also {
			t.Errorf("also %v: lines %q", also, lines.String())
		}
		n.release()
		lines.Reset()
		log.Warn("after")
		if !strings.Contains(lines.String(), "after") || len(n.List()) != 1 {
			t.Errorf("after the screen: lines %q, notices %v", lines.String(), n.List())
		}
	}
	n := NewNotices(slog.DiscardHandler, false)
	for i := range maxNotices + 10 {
		slog.New(n.Handler()).Warn("upstream is down", "error", i)
	}
	if got := n.List(); len(got) != maxNotices || got[0].Text != fmt.Sprint("upstream is down: ", maxNotices+9) {
		t.Errorf("%d notices, the newest %q", len(got), got[0].Text)
	}
	n.Dismiss(false)
	if got := n.List(); len(got) != maxNotices-1 || got[0].Text != fmt.Sprint("upstream is down: ", maxNotices+8) {
		t.Errorf("after a dismissal %d, the newest %q", len(got), got[0].Text)
	}
	n.Dismiss(true)
	n.Dismiss(false)
	if got := n.List(); len(got) != 0 {
		t.Errorf("all dismissed: %v", got)
	}
}

// TestKeys: each key does what the help says.
func TestKeys(t *testing.T) {
	m := shown(t, many(5)...)
	stops, aborts := 0, 0
	m.cfg.Stop, m.cfg.Abort = func() { stops++ }, func() { aborts++ }
	press := func(k tea.Key) tea.Cmd {
		next, cmd := m.Update(tea.KeyPressMsg(k))
		m = next.(model)
		return cmd
	}
	letter := func(r rune) tea.Cmd { return press(tea.Key{Code: r, Text: string(r)}) }
	letter('q')
	if m.page != pageQR {
		t.Error("q shows no QR code")
	}
	letter('?')
	if m.page != pageHelp {
		t.Error("? shows no help")
	}
	press(tea.Key{Code: tea.KeyEscape})
	if m.page != pageStatus {
		t.Error("esc does not lead back")
	}
	press(tea.Key{Code: tea.KeyDown})
	if e := m.endpoint(); e.Name != "service-1" {
		t.Errorf("down chooses %s", e.Name)
	}
	press(tea.Key{Code: tea.KeyEnd})
	press(tea.Key{Code: tea.KeyDown})
	if e := m.endpoint(); e.Name != "service-4" {
		t.Errorf("the last one is %s", e.Name)
	}
	cmd := letter('c')
	if cmd == nil || fmt.Sprint(cmd()) != "tcp://tunnel.example.com:20004" || !strings.Contains(m.frame(), "sent to the clipboard") {
		t.Error("c does not copy the URL")
	}
	ctrlC := tea.Key{Code: 'c', Mod: tea.ModCtrl}
	press(ctrlC)
	if stops != 1 || aborts != 0 {
		t.Errorf("ctrl-c: %d stops, %d aborts", stops, aborts)
	}
	press(ctrlC)
	if stops != 1 || aborts != 1 {
		t.Errorf("ctrl-c twice: %d stops, %d aborts", stops, aborts)
	}
}

// TestRate: the rate is that of the last seconds, and falls to nothing after them.
func TestRate(t *testing.T) {
	var r meter
	at, n := noon, uint64(100)
	if got := r.add(at, n); got != 0 {
		t.Errorf("at first %v", got)
	}
	for range 40 {
		at, n = at.Add(250*time.Millisecond), n+5
		if got := r.add(at, n); got > 20.01 {
			t.Errorf("%v per second of 20", got)
		}
	}
	if got := r.add(at.Add(250*time.Millisecond), n+5); got < 19.9 || got > 20.1 {
		t.Errorf("%v per second of 20", got)
	}
	for range 24 {
		at = at.Add(250 * time.Millisecond)
		r.add(at, n+5)
	}
	if got := r.add(at, n+5); got != 0 {
		t.Errorf("after silence %v", got)
	}
	if len(r.seen) > 30 {
		t.Errorf("%d counts are kept", len(r.seen))
	}
}

// TestUnits: numbers as people write them.
func TestUnits(t *testing.T) {
	for got, want := range map[string]string{
		size(0): "0 B", size(999): "999 B", size(1000): "1.0 kB", size(999_499): "999 kB", size(999_999): "1.0 MB", size(5e12): "5.0 TB",
		taken(0.2): "<1 ms", taken(12.4): "12 ms", taken(12_340): "12 s", taken(3_600_000): "1 h 00 min",
		rate(0): "0", rate(0.04): "<0.1", rate(2.54): "2.5", rate(45.2): "45", rate(12_345): "12k",
		ago(59 * time.Second): "59 s", ago(90 * time.Second): "1 min", ago(25 * time.Hour): "25 h 00 min", ago(72 * time.Hour): "3 days",
		cut("äöü", 2): "ä…", fill("日本", 5): "日本 ", right("7", 3): "  7",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestBrokenScreen: a screen that fails says so, and lines are written again.
func TestBrokenScreen(t *testing.T) {
	var lines strings.Builder
	n := NewNotices(slog.NewTextHandler(&lines, nil), false)
	s := New(Config{
		Status: func() agent.Status { panic("broken") }, Notices: n, Stop: func() {}, Abort: func() {},
		In: strings.NewReader(""), Out: io.Discard, Environ: []string{"TERM=xterm"},
	})
	if err := s.Run(context.Background()); err == nil {
		t.Error("no error")
	}
	slog.New(n.Handler()).Info("go on")
	if !strings.Contains(lines.String(), "go on") {
		t.Error("no line after the screen")
	}
}
