package api

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/culvert-tunnel/culvert/internal/agent/inspect"
)

// filter reads a filter from a query.
func filter(q url.Values) (inspect.Filter, error) {
	f := inspect.Filter{
		Endpoint: q.Get("endpoint"), Method: q.Get("method"), Path: q.Get("path"), Text: q.Get("text"), Kind: inspect.Kind(q.Get("kind")),
	}
	return f, f.SetStatus(q.Get("status"))
}

// Sizes of pages of a list.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

// number reads a number from a query; absent is 0.
func number(q url.Values, key string) (uint64, error) {
	s := q.Get(key)
	if s == "" {
		return 0, nil
	}
	return strconv.ParseUint(s, 10, 63)
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	f, err := filter(q)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	before, errBefore := number(q, "before")
	limit, errLimit := number(q, "limit")
	if errBefore != nil || errLimit != nil || limit > maxLimit {
		fail(w, http.StatusBadRequest, "before is an id, limit is a number up to 1000")
		return
	}
	if limit == 0 {
		limit = defaultLimit
	}
	found, next := s.cfg.Inspector.List(f, before, int(limit)) //nolint:gosec // up to 1000
	out := struct {
		Requests []inspect.Summary `json:"requests"`       // the newest first
		Next     string            `json:"next,omitempty"` // before which to go on
		Kept     int               `json:"kept"`           // in all
	}{Requests: summaries(found), Kept: s.cfg.Inspector.Stats().Exchanges}
	if next > 0 {
		out.Next = strconv.FormatUint(next, 10)
	}
	answer(w, out)
}

func summaries(list []inspect.Exchange) []inspect.Summary {
	out := make([]inspect.Summary, len(list))
	for i := range list {
		out[i] = list[i].Summary()
	}
	return out
}

func (s *Server) clear(w http.ResponseWriter, _ *http.Request) {
	s.cfg.Inspector.Clear()
	w.WriteHeader(http.StatusNoContent)
}

// find returns the exchange that a path names; ok is false after it has said that
// there is none.
func (s *Server) find(w http.ResponseWriter, r *http.Request) (x inspect.Exchange, ok bool) {
	id, err := strconv.ParseUint(r.PathValue("id"), 10, 63)
	if err == nil {
		x, ok = s.cfg.Inspector.Find(id)
	}
	if !ok {
		fail(w, http.StatusNotFound, inspect.ErrNotFound.Error())
	}
	return x, ok
}

func (s *Server) detail(w http.ResponseWriter, r *http.Request) {
	secrets, ok := s.wantsSecrets(w, r)
	if !ok {
		return
	}
	if x, ok := s.find(w, r); ok {
		answer(w, x.View(secrets))
	}
}

// maxEdit bounds what a replay may be told, in bytes.
const maxEdit = 16 << 20

func (s *Server) replay(w http.ResponseWriter, r *http.Request) {
	x, ok := s.find(w, r)
	if !ok {
		return
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEdit))
	if err != nil {
		fail(w, http.StatusRequestEntityTooLarge, "the edit is too large")
		return
	}
	var edit *inspect.Edit
	if len(b) > 0 {
		if err := json.Unmarshal(b, &edit); err != nil {
			fail(w, http.StatusBadRequest, "the edit is not understood: "+err.Error())
			return
		}
	}
	id, err := s.cfg.Inspector.Replay(r.Context(), s.cfg.Agent.DialUpstream, x.ID, edit)
	switch {
	case err == nil:
		answerStatus(w, http.StatusCreated, map[string]string{"id": strconv.FormatUint(id, 10)})
	case errors.Is(err, inspect.ErrNotFound):
		fail(w, http.StatusNotFound, err.Error())
	case errors.Is(err, inspect.ErrEdit):
		fail(w, http.StatusBadRequest, err.Error())
	case errors.Is(err, inspect.ErrCut), errors.Is(err, inspect.ErrUpgrade), errors.Is(err, inspect.ErrOpen):
		fail(w, http.StatusConflict, err.Error())
	case errors.Is(err, inspect.ErrBusy):
		fail(w, http.StatusTooManyRequests, err.Error())
	default:
		fail(w, http.StatusBadGateway, "the upstream could not be reached: "+err.Error())
	}
}

func (s *Server) curl(w http.ResponseWriter, r *http.Request) {
	secrets, ok := s.wantsSecrets(w, r)
	if !ok {
		return
	}
	x, ok := s.find(w, r)
	if !ok {
		return
	}
	line, err := x.Curl(secrets)
	if err != nil {
		fail(w, http.StatusConflict, err.Error())
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, line)
}

func (s *Server) harOne(w http.ResponseWriter, r *http.Request) {
	secrets, ok := s.wantsSecrets(w, r)
	if !ok {
		return
	}
	if x, ok := s.find(w, r); ok {
		s.sendHAR(w, []inspect.Exchange{x}, secrets)
	}
}

// har sends what a filter picks, the oldest first.
func (s *Server) har(w http.ResponseWriter, r *http.Request) {
	secrets, ok := s.wantsSecrets(w, r)
	if !ok {
		return
	}
	f, err := filter(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	found, _ := s.cfg.Inspector.List(f, 0, maxLimit)
	for i, j := 0, len(found)-1; i < j; i, j = i+1, j-1 {
		found[i], found[j] = found[j], found[i]
	}
	s.sendHAR(w, found, secrets)
}

func (s *Server) sendHAR(w http.ResponseWriter, list []inspect.Exchange, secrets bool) {
	w.Header().Set("Content-Disposition", `attachment; filename="culvert.har"`)
	answer(w, inspect.Archive(list, s.cfg.Version, secrets))
}

// body sends one message's body, decoded, as a file: a browser must not show it here.
func (s *Server) body(w http.ResponseWriter, r *http.Request) {
	secrets, ok := s.wantsSecrets(w, r)
	if !ok {
		return
	}
	x, ok := s.find(w, r)
	if !ok {
		return
	}
	m := &x.Response
	switch r.PathValue("message") {
	case "response":
	case "request":
		m = &x.Request
	default:
		fail(w, http.StatusNotFound, "a message is request or response")
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", "attachment")
	_, _ = w.Write(m.Content(secrets))
}
