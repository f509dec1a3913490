package yamux

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Stream is one of a session's streams. It is a [net.Conn] whose directions end
// each by itself.
type Stream struct {
	session *Session
	id      uint32
	opening atomic.Bool // the SYN is not sent yet
	recv    recvHalf
	send    sendHalf
}

// sendHalf is the sending half of a stream, guarded by Session.mu.
type sendHalf struct {
	cond     sync.Cond
	err      error // why nothing can be sent any more
	deadline *deadline
	linger   *time.Timer // bounds the wait for the other side after Close
	window   uint32      // credit
	recent   uint32      // bytes sent in this cycle of the session
	cycle    uint32
	flags    uint16 // SYN or ACK that the next frame is to carry
	queued   uint8  // frames in the queues
	bulk     bool   // the queued frames are in the bulk queue
	fin      bool   // FIN is queued or sent
	peerFIN  bool
	unacked  bool // opened here, not acknowledged yet
	closed   bool // by Close
}

func (s *Session) newStream(id uint32) *Stream {
	st := &Stream{session: s, id: id}
	st.send.cond.L = &s.mu
	st.send.window = InitialWindow
	st.recv.cond.L = &st.recv
	st.recv.window, st.recv.size = InitialWindow, InitialWindow
	st.recv.epoch = s.now()
	return st
}

// failLocked ends the sending half. An orderly end is not made worse.
func (h *sendHalf) failLocked(err error) {
	if h.err == nil && !h.fin {
		h.err = err
	}
	h.deadline.stop()
	if h.linger != nil {
		h.linger.Stop()
		h.linger = nil
	}
	h.cond.Broadcast()
}

// ID is the stream's number in its session.
func (st *Stream) ID() uint32 { return st.id }

// Read implements net.Conn. After the other side's orderly end it returns io.EOF;
// after a reset or the end of the session an error that is ECONNRESET,
// net.ErrClosed or ETIMEDOUT.
func (st *Stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, credit, err := st.read(p)
	st.session.credit(st, credit)
	return n, st.opError("read", err)
}

// CloseWrite ends this side's direction, behind what was written.
func (st *Stream) CloseWrite() error {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	return st.opError("close", st.finishLocked())
}

func (st *Stream) finishLocked() error {
	h := &st.send
	if h.fin || h.err != nil {
		return h.err
	}
	h.fin = true
	st.session.sendFINLocked(st)
	h.cond.Broadcast()
	if h.peerFIN {
		st.session.removeLocked(st)
	}
	return nil
}

// Close ends the stream: this side's direction in order, behind what was written,
// the other one by not reading any more. If the other side sends on, it gets a
// reset. Close does not wait, and returns nil.
func (st *Stream) Close() error {
	s := st.session
	s.mu.Lock()
	_ = st.finishLocked() // else it has ended, which is what is asked for
	first := !st.send.closed
	st.send.closed = true
	if first && s.mu.streams[st.id] == st {
		st.send.linger = time.AfterFunc(s.cfg.CloseTimeout, func() { _ = st.Reset() })
	}
	st.send.deadline.stop()
	s.mu.Unlock()
	if first {
		s.credit(st, st.discardRecv())
		st.stopReadDeadline()
	}
	return nil
}

// Reset ends both directions at once. The other side sees ECONNRESET, and this
// side net.ErrClosed. It does nothing to a stream that has ended.
func (st *Stream) Reset() error {
	s := st.session
	s.mu.Lock()
	live := s.mu.streams[st.id] == st
	if live {
		s.removeLocked(st)
		s.sendRSTLocked(st)
	}
	if st.send.err == nil {
		st.send.err = ErrStreamClosed
	}
	st.send.closed = true
	st.send.failLocked(ErrStreamClosed)
	s.mu.Unlock()
	_ = st.discardRecv() // nobody is left to give credit to
	st.endRecv(ErrStreamClosed)
	st.stopReadDeadline()
	return nil
}

// LocalAddr is the connection's.
func (st *Stream) LocalAddr() net.Addr { return st.session.conn.LocalAddr() }

// RemoteAddr is the connection's.
func (st *Stream) RemoteAddr() net.Addr { return st.session.conn.RemoteAddr() }

// SetDeadline implements net.Conn.
func (st *Stream) SetDeadline(t time.Time) error {
	if err := st.SetReadDeadline(t); err != nil {
		return err
	}
	return st.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (st *Stream) SetReadDeadline(t time.Time) error {
	r := &st.recv
	r.Lock()
	defer r.Unlock()
	if r.spent {
		return st.opError("set", ErrStreamClosed)
	}
	if r.deadline == nil {
		if t.IsZero() {
			return nil
		}
		r.deadline = new(deadline)
	}
	r.deadline.set(t, r, r)
	return nil
}

func (st *Stream) stopReadDeadline() {
	st.recv.Lock()
	defer st.recv.Unlock()
	st.recv.deadline.stop()
}

// SetWriteDeadline implements net.Conn. A Write that has begun to be sent is not
// cut in the middle: its deadline ends only its own wait, and it says how many of
// its bytes are on their way.
func (st *Stream) SetWriteDeadline(t time.Time) error {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &st.send
	if h.closed {
		return st.opError("set", ErrStreamClosed)
	}
	if h.deadline == nil {
		if t.IsZero() {
			return nil
		}
		h.deadline = new(deadline)
	}
	h.deadline.set(t, &s.mu, &h.cond)
	return nil
}
