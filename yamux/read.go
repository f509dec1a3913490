package yamux

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// inbox is what was read from the connection and not yet handled. Only the
// goroutine in Run uses it.
type inbox struct {
	small [headerSize]byte
	large *[lookahead]byte // nil while the small buffer will do
	buf   []byte           // one of the two
	r, w  int              // buf[r:w] is there
}

func (in *inbox) bytes() []byte { return in.buf[in.r:in.w] }

// grow takes the large buffer, with what is in the small one.
func (in *inbox) grow() {
	if in.large != nil {
		return
	}
	in.large = lookaheads.Get().(*[lookahead]byte)
	in.w = copy(in.large[:], in.bytes())
	in.r, in.buf = 0, in.large[:]
}

// release gives the large buffer back. The inbox must be empty.
func (in *inbox) release() {
	if in.large != nil {
		lookaheads.Put(in.large)
		in.large = nil
	}
	in.r, in.w, in.buf = 0, 0, in.small[:]
}

// need reads until n bytes are there, at most a lookahead.
func (s *Session) need(n int) error {
	in := &s.in
	for in.w-in.r < n {
		if in.r+n > len(in.buf) {
			if n > len(in.buf) {
				in.grow()
			} else {
				in.w = copy(in.buf, in.bytes())
				in.r = 0
			}
		}
		s.handOverUnlessMore()
		k, err := s.wire.read(in.buf[in.w:])
		s.received(k)
		in.w += k
		if err := noEOF(k, err); err != nil {
			return within(err)
		}
	}
	return nil
}

// within turns the end of input in the middle of a frame into an error of its own.
func within(err error) error {
	if errors.Is(err, io.EOF) {
		return &ProtocolError{Reason: ErrTruncated}
	}
	return err
}

// received notes that the other side gave a sign of life.
func (s *Session) received(n int) {
	if n > 0 {
		s.bytesIn.Add(int64(n))
		s.heard.Store(s.now())
	}
}

// now is the time since the session was made.
func (s *Session) now() int64 { return int64(time.Since(s.began)) }

// readLoop handles frames until the connection or the session ends.
func (s *Session) readLoop() error {
	s.in.buf = s.in.small[:]
	defer s.in.release()
	defer s.handOver()
	frames := int32(0)
	for ; ; frames++ {
		if s.in.r == s.in.w {
			s.in.r, s.in.w = 0, 0
			s.crowd.Store(frames)
			frames = 0
			s.handOverUnlessMore()
			err := s.wire.await(&s.in)
			s.received(s.in.w)
			if err != nil {
				return s.readError(err)
			}
		}
		if err := s.need(headerSize); err != nil {
			return s.readError(err)
		}
		h := parseHeader(s.in.bytes())
		s.in.r += headerSize
		if err := s.handle(h); err != nil {
			return s.readError(err)
		}
	}
}

// readError says why reading ended.
func (s *Session) readError(err error) error {
	var broken *ProtocolError
	var away *GoAwayError
	switch {
	case errors.As(err, &broken), errors.As(err, &away):
		return err
	case errors.Is(err, io.EOF):
		return ErrPeerClosed
	}
	return fmt.Errorf("yamux: read from connection: %w", err)
}

func (s *Session) handle(h header) error {
	if h.version != protocolVersion {
		return &ProtocolError{Reason: ErrVersion}
	}
	if s.held.n > 0 && (h.kind != typeData || h.stream != s.held.stream.id || h.flags != 0 || h.length < lookahead) {
		s.handOver()
	}
	switch h.kind {
	case typeData:
		return s.onData(h)
	case typeWindow:
		st, err := s.route(h)
		if st != nil && h.flags&flagFIN != 0 {
			s.onFIN(st)
		}
		return err
	case typePing:
		return s.onPing(h)
	case typeGoAway:
		return s.onGoAway(GoAwayCode(h.length))
	}
	return &ProtocolError{Reason: ErrFrameType, Stream: h.stream}
}

func (s *Session) onData(h header) error {
	if int64(h.length) > int64(s.cfg.MaxStreamWindow) { // no stream, not even one that is gone, had such credit
		return &ProtocolError{Reason: ErrWindowExceeded, Stream: h.stream}
	}
	st, err := s.route(h)
	if err != nil {
		return err
	}
	if st == nil {
		return s.discard(int(h.length))
	}
	if h.length > 0 {
		switch st.admit(h.length) {
		case admitted:
			err = s.fill(st, int(h.length))
		case unwanted:
			st.Reset() //nolint:errcheck // always nil
			err = s.discard(int(h.length))
		case ignored:
			err = s.discard(int(h.length))
		case exceeds:
			err = &ProtocolError{Reason: ErrWindowExceeded, Stream: h.stream}
		}
		if err != nil {
			return err
		}
	}
	if h.flags&flagFIN != 0 {
		s.handOver()
		s.onFIN(st)
	}
	return nil
}

// route finds the stream of a data or window frame, makes it when the frame opens
// one, and does what its flags and credit say but for FIN. nil: the frame concerns
// a stream that is gone, or was refused.
func (s *Session) route(h header) (*Stream, error) {
	if h.stream == 0 {
		return nil, &ProtocolError{Reason: ErrStreamID}
	}
	s.mu.Lock()
	if s.mu.err != nil {
		s.mu.Unlock()
		return nil, s.mu.err
	}
	st := s.mu.streams[h.stream]
	if h.flags&flagSYN != 0 {
		var err error
		if st, err = s.acceptLocked(h, st); st == nil {
			s.mu.Unlock()
			return nil, err
		}
	}
	if st == nil {
		s.mu.Unlock()
		return nil, nil //nolint:nilnil // documented above
	}
	if h.flags&(flagACK|flagRST) != 0 && st.send.unacked {
		s.ackedLocked(st)
	}
	if h.flags&flagRST != 0 {
		s.removeLocked(st)
		st.send.failLocked(ErrStreamReset)
		s.mu.Unlock()
		st.endRecv(ErrStreamReset) // its last words can be read
		return nil, nil            //nolint:nilnil // documented above
	}
	if h.kind == typeWindow && h.length > 0 {
		if uint64(st.send.window)+uint64(h.length) > 1<<32-1 {
			s.mu.Unlock()
			return nil, &ProtocolError{Reason: ErrWindowOverflow, Stream: h.stream}
		}
		st.send.window += h.length
		st.send.cond.Broadcast()
	}
	s.mu.Unlock()
	return st, nil
}

// acceptLocked makes the stream that the other side opens with h, or refuses it.
func (s *Session) acceptLocked(h header, existing *Stream) (*Stream, error) {
	if existing != nil || (h.stream%2 == 1) == s.client {
		return nil, &ProtocolError{Reason: ErrStreamID, Stream: h.stream}
	}
	if h.flags&flagRST != 0 {
		return nil, s.bearLocked()
	}
	if len(s.mu.control) > maxControl {
		return nil, &ProtocolError{Reason: ErrFlood}
	}
	if s.mu.goneAway || len(s.mu.accept) >= s.cfg.AcceptBacklog || s.mu.incoming >= s.cfg.MaxStreams {
		s.controlLocked(header{kind: typeWindow, flags: flagRST, stream: h.stream})
		return nil, s.bearLocked()
	}
	st := s.newStream(h.stream)
	st.send.flags = flagACK
	s.mu.streams[h.stream] = st
	s.mu.incoming++
	s.mu.accept = append(s.mu.accept, st)
	select {
	case s.acceptable <- struct{}{}:
	default:
	}
	return st, nil
}

// onFIN notes that the other side has ended its direction.
func (s *Session) onFIN(st *Stream) {
	s.mu.Lock()
	st.send.peerFIN = true
	if st.send.fin {
		s.removeLocked(st)
	}
	s.mu.Unlock()
	st.endRecv(io.EOF)
}

func (s *Session) onGoAway(code GoAwayCode) error {
	if code != GoAwayNormal {
		return &GoAwayError{Code: code}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.peerGoneAway = true
	s.wakeOpenersLocked()
	return nil
}

// discard reads over n bytes.
func (s *Session) discard(n int) error {
	in := &s.in
	for n > 0 {
		if in.r == in.w {
			in.grow()
			in.r, in.w = 0, 0
			if err := s.need(1); err != nil {
				return err
			}
		}
		k := min(n, in.w-in.r)
		in.r += k
		n -= k
	}
	return nil
}

// maxScatter is how many large chunks one read fills.
const maxScatter = maxPayload / largeChunk

// held is payload on its way from the connection to its stream: handed over in larger
// pieces, also of several frames, it costs fewer wake-ups and calls.
type held struct {
	stream     *Stream
	head, tail *chunk
	n          int
}

func (l *held) add(st *Stream, c *chunk) {
	l.stream = st
	if l.head == nil {
		l.head = c
	} else {
		l.tail.next = c
	}
	l.tail = c
	l.n += c.w - c.r
}

// handOver gives the stream what is held for it.
func (s *Session) handOver() {
	if s.held.n == 0 {
		return
	}
	l := s.held
	s.held = held{}
	s.credit(l.stream, l.stream.append(l))
}

// handOverUnlessMore is called before reading: nothing is held while the connection may
// have to be waited for.
func (s *Session) handOverUnlessMore() {
	if s.held.n > 0 && !s.wire.ready() {
		s.handOver()
	}
}

// fill moves n bytes of payload into st. A short frame goes to it as it lies in the
// inbox. Of others, what is in the inbox is copied, and the rest is read straight
// into chunks that the stream then owns.
func (s *Session) fill(st *Stream, n int) error {
	in := &s.in
	if n < lookahead {
		if err := s.need(n); err != nil {
			return err
		}
		s.credit(st, st.deliver(in.bytes()[:n]))
		in.r += n
		return nil
	}
	for n > 0 {
		if b := in.bytes(); len(b) > 0 {
			c := newChunk(len(b))
			c.w = copy(c.b, b[:min(len(b), n)])
			in.r += c.w
			n -= c.w
			s.held.add(st, c)
		} else {
			s.handOverUnlessMore()
			k, err := s.scatter(st, n)
			n -= k
			if err != nil {
				return within(err)
			}
		}
		if s.held.n >= writeAtOnce {
			s.handOver()
		}
	}
	return nil
}

// scatter reads up to n bytes for st into new chunks, and what comes after them into the
// empty inbox.
func (s *Session) scatter(st *Stream, n int) (int, error) {
	in := &s.in
	in.grow()
	in.r, in.w = 0, 0
	var chunks [maxScatter]*chunk
	bufs := s.iov[:0]
	room := 0
	for i := range chunks {
		if room == n {
			break
		}
		c := newChunk(largeChunk)
		size := min(n-room, len(c.b))
		room += size
		chunks[i] = c
		bufs = append(bufs, c.b[:size])
	}
	if room == n {
		bufs = append(bufs, in.buf)
	}
	k, err := s.wire.readv(bufs)
	s.iov = bufs[:0]
	s.received(k)
	taken := min(k, room)
	in.w = k - taken
	for left, i := taken, 0; i < len(chunks) && chunks[i] != nil; i++ {
		c := chunks[i]
		if left == 0 {
			c.free()
			continue
		}
		c.w = min(left, len(c.b))
		left -= c.w
		s.held.add(st, c)
	}
	return taken, noEOF(k, err)
}
