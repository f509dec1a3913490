package yamux

import (
	"io"
	"math"
)

// ticket is a writer's place in the line for room in the queue.
type ticket struct {
	stream        *Stream
	granted, gone bool
}

// sendErrLocked says why st can't send.
func (st *Stream) sendErrLocked() error {
	h := &st.send
	switch {
	case h.err != nil:
		return h.err
	case h.fin:
		return ErrStreamClosed
	case h.deadline.passed():
		return errDeadline
	}
	return nil
}

// roomLocked waits until st has credit and may send or queue a frame of n bytes.
func (st *Stream) roomLocked(n int) error {
	s, h := st.session, &st.send
	var t *ticket
	for {
		if err := st.sendErrLocked(); err != nil {
			if t != nil {
				t.gone = true
				s.grantLocked()
			}
			return err
		}
		if h.window > 0 && h.queued < maxQueued {
			switch {
			case t != nil && t.granted, !s.mu.writing, st.isLightLocked(n):
				if t != nil {
					t.gone = true
					s.grantLocked() // who gets room may not use it
				}
				return nil
			case t == nil && s.mu.bulkBytes < s.cfg.SendQueue && len(s.mu.waiting) == 0:
				return nil
			case t == nil:
				t = &ticket{stream: st}
				s.mu.waiting = append(s.mu.waiting, t)
			}
		}
		if t != nil && t.granted { // another writer of the stream was faster
			t = nil
			s.grantLocked()
			continue
		}
		h.cond.Wait()
	}
}

// grantLocked lets writers who wait go on as far as there is room.
func (s *Session) grantLocked() {
	room := s.cfg.SendQueue - s.mu.bulkBytes
	for room > 0 && len(s.mu.waiting) > 0 {
		t := s.mu.waiting[0]
		s.mu.waiting[0] = nil
		s.mu.waiting = s.mu.waiting[1:]
		if t.gone {
			continue
		}
		t.granted = true
		t.stream.send.cond.Broadcast()
		room -= maxFrame
	}
	if len(s.mu.waiting) == 0 {
		s.mu.waiting = nil
	}
}

// isLightLocked reports whether a frame of n bytes may go with the light ones now.
func (st *Stream) isLightLocked(n int) bool {
	s, h := st.session, &st.send
	if n > lightFrame || (h.queued > 0 && h.bulk) {
		return false
	}
	st.startCycleLocked()
	return int(h.recent)+n <= lightShare && (s.mu.light == nil || s.mu.light.n+headerSize+n <= len(s.mu.light.b))
}

// startCycleLocked forgets what st sent before the session's present cycle.
func (st *Stream) startCycleLocked() {
	if h, now := &st.send, st.session.mu.cycle; h.cycle != now {
		h.cycle, h.recent = now, 0
	}
}

// spendLocked takes the credit for a frame of n bytes and makes its header.
func (st *Stream) spendLocked(n int) header {
	s, h := st.session, &st.send
	h.window -= uint32(n) //nolint:gosec // at most the window
	if s.mu.cycleBytes += n; s.mu.cycleBytes >= cycleSize {
		s.mu.cycleBytes = 0
		s.mu.cycle++
	}
	st.startCycleLocked()
	h.recent += uint32(n)                                                                        //nolint:gosec // less than a cycle
	return header{kind: typeData, flags: st.takeFlagsLocked(), stream: st.id, length: uint32(n)} //nolint:gosec // at most the window
}

// takeFlagsLocked returns the SYN or ACK that the next frame is to carry. It is
// taken where the frame gets its place, so that nothing can overtake a SYN.
func (st *Stream) takeFlagsLocked() uint16 {
	flags := st.send.flags
	if flags&flagSYN != 0 {
		st.opening.Store(false)
	}
	st.send.flags = 0
	return flags
}

// Write implements net.Conn.
func (st *Stream) Write(p []byte) (int, error) {
	s := st.session
	total := 0
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(p) == 0 {
		return 0, st.opError("write", st.sendErrLocked())
	}
	for total < len(p) {
		n, err := st.writeFrameLocked(p[total:])
		total += n
		if err != nil {
			return total, st.opError("write", err)
		}
	}
	return total, nil
}

