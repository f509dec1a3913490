package http2

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/net/http2"

	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
)

// ErrGone says that a stream is over: reset by the visitor, or with its connection.
var ErrGone = errors.New("the stream is gone")

// Stream is a request and its answer. One goroutine may read the body while another
// answers.
type Stream struct {
	// Request is the head, as HTTP/1.1 would have it: a body without a length is Chunked.
	Request http1.Request
	// Fault is what is wrong with the head; nil: nothing. Request then holds no fields.
	Fault    error
	Scheme   string
	Protocol string // of an extended CONNECT (RFC 8441), else empty

	conn   *Conn
	id     uint32
	fields [16]http1.Field // of most requests, and what they point into
	arena  [512]byte
	ctx    context.Context //nolint:containedctx // its life
	cancel context.CancelFunc

	// All below is guarded by conn.mu.

	err error // why it is over; nil: it is not

	body     body
	ended    bool          // nothing more comes
	left     int64         // of a body with a length
	trailer  []http1.Field // valid when ended
	allowed  int64         // what may come
	consumed int64         // what was read, and the visitor has not been told
	reading  waiter
	patient  bool // Read may wait for however long

	piece   piece
	sending bool // piece is to be sent
	queued  bool // in conn.mu.ready
	moved   int  // bytes that were sent since Look last let it wait anew
	window  int64
	writing waiter
	over    bool  // all is said
	unread  bool  // it is over, but for what still comes of the request
	since   int64 // when Look first saw that; 0: not yet
}

// waiter waits for the connection.
type waiter struct {
	wake    chan struct{} // nil: has never waited
	waits   bool
	since   int64 // when Look first saw it wait; 0: not yet
	expired bool
}

// waitLocked waits until it is woken. It gives up the lock meanwhile.
func (w *waiter) waitLocked(c *Conn) {
	if w.wake == nil {
		w.wake = make(chan struct{}, 1)
	}
	w.waits = true
	c.mu.Unlock()
	<-w.wake
	c.mu.Lock()
	w.since = 0
}

func (w *waiter) wakeLocked() {
	if w.waits {
		w.waits = false
		w.wake <- struct{}{}
	}
}

// Context ends with the stream.
func (s *Stream) Context() context.Context { return s.ctx }

// Read reads of the body. It returns os.ErrDeadlineExceeded when nothing came for too long.
func (s *Stream) Read(p []byte) (int, error) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if n := s.body.read(p); n > 0 || len(p) == 0 {
			c.consumedLocked(s, n)
			return n, nil
		}
		switch {
		case s.ended && s.err == nil:
			return 0, io.EOF
		case s.err != nil:
			return 0, s.err
		case s.reading.expired:
			return 0, os.ErrDeadlineExceeded
		}
		s.reading.waitLocked(c)
	}
}

// Here returns the body if all of it is here and at most max bytes long, and whether it is.
func (s *Stream) Here(limit int) ([]byte, bool) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.ended || s.err != nil || s.body.size > limit || len(s.trailer) > 0 {
		return nil, false
	}
	b := make([]byte, s.body.size)
	for n := 0; n < len(b); {
		n += s.body.read(b[n:])
	}
	c.consumedLocked(s, len(b))
	return b, true
}

// Trailer is what came behind the body, whose end must have been read.
func (s *Stream) Trailer() []http1.Field {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	return s.trailer
}

// Await lets Read wait for however long.
func (s *Stream) Await() {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.patient = true
}

// ExpireRead ends a Read that waits, and those to come, with os.ErrDeadlineExceeded.
func (s *Stream) ExpireRead() {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.reading.expired = true
	s.reading.wakeLocked()
}

// ExpireWrite is ExpireRead for what is sent.
func (s *Stream) ExpireWrite() {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.expireWriteLocked()
}

func (s *Stream) expireWriteLocked() {
	s.writing.expired = true
	s.piece, s.sending = piece{}, false
	s.writing.wakeLocked()
}

// WriteHead sends the head of an answer, 1xx or final. It leaves with what follows, or by
// Flush. end says that nothing follows.
func (s *Stream) WriteHead(status int, fields []http1.Field, end bool) error {
	return s.send(piece{status: status, fields: fields, end: end})
}

