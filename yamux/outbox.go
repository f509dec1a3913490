package yamux

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
)

// outbox is what is to be sent. It is part of Session.mu.
//
// Frames go out in three classes: control, light and bulk. Control frames are
// short and few. Light are short frames of streams that have sent little lately;
// they pass the others, which is what keeps a keystroke from waiting behind a
// download. A stream's own frames never pass each other. Within a class it is
// first come, first served, and as a stream has at most two frames in the queue,
// that is fair between streams.
type outbox struct {
	writing    bool // somebody owns the connection's writing side; else all below is empty
	control    []byte
	light      *sendBuf
	lightOf    []*Stream // whose frames are in light, one entry each
	bulk, last *sendBuf  // list
	bulkBytes  int
	rest       *sendBuf // of a frame that was sent in part
	waiting    []*ticket
	cycle      uint32
	cycleBytes int

	inline     [headerSize]byte // of the frame that its stream's caller sends
	sparing    []byte           // storage for control
	parts      []part           // of who sends, likewise
	batchLimit int
}

const (
	maxBatch   = 256 << 10 // bytes for one call while the connection takes all at once
	minBatch   = 64 << 10  // and while it does not: what it has taken can't be overtaken
	maxQueued  = 2         // frames of one stream
	lightFrame = 4 << 10   // largest light frame
	lightShare = 16 << 10  // bytes that a stream may send as light ones in a cycle
	cycleSize  = 1 << 20   // bytes of all streams that make a cycle
)

func (st *Stream) queueLightLocked(p []byte) {
	s := st.session
	if s.mu.light == nil {
		s.mu.light = newSendBuf()
	}
	b := s.mu.light
	st.spendLocked(len(p)).put(b.b[b.n:])
	b.n += headerSize
	b.n += copy(b.b[b.n:], p)
	s.mu.lightOf = append(s.mu.lightOf, st)
	st.send.queued++
	st.send.bulk = false
}

func (st *Stream) queueBulkLocked(buf *sendBuf) {
	s := st.session
	buf.stream = st
	if s.mu.last == nil {
		s.mu.bulk = buf
	} else {
		s.mu.last.next = buf
	}
	s.mu.last = buf
	s.mu.bulkBytes += buf.n
	st.send.queued++
	st.send.bulk = true
}

// controlLocked queues a frame that passes all others.
func (s *Session) controlLocked(h header) {
	s.mu.control = h.appendTo(s.mu.control)
	s.kickLocked()
}

// kickLocked sees to it that somebody sends what is queued: a drainer, which by the
// time it runs may find more.
func (s *Session) kickLocked() {
	if s.mu.writing || s.mu.err != nil {
		return
	}
	s.mu.writing = true
	s.tasks.Go(s.drain)
}

// sendFINLocked ends st's direction behind its frames.
func (s *Session) sendFINLocked(st *Stream) {
	s.orderedLocked(st, header{kind: typeData, flags: st.takeFlagsLocked() | flagFIN, stream: st.id})
}

// sendRSTLocked resets st at the other side, unless that has never heard of it.
func (s *Session) sendRSTLocked(st *Stream) {
	if st.takeFlagsLocked()&flagSYN != 0 {
		return
	}
	s.orderedLocked(st, header{kind: typeWindow, flags: flagRST, stream: st.id})
}

// orderedLocked queues a frame without payload behind the frames of its stream.
func (s *Session) orderedLocked(st *Stream, h header) {
	if s.mu.err != nil {
		return
	}
	switch {
	case st.send.queued == 0:
		s.mu.control = h.appendTo(s.mu.control)
	case !st.send.bulk && s.mu.light != nil && s.mu.light.n+headerSize <= len(s.mu.light.b):
		h.put(s.mu.light.b[s.mu.light.n:])
		s.mu.light.n += headerSize
	default:
		buf := newSendBuf()
		h.put(buf.b[:])
		buf.n = headerSize
		st.queueBulkLocked(buf)
	}
	s.kickLocked()
}

// credit tells the other side that it may send n bytes more on st.
func (s *Session) credit(st *Stream, n uint32) {
	if n == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.streams[st.id] != st || st.send.peerFIN {
		return
	}
	h := header{kind: typeWindow, flags: st.takeFlagsLocked(), stream: st.id, length: n}
	if s.mu.writing {
		s.mu.control = h.appendTo(s.mu.control)
		return
	}
	// Bulk needs credit often: waking a drainer for it would cost more than sending.
	h.put(s.mu.inline[:])
	_ = s.inlineLocked(s.mu.inline[:], nil, nil) // an error ends the session
}