// writeFrameLocked sends or queues one frame with bytes of p and returns how many.
func (st *Stream) writeFrameLocked(p []byte) (int, error) {
	s := st.session
	p = p[:min(len(p), maxPayload)]
	if err := st.roomLocked(len(p)); err != nil {
		return 0, err
	}
	p = p[:min(len(p), int(st.send.window))]
	switch {
	case !s.mu.writing && !s.crowded(len(p)):
		st.spendLocked(len(p)).put(s.mu.inline[:])
		return len(p), s.inlineLocked(s.mu.inline[:], p, nil)
	case st.isLightLocked(len(p)):
		st.queueLightLocked(p)
		s.kickLocked()
		return len(p), nil
	}
	// The queue takes a copy, which is made without the lock.
	s.mu.Unlock()
	buf := newSendBuf()
	copy(buf.b[headerSize:], p)
	s.mu.Lock()
	return st.sendBufLocked(buf, len(p))
}

// sendBufLocked sends or queues a buffer with n bytes of payload, which it takes
// over, and returns how many of them.
func (st *Stream) sendBufLocked(buf *sendBuf, n int) (int, error) {
	sent := 0
	for {
		if err := st.roomLocked(n); err != nil {
			buf.free()
			return sent, err
		}
		var rest *sendBuf
		k := min(n, int(st.send.window))
		if k < n {
			rest = newSendBuf()
			copy(rest.b[headerSize:], buf.b[headerSize+k:headerSize+n])
		}
		err := st.sendFrameLocked(buf, k)
		sent += k
		if rest == nil {
			return sent, err
		}
		if err != nil {
			rest.free()
			return sent, err
		}
		buf, n = rest, n-k
	}
}

// sendFrameLocked sends or queues a buffer with n bytes of payload, for which there
// is room, and takes it over.
func (st *Stream) sendFrameLocked(buf *sendBuf, n int) error {
	s := st.session
	queue := s.mu.writing || s.crowded(n)
	if queue && st.isLightLocked(n) {
		st.queueLightLocked(buf.b[headerSize : headerSize+n])
		buf.free()
		s.kickLocked()
		return nil
	}
	st.spendLocked(n).put(buf.b[:])
	buf.n = headerSize + n
	if queue {
		st.queueBulkLocked(buf)
		s.kickLocked()
		return nil
	}
	return s.inlineLocked(buf.b[:buf.n], nil, buf)
}

// ReadFrom sends all that r has until its end, reading into the buffers that are
// sent.
func (st *Stream) ReadFrom(r io.Reader) (int64, error) {
	n, err := st.ReadFromN(r, math.MaxInt64)
	if err == io.EOF { //nolint:errorlint // returned bare
		err = nil
	}
	return n, err
}

// ReadFromN is ReadFrom for the next n bytes of r, and reads no more. The error is io.EOF if
// there were fewer, else not nil if they were not all sent.
func (st *Stream) ReadFromN(r io.Reader, n int64) (int64, error) {
	read := readerInto(r)
	total := int64(0)
	for total < n {
		room, err := st.roomToRead()
		if err != nil {
			return total, st.opError("write", err)
		}
		buf, k, rerr := read(int(min(int64(room), n-total)))
		if k > 0 {
			sent, err := st.sendBuf(buf, k)
			total += int64(sent)
			if err != nil {
				return total, st.opError("write", err)
			}
		} else if buf != nil {
			buf.free()
		}
		if rerr != nil && total < n {
			return total, rerr
		}
	}
	return total, nil
}

// roomToRead waits until bytes could be sent and returns how many. So a stream that
// can't send holds no buffer.
func (st *Stream) roomToRead() (int, error) {
	st.session.mu.Lock()
	defer st.session.mu.Unlock()
	err := st.roomLocked(readAtOnce)
	return min(int(st.send.window), readAtOnce), err
}

func (st *Stream) sendBuf(buf *sendBuf, n int) (int, error) {
	st.session.mu.Lock()
	defer st.session.mu.Unlock()
	return st.sendBufLocked(buf, n)
}

// plainReader reads into a buffer behind the place for a header.
func plainReader(r io.Reader) func(limit int) (*sendBuf, int, error) {
	return func(limit int) (*sendBuf, int, error) {
		buf := newSendBuf()
		n, err := r.Read(buf.b[headerSize : headerSize+limit])
		return buf, n, err
	}
}
