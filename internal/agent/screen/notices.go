package screen

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Notice is a warning or an error that the log would have shown.
type Notice struct {
	At    time.Time // of the last one
	Level slog.Level
	Text  string
	Count int // of the same text, in a row
}

// maxNotices are kept.
const maxNotices = 50

// Notices takes an agent's log. While a screen is shown, warnings are kept for it, and
// what is less is dropped; otherwise all goes to the handler it was made with.
type Notices struct {
	lines slog.Handler
	also  bool // lines gets everything all the time: it is not on the terminal
	shown atomic.Bool

	mu struct {
		sync.Mutex
		list []Notice // the oldest first
	}
}

// NewNotices makes one in front of lines for a screen that is about to be shown. also
// says that lines are written elsewhere than the screen, and so go on.
func NewNotices(lines slog.Handler, also bool) *Notices {
	n := &Notices{lines: lines, also: also}
	n.shown.Store(true)
	return n
}

// Handler returns what a logger is made of.
func (n *Notices) Handler() slog.Handler { return &handler{notices: n, lines: n.lines} }

// release lets log lines go where they went.
func (n *Notices) release() { n.shown.Store(false) }

// List returns the notices, the newest first.
func (n *Notices) List() []Notice {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := slices.Clone(n.mu.list)
	slices.Reverse(list)
	return list
}

// Dismiss forgets the newest notice, or all.
func (n *Notices) Dismiss(all bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := len(n.mu.list); l > 0 && !all {
		n.mu.list = n.mu.list[:l-1]
		return
	}
	n.mu.list = nil
}

func (n *Notices) add(notice Notice) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := len(n.mu.list); l > 0 && n.mu.list[l-1].Text == notice.Text {
		notice.Count += n.mu.list[l-1].Count
		n.mu.list[l-1] = notice
		return
	}
	if n.mu.list = append(n.mu.list, notice); len(n.mu.list) > maxNotices {
		n.mu.list = slices.Delete(n.mu.list, 0, 1)
	}
}

// handler is a slog.Handler with the attributes that With has given it.
type handler struct {
	notices *Notices
	lines   slog.Handler
	attrs   []slog.Attr
}

// Enabled implements slog.Handler.
func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.notices.shown.Load() && level >= slog.LevelWarn || h.toLines() && h.lines.Enabled(ctx, level)
}

func (h *handler) toLines() bool { return h.notices.also || !h.notices.shown.Load() }

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	if h.notices.shown.Load() && r.Level >= slog.LevelWarn {
		h.notices.add(Notice{At: r.Time, Level: r.Level, Text: h.text(r), Count: 1})
	}
	if h.toLines() && h.lines.Enabled(ctx, r.Level) {
		return h.lines.Handle(ctx, r)
	}
	return nil
}

// quiet are attributes that tell a person in front of the screen nothing.
var quiet = []string{"session", "code", "server", "retry_in"}

// text makes a sentence of a record: what happened, to what, and why.
func (h *handler) text(r slog.Record) string {
	var of, why []string
	each := func(a slog.Attr) bool {
		switch v := a.Value.Resolve().String(); {
		case a.Key == "error" || a.Key == "message":
			why = append(why, v)
		case !slices.Contains(quiet, a.Key):
			of = append(of, a.Key+" "+v)
		}
		return true
	}
	for _, a := range h.attrs {
		each(a)
	}
	r.Attrs(each)
	s := r.Message
	if len(of) > 0 {
		s += " (" + strings.Join(of, ", ") + ")"
	}
	if len(why) > 0 {
		s += ": " + strings.Join(why, ": ")
	}
	return clean(s)
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{notices: h.notices, lines: h.lines.WithAttrs(attrs), attrs: slices.Concat(h.attrs, attrs)}
}

// WithGroup implements slog.Handler. A sentence has no groups.
func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{notices: h.notices, lines: h.lines.WithGroup(name), attrs: h.attrs}
}
