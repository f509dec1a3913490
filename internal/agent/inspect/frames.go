package inspect

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
	"time"
)

// bodyReader returns what takes the body of a message apart into frames as it comes,
// nil if it is of no such kind.
func (t *tap) bodyReader(x *Exchange, dir direction) frameReader {
	m := x.message(dir)
	media, _, _ := strings.Cut(m.ContentType, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	switch {
	case strings.HasPrefix(media, "application/grpc") && !strings.HasPrefix(media, "application/grpc-web-text"):
		x.Kind = KindGRPC
		return &grpcReader{t: t, x: x, dir: dir}
	case dir == toVisitor && media == "text/event-stream" && (m.Encoding == "" || m.Encoding == "identity"):
		x.Kind = KindEvents
		return &eventReader{t: t, x: x}
	}
	return nil
}

// grpcReader splits a body into gRPC's length-prefixed messages.
type grpcReader struct {
	t      *tap
	x      *Exchange
	dir    direction
	prefix []byte
	frame  Frame
	left   int64 // of the message; the prefix is complete if it or done is set
	inside bool
}

func (r *grpcReader) feed(at time.Time, p []byte) {
	for len(p) > 0 {
		if !r.inside {
			n := min(5-len(r.prefix), len(p))
			r.prefix = append(r.prefix, p[:n]...)
			p = p[n:]
			if len(r.prefix) < 5 {
				return
			}
			r.left = int64(binary.BigEndian.Uint32(r.prefix[1:]))
			r.frame = Frame{
				At: at, ToVisitor: r.dir == toVisitor, Type: "message", Size: r.left,
				Compressed: r.prefix[0]&1 != 0, Opaque: r.prefix[0]&1 != 0,
			}
			if r.prefix[0]&0x80 != 0 {
				r.frame.Type = "trailer" // of gRPC-Web
			}
			r.prefix, r.inside = r.prefix[:0], true
		}
		n := min(r.left, int64(len(p)))
		r.frame.keep(p[:n], r.t.in.cfg.Body)
		p = p[n:]
		r.passed(n)
	}
	r.passed(0)
}

func (r *grpcReader) passed(n int64) {
	if r.left -= n; r.inside && r.left == 0 {
		r.inside = false
		r.t.in.frame(r.x, r.frame)
	}
}

func (r *grpcReader) skipped(_ time.Time, n int) {
	r.frame.Cut = true
	r.passed(int64(n))
}

func (r *grpcReader) free() int64 {
	if r.inside && r.frame.Cut {
		return r.left
	}
	return 0
}

func (r *grpcReader) end(time.Time) {}

// keep appends to the frame's data up to a limit.
func (f *Frame) keep(p []byte, limit int64) {
	if room := limit - int64(len(f.Data)); int64(len(p)) > room {
		p, f.Cut = p[:max(room, 0)], true
	}
	f.Data = append(f.Data, p...)
}

// eventReader takes an event stream apart (HTML, section 9.2.6).
type eventReader struct {
	t     *tap
	x     *Exchange
	line  []byte
	long  bool // the line is longer than what is kept
	cr    bool // the last byte was a CR, whose LF is part of the same end
	frame Frame
	any   bool // the event has data
}

func (r *eventReader) feed(at time.Time, p []byte) {
	for len(p) > 0 {
		if r.cr {
			r.cr = false
			if p[0] == '\n' {
				p = p[1:]
				continue
			}
		}
		i := bytes.IndexAny(p, "\r\n")
		if i < 0 {
			r.grow(p)
			return
		}
		r.grow(p[:i])
		r.cr = p[i] == '\r'
		p = p[i+1:]
		r.endLine(at)
	}
}

func (r *eventReader) grow(p []byte) {
	if room := r.t.in.cfg.Body - int64(len(r.line)); int64(len(p)) > room {
		p, r.long = p[:room], true
	}
	r.line = append(r.line, p...)
}

func (r *eventReader) endLine(at time.Time) {
	line, long := r.line, r.long
	r.line, r.long = r.line[:0], false
	if len(line) == 0 {
		if r.any {
			r.frame.At, r.frame.ToVisitor, r.frame.Type = at, true, "event"
			if r.frame.Event == "" {
				r.frame.Event = "message"
			}
			r.t.in.frame(r.x, r.frame)
		}
		r.frame, r.any = Frame{ID: r.frame.ID}, false
		return
	}
	field, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch string(field) {
	case "event":
		r.frame.Event = string(value[:min(len(value), 256)])
	case "id":
		r.frame.ID = string(value[:min(len(value), 256)])
	case "data":
		if r.any {
			r.frame.keep([]byte("\n"), r.t.in.cfg.Body)
			r.frame.Size++
		}
		r.any = true
		r.frame.keep(value, r.t.in.cfg.Body)
		r.frame.Size += int64(len(value))
		r.frame.Cut = r.frame.Cut || long
	}
}

// skipped never happens: events may come at any time, so that all bytes are needed.
func (r *eventReader) skipped(time.Time, int) {}
func (r *eventReader) free() int64            { return 0 }
func (r *eventReader) end(time.Time)          {}

// unlimited is how much may be skipped of what nobody reads.
const unlimited = math.MaxInt64 / 2