// inlineLocked sends a frame from the caller's goroutine, without blocking. The
// lock is released meanwhile. What the connection doesn't take is left to a
// drainer. It takes over buf, which head is in if it isn't nil.
func (s *Session) inlineLocked(head, body []byte, buf *sendBuf) error {
	s.mu.writing = true
	parts := append(s.mu.parts[:0], part{head, buf})
	if len(body) > 0 {
		parts = append(parts, part{b: body})
	}
	s.mu.Unlock()
	n, done, err := s.wire.try(parts)
	s.bytesOut.Add(int64(n))
	var rest *sendBuf
	if err == nil && n < len(head)+len(body) {
		rest = newSendBuf()
		if n < len(head) {
			rest.n = copy(rest.b[:], head[n:])
			n = len(head)
		}
		rest.n += copy(rest.b[rest.n:], body[n-len(head):])
	}
	freeParts(parts)
	if err != nil {
		s.end(writeError(err))
	}
	s.mu.Lock()
	s.mu.rest, s.mu.parts = rest, parts
	if s.mu.err != nil {
		return s.mu.err
	}
	if !done || len(s.mu.control) > 0 || s.mu.light != nil || s.mu.bulk != nil {
		s.tasks.Go(s.drain)
		return nil
	}
	s.idleLocked()
	return nil
}

// writeError says why writing to the connection failed.
func writeError(err error) error {
	if errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("%w: %w", ErrPeerClosed, err) // as who reads is told
	}
	return fmt.Errorf("yamux: write to connection: %w", err)
}

// idleLocked gives up the writing side.
func (s *Session) idleLocked() {
	s.mu.writing = false
	s.mu.batchLimit = maxBatch
	s.grantLocked()
	s.checkDrainedLocked()
}

// crowded reports whether many streams are at work by turns, and a frame of n bytes is
// likely to be one of many short ones that one call could send.
func (s *Session) crowded(n int) bool { return n <= lightFrame && s.crowd.Load() >= crowdSize }

// crowdSize is how many frames that came together make a crowd.
const crowdSize = 4

// drain sends until nothing is queued.
func (s *Session) drain() {
	if s.crowded(0) {
		runtime.Gosched() // the others, who are about to write, go first
	}
	var batch batch
	waited, err := s.wire.send(nil) // what an inline frame left
	for err == nil && s.gather(&batch, waited) {
		waited, err = s.wire.send(batch.parts)
		s.bytesOut.Add(int64(batch.bytes))
		s.release(&batch)
	}
	if err != nil {
		s.end(writeError(err))
	}
}

// part of what is sent: bytes, and the buffer they are in, unless that is nobody's to give away.
type part struct {
	b   []byte
	buf *sendBuf
}

// freeParts gives back the buffers that the wire has not taken over.
func freeParts(parts []part) {
	for _, p := range parts {
		if p.buf != nil {
			p.buf.free()
		}
	}
	clear(parts)
}

// batch is what goes out in one call.
type batch struct {
	parts   []part
	bytes   int
	control []byte
}

func (b *batch) add(p part) {
	b.parts = append(b.parts, p)
	b.bytes += len(p.b)
}

func (b *batch) addBuf(buf *sendBuf) {
	buf.next = nil
	b.add(part{buf.b[:buf.n], buf})
}

// gather fills the batch from the queues. With nothing to send, or at the end of
// the session, it gives up the writing side and returns false.
func (s *Session) gather(b *batch, waited bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &s.mu.outbox
	if s.mu.err != nil {
		return false
	}
	if waited {
		o.batchLimit = minBatch
	} else {
		o.batchLimit = min(2*o.batchLimit, maxBatch)
	}
	b.parts, b.bytes = o.parts[:0], 0
	if o.rest != nil {
		b.addBuf(o.rest)
		o.rest = nil
	}
	if len(o.control) > 0 {
		b.add(part{b: o.control})
		b.control, o.control, o.sparing = o.control, o.sparing[:0], nil
	}
	if o.light != nil {
		b.addBuf(o.light)
		o.light = nil
		for _, st := range o.lightOf {
			st.leftQueueLocked()
		}
		clear(o.lightOf)
		o.lightOf = o.lightOf[:0]
	}
	for first := true; o.bulk != nil && (first || b.bytes+o.bulk.n <= o.batchLimit); first = false {
		buf := o.bulk
		if o.bulk = buf.next; o.bulk == nil {
			o.last = nil
		}
		o.bulkBytes -= buf.n
		buf.stream.leftQueueLocked()
		b.addBuf(buf)
	}
	if b.bytes == 0 {
		o.shrink()
		s.idleLocked()
		return false
	}
	s.grantLocked()
	return true
}

// shrink gives up storage that grew large, so that an idle session holds little.
func (o *outbox) shrink() {
	if cap(o.control)+cap(o.sparing) > 1<<10 {
		o.control, o.sparing = nil, nil
	}
	if cap(o.parts)+cap(o.lightOf) > 1<<6 {
		o.parts, o.lightOf = nil, nil
	}
}

// leftQueueLocked notes that one of the stream's frames is on its way.
func (st *Stream) leftQueueLocked() {
	st.send.queued--
	st.send.cond.Broadcast()
}

// release gives the batch's buffers back.
func (s *Session) release(b *batch) {
	freeParts(b.parts)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.parts, b.parts = b.parts, nil
	if b.control != nil {
		s.mu.sparing, b.control = b.control, nil
	}
}
