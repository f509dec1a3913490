package yamux

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Session carries streams over one connection. Make one with Client or Server, on
// the side that dialled and the one that accepted the connection; then call Run.
// All methods may be called by several goroutines.
type Session struct {
	conn   net.Conn
	wire   wire
	cfg    Config
	client bool
	began  time.Time

	done       chan struct{}
	acceptable chan struct{}  // holds a token while streams may wait for Accept
	tasks      sync.WaitGroup // drainers; grows only while mu.err is nil

	// Of the goroutine in Run.
	in   inbox
	held held
	iov  [][]byte // storage

	heard             atomic.Int64 // now, when a byte last came
	chat              atomic.Int64 // now, when something short last came on a stream that is no bulk
	crowd             atomic.Int32 // frames that came in together lately
	bytesIn, bytesOut atomic.Int64
	taken             atomic.Int64 // bytes that the connection took; ahead of bytesOut within a batch
	extra             Budget       // windows beyond the initial ones
	path              path

	mu struct {
		sync.Mutex
		err          error // why the session ended
		streams      map[uint32]*Stream
		incoming     int // streams that the other side opened
		accept       []*Stream
		nextID       uint32
		unacked      int           // streams opened here that the other side has not acknowledged
		acked        chan struct{} // closed when there are fewer; nil while nobody waits
		drained      chan struct{} // closed when no stream is left and all is sent; likewise
		goneAway     bool          // this side said so
		peerGoneAway bool
		patience     patience
		lazy         []*Stream // may still owe the other side a SYN or ACK
		lazyTimer    *time.Timer
		outbox
	}
}

// Client makes a session on the side that dialled conn. Both sides must not be
// clients: the role decides the numbers of streams.
func Client(conn net.Conn, cfg Config) *Session { return newSession(conn, cfg, true) }

// Server makes a session on the side that accepted conn.
func Server(conn net.Conn, cfg Config) *Session { return newSession(conn, cfg, false) }

func newSession(conn net.Conn, cfg Config, client bool) *Session {
	s := &Session{
		conn: conn, cfg: cfg.withDefaults(), client: client, began: time.Now(),
		done: make(chan struct{}), acceptable: make(chan struct{}, 1),
	}
	s.wire = newWire(conn, &s.taken)
	s.extra.limit = int64(s.cfg.SessionWindow)
	s.path.init()
	s.mu.streams = make(map[uint32]*Stream)
	s.mu.nextID = 2
	if client {
		s.mu.nextID = 1
	}
	s.mu.batchLimit = maxBatch
	return s
}

// Run reads from the connection and serves the session until it ends: by Close or
// Shutdown (ErrSessionClosed), by the other side (ErrPeerClosed, *GoAwayError), by
// silence (ErrKeepAlive), by a broken protocol (*ProtocolError), by an error of the
// connection, or by the end of ctx (its cause). It returns why, after the last
// goroutine of the session. Call it once.
func (s *Session) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.end(context.Cause(ctx)) })
	defer stop()
	s.startKeepAlive()
	s.end(s.readLoop())
	s.tasks.Wait()
	return s.Err()
}