// Write sends a part of the body, which leaves with what follows if it is small. It
// returns when b may be used again.
func (s *Stream) Write(b []byte, end bool) error {
	if len(b) == 0 && !end {
		return nil
	}
	return s.send(piece{data: b, end: end})
}

// WriteTrailer ends the stream with a trailer section.
func (s *Stream) WriteTrailer(fields []http1.Field) error {
	if len(fields) == 0 {
		return s.Write(nil, true)
	}
	return s.send(piece{fields: fields, end: true})
}

// Flush lets what was written leave.
func (s *Stream) Flush() error {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kickLocked()
	return s.err
}

// Reset ends the stream with an error.
func (s *Stream) Reset(code http2.ErrCode) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.resetLocked(code)
}

// flushAt is how much is not kept back for what may follow.
const flushAt = frameSize

func (s *Stream) send(p piece) error {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.err == nil && s.writing.expired {
		return os.ErrDeadlineExceeded
	}
	if s.err != nil {
		return s.err
	}
	s.piece, s.sending = p, true
	c.readyLocked(s)
	c.pumpLocked()
	if p.end || s.sending || len(c.mu.out) >= flushAt {
		c.kickLocked()
	}
	for s.sending {
		s.writing.waitLocked(c)
	}
	if s.writing.expired {
		return os.ErrDeadlineExceeded
	}
	return s.err
}

// sentLocked says that the piece is on its way.
func (s *Stream) sentLocked() {
	s.over = s.over || s.piece.end
	s.piece, s.sending = piece{}, false
	s.writing.wakeLocked()
	if s.over && s.ended {
		s.conn.forgetLocked(s) // the visitor may open another one at once
	}
}

// failLocked ends the stream at this side.
func (s *Stream) failLocked(err error) {
	if s.err == nil {
		s.err = err
	}
	s.conn.dropLocked(s)
	s.piece, s.sending = piece{}, false
	s.reading.wakeLocked()
	s.writing.wakeLocked()
	s.cancel()
}

// resetLocked ends the stream at both sides.
func (s *Stream) resetLocked(code http2.ErrCode) {
	if s.err == nil {
		s.conn.resetLocked(s.id, code)
		s.conn.kickLocked()
	}
	s.conn.forgetLocked(s)
	s.failLocked(ErrGone)
}

// serve is the life of a stream's goroutine.
func (s *Stream) serve() {
	defer s.conn.handlers.Done()
	defer s.finish()
	s.conn.cfg.Handle(s)
}

// finish ends what the handler has not ended.
func (s *Stream) finish() {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.running--
	switch {
	case s.err != nil:
	case !s.over:
		s.resetLocked(http2.ErrCodeInternal)
	case !s.ended:
		// The answer is whole, and what is left of the request has no reader: Look tells the
		// visitor (RFC 9113, section 8.1). With the answer, curl 7.88 would take the reset for
		// all there is.
		s.unread = true
		s.failLocked(ErrGone)
	default:
		c.mu.credit.give(4)
		c.forgetLocked(s)
		s.failLocked(ErrGone)
	}
	c.leaveLocked()
}

// body is what came and was not read.
type body struct {
	chunks [][]byte // of bodyChunk, filled up one by one
	at     int      // in the first
	size   int
}

const bodyChunk = 8 << 10

func (b *body) write(p []byte) {
	b.size += len(p)
	for len(p) > 0 {
		n := len(b.chunks)
		if n == 0 || len(b.chunks[n-1]) == cap(b.chunks[n-1]) {
			b.chunks = append(b.chunks, getChunk())
			n++
		}
		last := b.chunks[n-1]
		k := copy(last[len(last):cap(last)], p)
		b.chunks[n-1] = last[:len(last)+k]
		p = p[k:]
	}
}

func (b *body) read(p []byte) int {
	done := 0
	for done < len(p) && b.size > 0 {
		first := b.chunks[0]
		n := copy(p[done:], first[b.at:])
		done += n
		b.at += n
		b.size -= n
		if b.at == len(first) && (len(first) == cap(first) || b.size == 0) {
			putChunk(first)
			b.chunks[0] = nil
			b.chunks, b.at = b.chunks[1:], 0
		}
	}
	return done
}

func (b *body) drop() int {
	n := b.size
	for _, chunk := range b.chunks {
		putChunk(chunk)
	}
	*b = body{}
	return n
}
