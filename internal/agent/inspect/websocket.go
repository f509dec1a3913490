package inspect

import (
	"bytes"
	"encoding/binary"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/flate"
)

// webSocket takes one direction of a WebSocket apart (RFC 6455, section 5), with
// messages compressed as in RFC 7692.
type webSocket struct {
	t   *tap
	x   *Exchange
	dir direction

	header  []byte
	payload int64 // left of the frame under way
	inside  bool
	masked  bool
	mask    [4]byte
	at      int // in the payload, for the mask
	final   bool
	control bool
	broken  bool // no WebSocket after all

	message  Frame // under way, possibly over several frames
	fragment bool  // message has begun
	ctl      Frame // control frame, which may come between a message's frames

	deflate  bool   // compression was agreed on
	takeover bool   // … and messages refer to earlier ones
	window   []byte // the last output, for takeover
	opaque   bool   // the window is lost
}

// windowSize of deflate.
const windowSize = 32 << 10

// maxInflated bounds a decompressed message, in bytes: beyond it the window is lost.
const maxInflated = 4 << 20

func newWebSocket(t *tap, x *Exchange, dir direction, extensions string) *webSocket {
	w := &webSocket{t: t, x: x, dir: dir}
	if strings.Contains(extensions, "permessage-deflate") {
		own := "client_no_context_takeover"
		if dir == toVisitor {
			own = "server_no_context_takeover"
		}
		w.deflate, w.takeover = true, !strings.Contains(extensions, own)
	}
	return w
}

func (w *webSocket) feed(at time.Time, p []byte) {
	for len(p) > 0 && !w.broken {
		if !w.inside {
			w.header = append(w.header, p[0])
			p = p[1:]
			if w.readHeader(at) && w.payload == 0 {
				w.endFrame()
			}
			continue
		}
		n := min(w.payload, int64(len(p)))
		w.take(p[:n])
		p = p[n:]
		w.passed(n)
	}
}

// readHeader reads the frame's header once it is complete, and reports that.
func (w *webSocket) readHeader(at time.Time) bool {
	h := w.header
	if len(h) < 2 {
		return false
	}
	need, length := 2, int64(h[1]&0x7f)
	switch length {
	case 126:
		need = 4
	case 127:
		need = 10
	}
	w.masked = h[1]&0x80 != 0
	if w.masked {
		need += 4
	}
	if len(h) < need {
		return false
	}
	switch length {
	case 126:
		length = int64(binary.BigEndian.Uint16(h[2:]))
	case 127:
		length = int64(binary.BigEndian.Uint64(h[2:]) & (1<<63 - 1)) //nolint:gosec // 63 bits
	}
	if w.masked {
		copy(w.mask[:], h[need-4:])
	}
	w.final, w.control = h[0]&0x80 != 0, h[0]&0x08 != 0
	opcode := h[0] & 0x0f
	compressed := h[0]&0x40 != 0
	w.header, w.payload, w.inside, w.at = h[:0], length, true, 0
	frame := Frame{At: at, ToVisitor: w.dir == toVisitor}
	switch opcode {
	case 0x0:
		w.broken = !w.fragment
	case 0x1, 0x2:
		w.broken = w.fragment
		frame.Type = [...]string{1: "text", 2: "binary"}[opcode]
		frame.Compressed = compressed && w.deflate
		w.message, w.fragment = frame, true
	case 0x8, 0x9, 0xa:
		w.broken = length > 125
		frame.Type = [...]string{8: "close", 9: "ping", 10: "pong"}[opcode]
		w.ctl = frame
	default:
		w.broken = true
	}
	if w.broken {
		w.x.Gap = true
	}
	return !w.broken
}

// current is the frame that payload belongs to.
func (w *webSocket) current() *Frame {
	if w.control {
		return &w.ctl
	}
	return &w.message
}

func (w *webSocket) take(p []byte) {
	f := w.current()
	f.Size += int64(len(p))
	from := len(f.Data)
	f.keep(p, w.t.in.cfg.Body)
	if w.masked {
		for i := range f.Data[from:] {
			f.Data[from+i] ^= w.mask[(w.at+i)&3]
		}
	}
	w.at = (w.at + len(p)) & 3
}

func (w *webSocket) passed(n int64) {
	if w.payload -= n; w.payload == 0 {
		w.endFrame()
	}
}

func (w *webSocket) endFrame() {
	w.inside = false
	switch {
	case w.control:
		f := w.ctl
		if f.Type == "close" && len(f.Data) >= 2 {
			f.Data = append(strconv.AppendUint(nil, uint64(binary.BigEndian.Uint16(f.Data)), 10), append([]byte(" "), f.Data[2:]...)...)
			f.Data = bytes.TrimSpace(f.Data)
		}
		w.t.in.frame(w.x, f)
	case w.final:
		f := w.message
		w.message, w.fragment = Frame{}, false
		if f.Compressed {
			w.inflate(&f)
		}
		w.t.in.frame(w.x, f)
	}
}

// inflate decompresses a message (RFC 7692, section 7.2.2).
func (w *webSocket) inflate(f *Frame) {
	if f.Cut || w.opaque {
		f.Opaque = true
		w.opaque = w.takeover
		return
	}
	in := io.MultiReader(bytes.NewReader(f.Data), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))
	out, err := io.ReadAll(io.LimitReader(flate.NewReaderDict(in, w.window), maxInflated+1))
	if err != nil || len(out) > maxInflated {
		f.Opaque = true
		w.opaque = w.takeover
		return
	}
	if w.takeover {
		all := append(w.window, out...)
		w.window = bytes.Clone(all[max(0, len(all)-windowSize):])
	}
	f.Data, f.Size = nil, int64(len(out))
	f.keep(out, w.t.in.cfg.Body)
}

func (w *webSocket) skipped(_ time.Time, n int) {
	if w.broken || !w.inside {
		return
	}
	f := w.current()
	f.Cut = true
	f.Size += int64(n)
	w.at = (w.at + n) & 3
	w.passed(int64(n))
}

func (w *webSocket) free() int64 {
	switch {
	case w.broken:
		return unlimited
	case w.inside && w.current().Cut:
		return w.payload
	}
	return 0
}

func (w *webSocket) end(time.Time) {}
