package inspect

import (
	"encoding/binary"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// http2Conn makes exchanges of HTTP/2 with prior knowledge (RFC 9113). The framing is
// read here and not by x/net's Framer, which reads from a stream when it wants, while
// these bytes come when they come. Without some of the bytes the fields can't be
// decoded any more: a gap ends the capture of the connection.
type http2Conn struct {
	t       *tap
	side    [2]half2
	streams map[uint32]*stream2
	lost    bool
}

// half2 is one direction.
type half2 struct {
	preface int // bytes of it still to come
	header  []byte
	left    int // of the frame's payload
	frame   frame2
	payload []byte // of frames that are read as a whole
	block   []byte // of a header block
	ending  bool   // the block's HEADERS had END_STREAM
	fields  *hpack.Decoder
}

type frame2 struct {
	kind   http2.FrameType
	flags  http2.Flags
	stream uint32
	pad    int // DATA: padding at the end; -1: its length is still to come
}

type stream2 struct {
	x      *Exchange
	reader [2]frameReader
	began  [2]bool // the headers have come, what follows is a trailer
}

// Limits of what is held of one connection.
const (
	maxStreams2 = 4096
	maxFrame2   = 1 << 20 // of frames that are read as a whole
	maxTable    = 64 << 10
)

func newHTTP2(t *tap) *http2Conn {
	h := &http2Conn{t: t, streams: make(map[uint32]*stream2)}
	h.side[toUpstream].preface = len(preface)
	for i := range h.side {
		d := hpack.NewDecoder(4096, nil)
		d.SetAllowedMaxDynamicTableSize(maxTable)
		d.SetMaxStringLength(maxHead)
		h.side[i].fields = d
	}
	return h
}

func (h *http2Conn) feed(dir direction, at time.Time, p []byte) {
	s := &h.side[dir]
	if n := min(s.preface, len(p)); n > 0 {
		s.preface -= n
		p = p[n:]
	}
	for !h.lost && len(p) > 0 {
		if s.left == 0 {
			n := min(9-len(s.header), len(p))
			s.header = append(s.header, p[:n]...)
			p = p[n:]
			if len(s.header) == 9 {
				h.begin(dir, s, at)
			}
			continue
		}
		n := min(s.left, len(p))
		s.left -= n
		if s.frame.kind == http2.FrameData {
			h.data(dir, s, at, p[:n])
		} else if s.payload = append(s.payload, p[:n]...); len(s.payload) > maxFrame2 {
			h.lose(at)
		}
		p = p[n:]
		if s.left == 0 {
			h.finish(dir, s, at)
		}
	}
}

func (h *http2Conn) begin(dir direction, s *half2, at time.Time) {
	b := s.header
	s.left = int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	s.frame = frame2{kind: http2.FrameType(b[3]), flags: http2.Flags(b[4]), stream: binary.BigEndian.Uint32(b[5:]) &^ (1 << 31)}
	if s.frame.kind == http2.FrameData && s.frame.flags.Has(http2.FlagDataPadded) {
		s.frame.pad = -1
	}
	s.header, s.payload = b[:0], s.payload[:0]
	if s.left == 0 {
		h.finish(dir, s, at)
	}
}

// data handles part of a DATA frame's payload.
func (h *http2Conn) data(dir direction, s *half2, at time.Time, p []byte) {
	if s.frame.pad < 0 {
		s.frame.pad = int(p[0])
		p = p[1:]
	}
	if over := s.frame.pad - s.left; over > 0 { // p reaches into the padding
		p = p[:max(0, len(p)-over)]
	}
	st := h.streams[s.frame.stream]
	if st == nil || len(p) == 0 {
		return
	}
	h.t.in.body(st.x, st.x.message(dir), p, -1)
	if r := st.reader[dir]; r != nil {
		r.feed(at, p)
	}
}

// finish handles the end of a frame.
func (h *http2Conn) finish(dir direction, s *half2, at time.Time) {
	f := s.frame
	switch f.kind {
	case http2.FrameData:
		if f.flags.Has(http2.FlagDataEndStream) {
			h.complete(dir, f.stream, at)
		}
	case http2.FrameHeaders:
		block, ok := headersBlock(f.flags, s.payload)
		if !ok {
			h.lose(at)
			return
		}
		s.block, s.ending = append(s.block[:0], block...), f.flags.Has(http2.FlagHeadersEndStream)
		if f.flags.Has(http2.FlagHeadersEndHeaders) {
			h.headers(dir, s, at)
		}
	case http2.FrameContinuation:
		if s.block = append(s.block, s.payload...); len(s.block) > maxFrame2 {
			h.lose(at)
			return
		}
		if f.flags.Has(http2.FlagContinuationEndHeaders) {
			h.headers(dir, s, at)
		}
	case http2.FramePushPromise:
		h.lose(at) // fields that can't be attributed; nobody who proxies allows it
	case http2.FrameRSTStream:
		if st := h.streams[f.stream]; st != nil {
			h.t.failed(st.x, at)
			delete(h.streams, f.stream)
		}
	default:
	}
}

// headersBlock takes padding and priority off a HEADERS payload.
func headersBlock(flags http2.Flags, p []byte) ([]byte, bool) {
	pad := 0
	if flags.Has(http2.FlagHeadersPadded) {
		if len(p) == 0 {
			return nil, false
		}
		pad, p = int(p[0]), p[1:]
	}
	if flags.Has(http2.FlagHeadersPriority) {
		if len(p) < 5 {
			return nil, false
		}
		p = p[5:]
	}
	if pad > len(p) {
		return nil, false
	}
	return p[:len(p)-pad], true
}

// headers handles a whole header block: a request's, an answer's or a trailer.
func (h *http2Conn) headers(dir direction, s *half2, at time.Time) {
	id := s.frame.stream
	pseudo := make(map[string]string)
	var fields strings.Builder
	s.fields.SetEmitFunc(func(f hpack.HeaderField) {
		if strings.HasPrefix(f.Name, ":") {
			pseudo[f.Name] = f.Value
		} else if fields.Len()+len(f.Name)+len(f.Value) < maxHead {
			fields.WriteString(f.Name + ": " + oneLine(f.Value) + "\r\n")
		}
	})
	if _, err := s.fields.Write(s.block); err != nil || s.fields.Close() != nil {
		h.lose(at)
		return
	}
	s.block = s.block[:0]
	st := h.streams[id]
	switch {
	case st == nil && dir == toUpstream && len(h.streams) < maxStreams2:
		h.request(id, pseudo, fields.String(), at)
	case st == nil:
		return
	case st.began[dir]:
		m := st.x.message(dir)
		m.Trailer = fields.String()
		h.t.in.mu.charge(st.x, int64(len(m.Trailer)))
		h.t.in.mu.touch(st.x)
	case dir == toVisitor:
		h.answer(st, pseudo[":status"], fields.String(), at)
	}
	if s.ending {
		h.complete(dir, id, at)
	}
}

// oneLine keeps a value from looking like several fields.
func oneLine(v string) string { return strings.NewReplacer("\r", " ", "\n", " ").Replace(v) }

func (h *http2Conn) request(id uint32, pseudo map[string]string, fields string, at time.Time) {
	f := readFraming(fields)
	method, target := oneLine(pseudo[":method"]), oneLine(pseudo[":path"])
	host := oneLine(pseudo[":authority"])
	head := method + " " + target + " HTTP/2.0\r\n"
	if host != "" {
		head += "host: " + host + "\r\n"
	} else {
		host = f.host
	}
	head += fields + "\r\n"
	x := h.t.began(&Exchange{
		Protocol: "HTTP/2.0", Method: method, Target: target, Host: host, Visitor: firstOf(f.visitor), Start: at,
		Request: Message{Head: head, ContentType: f.contentType, Encoding: f.encoding},
	})
	st := &stream2{x: x}
	st.began[toUpstream] = true
	st.reader[toUpstream] = h.t.bodyReader(x, toUpstream)
	h.streams[id] = st
}

func (h *http2Conn) answer(st *stream2, code, fields string, at time.Time) {
	x := st.x
	if x.FirstByte.IsZero() {
		x.FirstByte = at
	}
	status, err := strconv.ParseUint(code, 10, 16)
	if err != nil || status < 100 || status > 999 {
		status = 0
	}
	h.t.in.mu.touch(x)
	if status >= 100 && status < 200 {
		if len(x.Interim) < 16 {
			x.Interim = append(x.Interim, int(status)) //nolint:gosec // three digits
		}
		return
	}
	f := readFraming(fields)
	x.Status = int(status) //nolint:gosec // three digits
	head := "HTTP/2.0 " + strconv.Itoa(x.Status) + "\r\n" + fields + "\r\n"
	x.Response = Message{Head: head, ContentType: f.contentType, Encoding: f.encoding}
	h.t.in.mu.charge(x, int64(len(x.Response.Head)))
	st.began[toVisitor] = true
	st.reader[toVisitor] = h.t.bodyReader(x, toVisitor)
}

func (h *http2Conn) complete(dir direction, id uint32, at time.Time) {
	st := h.streams[id]
	if st == nil || !st.x.open[dir] {
		return
	}
	h.t.ended(st.x, dir, at)
	if dir == toVisitor {
		delete(h.streams, id)
	}
}

// skipped never happens: every frame's header is needed.
func (h *http2Conn) skipped(direction, time.Time, int) {}

func (h *http2Conn) missed(_ direction, at time.Time, _ int) { h.lose(at) }

func (h *http2Conn) lose(at time.Time) {
	for _, st := range h.streams {
		st.x.Gap = true
		h.t.failed(st.x, at)
	}
	h.lost, h.streams = true, nil
	h.t.skip(toUpstream, unlimited)
	h.t.skip(toVisitor, unlimited)
}

func (h *http2Conn) end(at time.Time) {
	for _, st := range h.streams {
		h.t.failed(st.x, at)
	}
	h.lost, h.streams = true, nil
}
