package screen

import (
	"slices"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/agent/inspect"
)

// sight is what there is to be seen at a moment.
type sight struct {
	at       time.Time
	status   agent.Status
	requests []inspect.Summary // the newest first
	captured uint64            // requests, ever
	kept     int
	in, out  int64   // bytes
	rate     float64 // requests, or connections, per second
	notices  []Notice
}

// page is which of its pages the screen shows.
type page uint8

const (
	pageStatus page = iota
	pageQR
	pageHelp
)

// model implements tea.Model.
type model struct {
	cfg           Config
	sight         sight
	rates         meter
	width, height int
	dark          bool // the terminal's background
	page          page
	chosen        string // name of the endpoint that q and c are for; empty: the first
	said          string // an answer to a key
	saidUntil     time.Time
	changed       time.Time // when something last happened
	stopped       time.Time // when the drain was asked for
	aborted       bool
}

func newModel(cfg Config) model { return model{cfg: cfg, dark: true, width: 80, height: 24} }

type tick time.Time

// Pauses between looks: short while things happen, long while nothing does.
const (
	soon   = 100 * time.Millisecond // until all is online for the first time
	busy   = 250 * time.Millisecond
	idle   = time.Second
	calm   = 5 * time.Second // after the last change, until it is called idle
	saying = 3 * time.Second
)

// Init implements tea.Model.
func (m model) Init() tea.Cmd {
	return tea.Batch(tea.RequestBackgroundColor, func() tea.Msg { return tick(time.Now()) })
}

// Update implements tea.Model.
func (m model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tick:
		m.look(time.Time(msg))
		return m, tea.Tick(m.pause(), func(t time.Time) tea.Msg { return tick(t) })
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.BackgroundColorMsg:
		m.dark = msg.IsDark()
	case tea.KeyPressMsg:
		return m.key(msg.String())
	}
	return m, nil
}

// pause is how long until the next look.
func (m model) pause() time.Duration {
	switch {
	case slices.ContainsFunc(m.sight.status.Endpoints, func(e agent.EndpointStatus) bool { return e.URL == "" && e.Error == "" }):
		return soon
	case m.sight.at.Sub(m.changed) < calm:
		return busy
	}
	return idle
}

// maxRequests are shown at most.
const maxRequests = 100

// look asks what there is to be seen.
func (m *model) look(now time.Time) {
	last := m.sight
	m.sight = sight{at: now, status: m.cfg.Status(), notices: m.cfg.Notices.List()}
	var done uint64
	for _, e := range m.sight.status.Endpoints {
		done += uint64(max(0, e.Visits))
		if m.cfg.Inspector == nil || e.Kind != "http" {
			m.sight.in, m.sight.out = m.sight.in+e.BytesIn, m.sight.out+e.BytesOut
		}
	}
	if in := m.cfg.Inspector; in != nil {
		stats := in.Stats()
		m.sight.captured, m.sight.kept = stats.Captured, stats.Exchanges
		// The agent counts what has ended, which connections that are kept do late.
		m.sight.in, m.sight.out = m.sight.in+stats.ToUpstream, m.sight.out+stats.ToVisitors
		done = stats.Captured
		open := slices.ContainsFunc(last.requests, func(r inspect.Summary) bool { return r.State == inspect.Open })
		m.sight.requests = last.requests
		if open || stats.Captured != last.captured || stats.Exchanges != last.kept {
			m.sight.requests = nil
			list, _ := in.List(inspect.Filter{}, 0, maxRequests)
			for i := range list {
				m.sight.requests = append(m.sight.requests, list[i].Summary())
			}
			m.changed = now
		}
	}
	if m.sight.status.Connected != last.status.Connected || len(m.sight.notices) != len(last.notices) || !m.stopped.IsZero() {
		m.changed = now
	}
	m.sight.rate = m.rates.add(now, done)
	if m.sight.rate > 0 {
		m.changed = now // it sinks
	}
	if m.sight.status.Draining && m.stopped.IsZero() {
		m.stopped = now // by a signal
	}
	if now.After(m.saidUntil) {
		m.said = ""
	}
}

// key does what a key is for.
func (m model) key(key string) (tea.Model, tea.Cmd) {
	switch key {
	case "ctrl+c":
		switch {
		case m.aborted:
			return m, tea.Quit
		case !m.stopped.IsZero():
			m.aborted = true
			m.cfg.Abort()
		default:
			m.stopped = time.Now()
			m.cfg.Stop()
		}
	case "ctrl+z":
		return m, tea.Suspend
	case "q":
		m.page = toggled(m.page, pageQR)
	case "?", "h":
		m.page = toggled(m.page, pageHelp)
	case "esc", "enter":
		m.page = pageStatus
	case "c":
		if e := m.endpoint(); e != nil && e.URL != "" {
			url := cleanURL(e.URL)
			m.said, m.saidUntil = "sent to the clipboard: "+url, time.Now().Add(saying)
			return m, tea.SetClipboard(url)
		}
	case "x", "X":
		m.cfg.Notices.Dismiss(key == "X")
		m.sight.notices = m.cfg.Notices.List()
	case "down", "j", "tab":
		m.choose(1)
	case "up", "k", "shift+tab":
		m.choose(-1)
	case "pgdown":
		m.choose(10)
	case "pgup":
		m.choose(-10)
	case "home":
		m.choose(-len(m.sight.status.Endpoints))
	case "end":
		m.choose(len(m.sight.status.Endpoints))
	}
	return m, nil
}

func toggled(now, to page) page {
	if now == to {
		return pageStatus
	}
	return to
}

// at is where the chosen endpoint stands; the first if it is gone.
func (m model) at() int {
	return max(0, slices.IndexFunc(m.sight.status.Endpoints, func(e agent.EndpointStatus) bool { return e.Name == m.chosen }))
}

// choose chooses another endpoint, by steps.
func (m *model) choose(by int) {
	if n := len(m.sight.status.Endpoints); n > 0 {
		m.chosen = m.sight.status.Endpoints[min(max(m.at()+by, 0), n-1)].Name
	}
}

// endpoint is the chosen one; nil if there is none.
func (m model) endpoint() *agent.EndpointStatus {
	if len(m.sight.status.Endpoints) == 0 {
		return nil
	}
	return &m.sight.status.Endpoints[m.at()]
}

// View implements tea.Model.
func (m model) View() tea.View {
	v := tea.NewView(m.frame())
	v.AltScreen = true
	v.WindowTitle = m.title()
	return v
}

// meter measures how often something happens, over the last few seconds.
type meter struct{ seen []seen }

type seen struct {
	at time.Time
	n  uint64
}

// meterSpan is what a rate is measured over.
const meterSpan = 5 * time.Second

// add notes a count and returns the rate.
func (r *meter) add(now time.Time, n uint64) float64 {
	r.seen = append(slices.Clone(r.seen), seen{now, n})
	for len(r.seen) > 2 && now.Sub(r.seen[1].at) >= meterSpan {
		r.seen = r.seen[1:]
	}
	first := r.seen[0]
	if n <= first.n || !now.After(first.at) {
		return 0
	}
	return float64(n-first.n) / max(now.Sub(first.at), time.Second).Seconds()
}
