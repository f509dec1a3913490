package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/culvert-tunnel/culvert/internal/agent/inspect"
)

// Times of an event stream.
const (
	newsPause  = 100 * time.Millisecond // between batches of changes at least
	statusWait = time.Second            // between looks at the endpoints
	keepAlive  = 20 * time.Second       // of silence
)

// events sends what happens: "endpoints" with the agent's status when it changes,
// "requests" with those that changed and that the query's filter picks, "cleared".
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	f, err := filter(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	out := &eventWriter{w: w, rc: http.NewResponseController(w)}
	var ready <-chan struct{}
	if s.cfg.Inspector != nil {
		sub := s.cfg.Inspector.Subscribe()
		defer sub.Close()
		ready = sub.Ready()
		defer func() { ready = nil }()
		out.take = sub.Take
	}
	tick := time.NewTicker(statusWait)
	defer tick.Stop()
	var last []byte
	var pause <-chan time.Time
	waiting := ready
	for out.err == nil {
		if status, err := json.Marshal(s.cfg.Agent.Status()); err == nil && !bytes.Equal(status, last) {
			last = status
			out.send("endpoints", status)
		}
		select {
		case <-waiting:
			out.news(f)
			waiting, pause = nil, time.After(newsPause)
		case <-pause:
			waiting, pause = ready, nil
		case <-tick.C:
			out.alive()
		case <-r.Context().Done():
			return
		}
	}
}

// eventWriter writes an event stream (HTML, section 9.2).
type eventWriter struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	take func() inspect.News
	last time.Time
	err  error
}

func (e *eventWriter) send(event string, data []byte) {
	_ = e.rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, e.err = fmt.Fprintf(e.w, "event: %s\ndata: %s\n\n", event, data)
	if e.err == nil {
		e.err = e.rc.Flush()
	}
	e.last = time.Now()
}

// news sends what changed, as far as the filter picks it.
func (e *eventWriter) news(f inspect.Filter) {
	news := e.take()
	if news.Cleared {
		e.send("cleared", []byte("{}"))
	}
	var picked []inspect.Exchange
	for i := range news.Changed {
		if f.Match(&news.Changed[i]) {
			picked = append(picked, news.Changed[i])
		}
	}
	if len(picked) == 0 && news.Skipped == 0 {
		return
	}
	data, err := json.Marshal(struct {
		Requests []inspect.Summary `json:"requests"` // the oldest first
		Skipped  int               `json:"skipped,omitempty"`
	}{summaries(picked), news.Skipped})
	if err == nil {
		e.send("requests", data)
	}
}

// alive shows after some silence that the stream is not dead.
func (e *eventWriter) alive() {
	if time.Since(e.last) >= keepAlive {
		e.send("alive", []byte("{}"))
	}
}
