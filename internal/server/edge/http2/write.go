package http2

import (
	"encoding/binary"
	"runtime"
	"strconv"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
	"github.com/culvert-tunnel/culvert/internal/splice"
)

// flush lets what is to be said leave.
func (c *Conn) flush() {
	c.mu.Lock()
	c.kickLocked()
	c.mu.Unlock()
}

// kickLocked sees to it that a goroutine writes what there is.
func (c *Conn) kickLocked() {
	if len(c.mu.out) > 0 && !c.mu.writing {
		c.mu.writing = true
		c.handlers.Add(1)
		c.crew.Go(c.write)
	}
}

// write writes until there is nothing more to be written.
func (c *Conn) write() {
	defer c.handlers.Done()
	runtime.Gosched() // streams that are about to say something too go first
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.mu.out) > 0 {
		b := c.mu.out
		c.mu.out, c.mu.spare, c.mu.control = c.mu.spare, nil, 0
		c.mu.writes++
		c.pumpLocked() // others can get on meanwhile
		c.mu.Unlock()
		_, err := c.net.Write(b)
		c.mu.Lock()
		c.mu.spare = b[:0]
		if err != nil {
			c.mu.out = nil
			c.stopLocked(err)
		}
	}
	c.mu.writing = false
	putOut(c.mu.out)
	putOut(c.mu.spare)
	c.mu.out, c.mu.spare = nil, nil
	if c.mu.ended {
		_ = splice.CloseWrite(c.net)
	}
	c.leaveLocked()
}

// outs are buffers for what is to be written. Idle connections hold none.
var outs = sync.Pool{New: func() any { return new([maxOut + frameSize]byte) }}

func getOut() []byte { return outs.Get().(*[maxOut + frameSize]byte)[:0] }

func putOut(b []byte) {
	if cap(b) == maxOut+frameSize {
		outs.Put((*[maxOut + frameSize]byte)(b[:cap(b)]))
	}
}

// controlLocked makes room for a frame that no stream waits with, and reports whether it
// may be sent.
func (c *Conn) controlLocked() bool {
	if c.mu.ended {
		return false
	}
	if c.mu.control > maxUnread {
		c.stopLocked(fault{http2.ErrCodeEnhanceYourCalm, "what is answered is not read"})
		return false
	}
	if c.mu.out == nil {
		c.mu.out = getOut()
	}
	c.mu.control += 32
	return true
}

// resetLocked tells the visitor that a stream is over.
func (c *Conn) resetLocked(id uint32, code http2.ErrCode) {
	if !c.controlLocked() {
		return
	}
	c.mu.resets[c.mu.reset%len(c.mu.resets)] = id
	c.mu.reset++
	_ = c.mu.frames.WriteRSTStream(id, code)
}

// piece is what a stream waits with: a head, or a part of the body.
type piece struct {
	status int // of an answer's head; 0: a trailer section, if there are fields
	fields []http1.Field
	data   []byte
	end    bool // of the stream
}

func (p *piece) isHead() bool { return p.status != 0 || p.fields != nil }

// readyLocked puts a stream that has something to send in the queue.
func (c *Conn) readyLocked(s *Stream) {
	if s.sending && !s.queued && (s.window > 0 || s.piece.isHead() || len(s.piece.data) == 0) {
		s.queued = true
		c.mu.ready = append(c.mu.ready, s)
	}
}

// pumpLocked takes what fits of what streams wait with, a frame of each at a time.
func (c *Conn) pumpLocked() {
	i, stalled := 0, 0
	for ; i < len(c.mu.ready) && len(c.mu.out) < maxOut && !c.mu.ended; i++ {
		s := c.mu.ready[i]
		if !s.sending || (s.window <= 0 && !s.piece.isHead() && len(s.piece.data) > 0) {
			s.queued = false
			continue
		}
		if !s.piece.isHead() && len(s.piece.data) > 0 && c.mu.window <= 0 {
			c.mu.ready[stalled] = s // keeps its place
			stalled++
			continue
		}
		s.queued = false
		if c.mu.out == nil {
			c.mu.out = getOut()
		}
		if s.piece.isHead() {
			c.appendHeadLocked(s)
			s.sentLocked()
			continue
		}
		n := int(min(int64(min(len(s.piece.data), c.mu.maxFrame)), max(s.window, 0), max(c.mu.window, 0)))
		last := n == len(s.piece.data)
		flags := http2.Flags(0)
		if last && s.piece.end {
			flags = http2.FlagDataEndStream
		}
		c.mu.out = append(appendFrame(c.mu.out, n, http2.FrameData, flags, s.id), s.piece.data[:n]...)
		s.piece.data = s.piece.data[n:]
		s.window -= int64(n)
		c.mu.window -= int64(n)
		c.mu.credit.give(1)
		c.mu.credit.giveFor(n)
		s.moved += n
		if last {
			s.sentLocked()
		} else {
			c.readyLocked(s)
		}
	}
	rest := c.mu.ready[i:]
	n := stalled + copy(c.mu.ready[stalled:], rest)
	clear(c.mu.ready[n:])
	c.mu.ready = c.mu.ready[:n]
}

func appendFrame(b []byte, n int, kind http2.FrameType, flags http2.Flags, id uint32) []byte {
	b = append(b, byte(n>>16), byte(n>>8), byte(n), byte(kind), byte(flags))
	return binary.BigEndian.AppendUint32(b, id)
}

// appendHeadLocked appends the head or the trailer section that a stream waits with.
func (c *Conn) appendHeadLocked(s *Stream) {
	c.mu.encoded.Reset()
	p := &s.piece
	if p.status != 0 {
		_ = c.mu.fields.WriteField(hpack.HeaderField{Name: ":status", Value: strconv.Itoa(p.status)})
	}
	for i := range p.fields {
		f := &p.fields[i]
		name := lower(f.Name)
		_ = c.mu.fields.WriteField(hpack.HeaderField{Name: name, Value: string(f.Value), Sensitive: isUnique(name)})
	}
	kind, flags := http2.FrameHeaders, http2.Flags(0)
	if p.end {
		flags = http2.FlagHeadersEndStream
	}
	for b := c.mu.encoded.Bytes(); ; kind, flags = http2.FrameContinuation, 0 {
		n := min(len(b), c.mu.maxFrame)
		if n == len(b) {
			flags |= http2.FlagHeadersEndHeaders
		}
		c.mu.out = append(appendFrame(c.mu.out, n, kind, flags, s.id), b[:n]...)
		if b = b[n:]; len(b) == 0 {
			return
		}
	}
}

// isUnique reports whether a field has another value in each answer, which would only push
// others out of the compression's table, or one that must not be guessed by its help.
func isUnique(name string) bool {
	return name == "x-request-id" || name == "etag" || name == "set-cookie"
}

// lower is a field's name as HTTP/2 has it.
func lower(name []byte) string {
	var small [64]byte
	b := small[:0]
	if len(name) > len(small) {
		b = make([]byte, 0, len(name))
	}
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	if known, ok := usual[string(b)]; ok {
		return known
	}
	return string(b)
}

// usual spares the allocation for names that most answers have.
var usual = func() map[string]string {
	m := make(map[string]string)
	for _, name := range []string{
		"accept-ranges", "age", "alt-svc", "cache-control", "content-encoding", "content-length", "content-type", "date", "etag",
		"expires", "last-modified", "location", "server", "set-cookie", "strict-transport-security", "vary", "x-request-id",
	} {
		m[name] = name
	}
	return m
}()
