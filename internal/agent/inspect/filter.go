package inspect

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
)

// Filter picks exchanges. The zero value picks all.
type Filter struct {
	Endpoint  string
	Method    string
	Path      string // part of the target, in any case
	Text      string // part of heads, bodies as they were sent, or messages, in any case
	Kind      Kind
	MinStatus int
	MaxStatus int
	Failed    bool // only those that have no answer because the connection ended
}

var errBadStatus = errors.New("status is 404, 4xx, 400-499 or failed")

// SetStatus reads a status as a user writes it: 404, 4xx, 400-499, failed.
func (f *Filter) SetStatus(s string) error {
	switch {
	case s == "":
		return nil
	case s == "failed":
		f.Failed = true
		return nil
	case len(s) == 3 && strings.EqualFold(s[1:], "xx") && s[0] >= '1' && s[0] <= '9':
		f.MinStatus = int(s[0]-'0') * 100
		f.MaxStatus = f.MinStatus + 99
		return nil
	}
	first, last, ok := strings.Cut(s, "-")
	if !ok {
		last = first
	}
	a, errA := strconv.ParseUint(first, 10, 16)
	b, errB := strconv.ParseUint(last, 10, 16)
	if errA != nil || errB != nil || a == 0 || b < a {
		return errBadStatus
	}
	f.MinStatus, f.MaxStatus = int(a), int(b) //nolint:gosec // 16 bits
	return nil
}

// Match reports whether x is picked.
func (f *Filter) Match(x *Exchange) bool {
	switch {
	case f.Endpoint != "" && x.Endpoint != f.Endpoint,
		f.Method != "" && !strings.EqualFold(x.Method, f.Method),
		f.Kind != "" && x.Kind != f.Kind,
		f.MinStatus > 0 && (x.Status < f.MinStatus || x.Status > f.MaxStatus),
		f.Failed && x.State != Failed,
		f.Path != "" && !contains([]byte(x.Target), f.Path):
		return false
	}
	return f.Text == "" || f.matchText(x)
}

func (f *Filter) matchText(x *Exchange) bool {
	for _, m := range []*Message{&x.Request, &x.Response} {
		if contains([]byte(m.Head), f.Text) || contains(m.Body, f.Text) || contains([]byte(m.Trailer), f.Text) {
			return true
		}
	}
	for i := range x.Frames {
		if contains(x.Frames[i].Data, f.Text) {
			return true
		}
	}
	return false
}

// contains reports whether text holds part, whatever the case of ASCII letters.
func contains(text []byte, part string) bool {
	if len(text) < len(part) {
		return false
	}
	return bytes.Contains(bytes.ToLower(text), []byte(strings.ToLower(part)))
}