// Open opens a stream. It does not wait for the other side unless too many streams
// are open that the other side has not acknowledged; then it waits until ctx ends.
// The other side learns of the stream with its first bytes, or soon after.
func (s *Session) Open(ctx context.Context) (*Stream, error) {
	for {
		st, wait, err := s.open()
		if st != nil || err != nil {
			return st, err
		}
		select {
		case <-wait:
		case <-s.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Session) open() (*Stream, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.mu.err != nil:
		return nil, nil, s.mu.err
	case s.mu.goneAway || s.mu.peerGoneAway:
		return nil, nil, ErrGoAway
	case s.mu.nextID > 1<<32-3:
		return nil, nil, ErrStreamIDs
	case s.mu.unacked >= s.cfg.OpenBacklog:
		if s.mu.acked == nil {
			s.mu.acked = make(chan struct{})
		}
		return nil, s.mu.acked, nil
	}
	st := s.newStream(s.mu.nextID)
	s.mu.nextID += 2
	s.mu.unacked++
	s.mu.streams[st.id] = st
	st.send.unacked = true
	st.send.flags = flagSYN
	st.opening.Store(true)
	s.oweLocked(st)
	return st, nil, nil
}

// ackedLocked notes that the other side has acknowledged st, or ended it.
func (s *Session) ackedLocked(st *Stream) {
	st.send.unacked = false
	s.mu.unacked--
	s.wakeOpenersLocked()
}

func (s *Session) wakeOpenersLocked() {
	if s.mu.acked != nil {
		close(s.mu.acked)
		s.mu.acked = nil
	}
}

// Accept waits for a stream that the other side opens, until ctx or the session
// ends.
func (s *Session) Accept(ctx context.Context) (*Stream, error) {
	for {
		if st, err := s.accept(); st != nil || err != nil {
			return st, err
		}
		select {
		case <-s.acceptable:
		case <-s.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Session) accept() (*Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.err != nil {
		return nil, s.mu.err
	}
	if len(s.mu.accept) == 0 {
		return nil, nil //nolint:nilnil // nothing yet
	}
	st := s.mu.accept[0]
	s.mu.accept[0] = nil
	if s.mu.accept = s.mu.accept[1:]; len(s.mu.accept) == 0 {
		s.mu.accept = nil
	} else {
		select {
		case s.acceptable <- struct{}{}:
		default:
		}
	}
	s.oweLocked(st)
	return st, nil
}

// removeLocked forgets a stream that has ended in both directions.
func (s *Session) removeLocked(st *Stream) {
	if s.mu.streams[st.id] != st {
		return
	}
	delete(s.mu.streams, st.id)
	if (st.id%2 == 1) != s.client {
		s.mu.incoming--
	}
	if st.send.unacked {
		s.ackedLocked(st)
	}
	if st.send.linger != nil {
		st.send.linger.Stop()
		st.send.linger = nil
	}
	s.checkDrainedLocked()
}

// GoAway tells the other side to open no more streams, and opens none here. Those
// that are open go on.
func (s *Session) GoAway() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.err != nil {
		return s.mu.err
	}
	if !s.mu.goneAway {
		s.mu.goneAway = true
		s.controlLocked(header{kind: typeGoAway, length: uint32(GoAwayNormal)})
		s.wakeOpenersLocked()
	}
	return nil
}

// Shutdown says GoAway, waits until all streams have ended and everything is sent,
// and closes the session. When ctx ends first, it closes all the same and returns
// ctx's error.
func (s *Session) Shutdown(ctx context.Context) error {
	err := s.GoAway()
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.mu.drained == nil {
		s.mu.drained = make(chan struct{})
	}
	drained := s.mu.drained
	s.checkDrainedLocked()
	s.mu.Unlock()
	select {
	case <-drained:
	case <-s.done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	_ = s.Close()
	return err
}

func (s *Session) checkDrainedLocked() {
	if s.mu.drained != nil && len(s.mu.streams) == 0 && !s.mu.writing {
		close(s.mu.drained)
		s.mu.drained = nil
	}
}

// Close ends the session and all its streams at once.
func (s *Session) Close() error {
	s.end(ErrSessionClosed)
	s.tasks.Wait()
	return nil
}

// end ends the session, once.
func (s *Session) end(err error) {
	s.mu.Lock()
	if s.mu.err != nil {
		s.mu.Unlock()
		return
	}
	s.tasks.Add(1) // who waits for the end waits for all of it
	defer s.tasks.Done()
	s.mu.err = err
	close(s.done) // before any stream fails, so that who sees one fail can tell why
	streams := s.mu.streams
	s.mu.streams = make(map[uint32]*Stream)
	for _, st := range streams {
		st.send.failLocked(err)
	}
	s.mu.accept, s.mu.lazy = nil, nil
	if s.mu.lazyTimer != nil {
		s.mu.lazyTimer.Stop()
	}
	s.wakeOpenersLocked()
	mayWrite := !s.mu.writing
	s.mu.writing = true // for ever, or until the drainer sees err
	s.mu.Unlock()

	if mayWrite {
		s.farewell(err)
	}
	s.stopKeepAlive()
	_ = s.conn.Close()
	for _, st := range streams {
		st.endRecv(err)
	}
}

// farewell tells the other side why the session ends, if that can be done at once.
func (s *Session) farewell(why error) {
	code := GoAwayNormal
	if _, ok := why.(*ProtocolError); ok { //nolint:errorlint // made here, never wrapped
		code = GoAwayProtocol
	}
	s.mu.inline = [headerSize]byte{}
	header{kind: typeGoAway, length: uint32(code)}.put(s.mu.inline[:])
	_, _, _ = s.wire.try([]part{{b: s.mu.inline[:]}})
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err says why the session ended; nil while it goes on.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.err
}

// LocalAddr is the connection's.
func (s *Session) LocalAddr() net.Addr { return s.conn.LocalAddr() }

// RemoteAddr is the connection's.
func (s *Session) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }
