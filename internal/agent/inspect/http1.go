package inspect

import (
	"bytes"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// http1 makes exchanges of HTTP/1.1 on a connection that is kept alive. It follows
// RFC 9112, section 6.3 for where a message ends. When it meets what it can't read, or
// bytes are missing, it loses its place, and finds it again at the next request that
// follows an answer.
type http1 struct {
	t    *tap
	side [2]half1
	open []*Exchange // asked and not wholly answered, in order
	last direction   // of the piece before
}

type state1 int

const (
	inHead state1 = iota
	inBody        // left bytes of it
	inChunkSize
	inChunk
	inChunkEnd
	inTrailer
	untilClose
	upgraded
	lost
)

// half1 is one direction.
type half1 struct {
	state   state1
	partial []byte // of a head or line
	began   time.Time
	left    int64
	offset  int64     // of the next byte, from the beginning of the connection
	x       *Exchange // whose message is under way
	reader  frameReader
}

// frameReader takes the bytes of a body, or of what follows an upgrade, apart. free
// returns how many of the next bytes it needs no copy of.
type frameReader interface {
	feed(at time.Time, p []byte)
	skipped(at time.Time, n int)
	free() int64
	end(at time.Time)
}

// worthSkipping is the least number of bytes that the tap is told to skip.
const worthSkipping = 32 << 10

func newHTTP1(t *tap) *http1 { return &http1{t: t} }

func (h *http1) feed(dir direction, at time.Time, p []byte) {
	s := &h.side[dir]
	if s.state == lost && dir == toUpstream && h.last == toVisitor {
		if line, _, _ := bytes.Cut(p, []byte("\n")); isRequest(strings.TrimSuffix(string(line[:min(len(line), maxHead)]), "\r")) {
			h.restart()
		}
	}
	h.last = dir
	for len(p) > 0 {
		n := h.step(dir, s, at, p)
		s.offset += int64(n)
		p = p[n:]
	}
	h.skipAhead(dir, s)
}

func isRequest(line string) bool {
	_, _, _, ok := requestLine(line)
	return ok
}

// restart forgets what was under way.
func (h *http1) restart() {
	for i := range h.side {
		h.side[i] = half1{offset: h.side[i].offset}
	}
	h.open = nil
}

// step handles the first bytes of p and returns how many.
func (h *http1) step(dir direction, s *half1, at time.Time, p []byte) int {
	switch s.state {
	case inHead:
		return h.stepHead(dir, s, at, p)
	case inBody, inChunk:
		n := int(min(s.left, int64(len(p))))
		h.payload(dir, s, at, p[:n])
		h.advance(dir, s, at, n)
		return n
	case inChunkSize, inChunkEnd, inTrailer:
		return h.stepLine(dir, s, at, p)
	case untilClose:
		h.payload(dir, s, at, p)
	case upgraded:
		s.x.message(dir).Size += int64(len(p))
		h.t.in.mu.touch(s.x)
		if s.reader != nil {
			s.reader.feed(at, p)
		}
	case lost:
	}
	return len(p)
}

// advance notes that n bytes of a body or chunk have passed.
func (h *http1) advance(dir direction, s *half1, at time.Time, n int) {
	if s.left -= int64(n); s.left > 0 {
		return
	}
	if s.state == inChunk {
		s.state = inChunkEnd
		return
	}
	h.complete(dir, s, at)
}

func (h *http1) payload(dir direction, s *half1, at time.Time, p []byte) {
	h.t.in.body(s.x, s.x.message(dir), p, s.left)
	if s.reader != nil {
		s.reader.feed(at, p)
	}
}

// message is the one that goes in a direction.
func (x *Exchange) message(dir direction) *Message {
	if dir == toUpstream {
		return &x.Request
	}
	return &x.Response
}

var blankLine = []byte("\r\n\r\n")

func (h *http1) stepHead(dir direction, s *half1, at time.Time, p []byte) int {
	if len(s.partial) == 0 {
		if skip := len(p) - len(bytes.TrimLeft(p, "\r\n")); skip > 0 {
			return skip // RFC 9112, section 2.2
		}
		s.began = at
		if i := bytes.Index(p, blankLine); i >= 0 {
			h.head(dir, s, at, p[:i+len(blankLine)])
			return i + len(blankLine)
		}
		s.partial = append(s.partial, p...)
		h.boundPartial(dir, s, at)
		return len(p)
	}
	had := len(s.partial)
	s.partial = append(s.partial, p...)
	from := max(0, had-len(blankLine)+1)
	i := bytes.Index(s.partial[from:], blankLine)
	if i < 0 {
		h.boundPartial(dir, s, at)
		return len(p)
	}
	end := from + i + len(blankLine)
	head := s.partial[:end]
	s.partial = nil
	h.head(dir, s, at, head)
	return end - had
}

func (h *http1) boundPartial(dir direction, s *half1, at time.Time) {
	if len(s.partial) > maxHead {
		h.lose(dir, at)
	}
}

// stepLine handles a line of the chunked coding (RFC 9112, section 7.1).
func (h *http1) stepLine(dir direction, s *half1, at time.Time, p []byte) int {
	i := bytes.IndexByte(p, '\n')
	if i < 0 {
		s.partial = append(s.partial, p...)
		h.boundPartial(dir, s, at)
		return len(p)
	}
	line := p[:i+1]
	if len(s.partial) > 0 {
		line = append(s.partial, line...) //nolint:gocritic // partial is given up
		s.partial = nil
	}
	text := bytes.TrimRight(line, "\r\n")
	switch s.state {
	case inChunkEnd:
		s.state = inChunkSize
		if len(text) > 0 {
			h.lose(dir, at)
		}
	case inChunkSize:
		size, _, _ := bytes.Cut(text, []byte(";"))
		n, err := strconv.ParseUint(string(bytes.TrimSpace(size)), 16, 62)
		switch {
		case err != nil:
			h.lose(dir, at)
		case n == 0:
			s.state = inTrailer
		default:
			s.state, s.left = inChunk, int64(n) //nolint:gosec // 62 bits
		}
	default: // inTrailer
		if len(text) == 0 {
			h.complete(dir, s, at)
			break
		}
		m := s.x.message(dir)
		if !s.x.dropped && len(m.Trailer)+len(line) <= maxHead {
			m.Trailer += string(line)
			h.t.in.mu.charge(s.x, int64(len(line)))
		}
	}
	return i + 1
}

// head handles a complete head, which it copies.
func (h *http1) head(dir direction, s *half1, at time.Time, head []byte) {
	text := string(head)
	line, fields := cutLine(text)
	f := readFraming(fields)
	if dir == toUpstream {
		h.requestHead(s, at, text, line, f)
	} else {
		h.answerHead(s, at, text, line, f)
	}
}

func (h *http1) requestHead(s *half1, at time.Time, head, line string, f framing) {
	method, target, version, ok := requestLine(line)
	if !ok {
		h.lose(toUpstream, at)
		return
	}
	x := h.t.began(&Exchange{
		Protocol: version, Method: method, Target: target, Host: f.host, Visitor: firstOf(f.visitor), Start: s.began,
		Request: Message{Head: head, ContentType: f.contentType, Encoding: f.encoding},
	})
	h.open = append(h.open, x)
	s.x = x
	s.reader = h.t.bodyReader(x, toUpstream)
	switch {
	case f.chunked:
		s.state = inChunkSize
	case f.length > 0:
		s.state, s.left = inBody, f.length
	default:
		h.complete(toUpstream, s, at)
	}
}

// firstOf is the first element of a list.
func firstOf(list string) string {
	first, _, _ := strings.Cut(list, ",")
	return strings.TrimSpace(first)
}

func (h *http1) answerHead(s *half1, at time.Time, head, line string, f framing) {
	status, ok := statusLine(line)
	if !ok || len(h.open) == 0 {
		h.lose(toVisitor, at)
		return
	}
	x := h.open[0]
	if x.FirstByte.IsZero() {
		x.FirstByte = s.began
	}
	if status < 200 && status != http.StatusSwitchingProtocols {
		if len(x.Interim) < 16 {
			x.Interim = append(x.Interim, status)
		}
		h.t.in.mu.touch(x)
		return
	}
	x.Status = status
	x.Response = Message{Head: head, ContentType: f.contentType, Encoding: f.encoding}
	h.t.in.mu.charge(x, int64(len(head)))
	h.t.in.mu.touch(x)
	s.x = x
	s.reader = h.t.bodyReader(x, toVisitor)
	switch {
	case status == http.StatusSwitchingProtocols:
		h.upgrade(f)
	case x.Method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified:
		h.complete(toVisitor, s, at)
	case f.chunked:
		s.state = inChunkSize
	case f.length == 0:
		h.complete(toVisitor, s, at)
	case f.length > 0:
		s.state, s.left = inBody, f.length
	default:
		s.state = untilClose
	}
}

// upgrade gives both directions to the protocol that was agreed on.
func (h *http1) upgrade(f framing) {
	x := h.open[0]
	for dir := range h.side {
		s := &h.side[dir]
		s.state, s.x, s.reader = upgraded, x, nil
		if f.upgrade == "websocket" {
			x.Kind = KindWebSocket
			s.reader = newWebSocket(h.t, x, direction(dir), f.extensions)
		}
	}
	// What the visitor sent behind its request was held back as the next head.
	if s := &h.side[toUpstream]; len(s.partial) > 0 {
		early := s.partial
		s.partial = nil
		h.step(toUpstream, s, s.began, early)
	}
}

// complete ends the message of a direction.
func (h *http1) complete(dir direction, s *half1, at time.Time) {
	x := s.x
	if s.reader != nil {
		s.reader.end(at)
	}
	h.t.ended(x, dir, at)
	s.state, s.x, s.reader = inHead, nil, nil
	if dir == toVisitor {
		h.open = h.open[1:]
	}
}

func (h *http1) skipped(dir direction, at time.Time, n int) {
	s := &h.side[dir]
	s.offset += int64(n)
	h.last = dir
	switch s.state {
	case inBody, inChunk, untilClose, upgraded:
		m := s.x.message(dir)
		m.Size += int64(n)
		m.Cut = m.Cut || s.state != upgraded
		h.t.in.mu.touch(s.x)
		if s.reader != nil {
			s.reader.skipped(at, n)
		}
		if s.state == inBody || s.state == inChunk {
			h.advance(dir, s, at, n)
		}
	default:
	}
}

// skipAhead tells the tap of bytes that are not needed: of a body that is kept as far
// as it may be.
func (h *http1) skipAhead(dir direction, s *half1) {
	n := int64(0)
	switch s.state {
	case inBody, inChunk:
		n = s.left
	case untilClose:
		n = math.MaxInt64 - s.offset
	case upgraded:
		n = math.MaxInt64 - s.offset
	default:
		return
	}
	if s.state != upgraded && !s.x.message(dir).Cut && !s.x.dropped {
		return
	}
	if s.reader != nil {
		n = min(n, s.reader.free())
	}
	if n >= worthSkipping {
		h.t.skip(dir, s.offset+n)
	}
}

func (h *http1) missed(dir direction, at time.Time, n int) {
	h.lose(dir, at)
	h.side[dir].offset += int64(n)
}

// lose gives up what is under way: where the next message begins is not known.
func (h *http1) lose(dir direction, at time.Time) {
	for _, x := range h.open {
		x.Gap = true
		h.t.failed(x, at)
	}
	if x := h.side[toUpstream].x; x != nil {
		x.Gap = true
	}
	h.restart()
	h.side[toUpstream].state, h.side[toVisitor].state = lost, lost
	h.last = dir
}

func (h *http1) end(at time.Time) {
	s := &h.side[toVisitor]
	if s.state == untilClose {
		h.complete(toVisitor, s, at)
	}
	if s.state == upgraded {
		for dir := range h.side {
			if s := &h.side[dir]; s.reader != nil {
				s.reader.end(at)
			}
			h.t.ended(h.open[0], direction(dir), at)
		}
		h.open = nil
	}
	for _, x := range h.open {
		h.t.failed(x, at)
	}
	h.open = nil
	h.side[toUpstream], h.side[toVisitor] = half1{state: lost}, half1{state: lost}
}
