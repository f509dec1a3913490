package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/culvert-tunnel/culvert/internal/tally"
	"github.com/culvert-tunnel/culvert/yamux"
)

// quicSession carries streams by QUIC, which has its own. What Yamux over a resumable
// connection does for the other transports is QUIC's work here: it sends again what was
// lost, and a connection outlives a change of address. It ends when nothing was heard for
// the resume window, and can't be resumed by another connection then.
type quicSession struct {
	conn      *quic.Conn
	paths     *quicPaths // nil: the other side has dialled
	heartbeat time.Duration
	resume    Resume

	done     chan struct{}
	accepted chan *quicStream
	streams  tally.Tally  // that have not ended in both directions
	queued   atomic.Int64 // bytes that wait in Write
	began    time.Time
	written  atomic.Int64 // when Write last returned, in nanoseconds since began
	asking   atomic.Bool  // a datagram that asks for life waits to be sent
	tasks    sync.WaitGroup
	flows    flows

	mu struct {
		sync.Mutex
		err     error
		closing bool          // no stream is opened any more
		since   time.Time     // of the silence being noticed, while back is not nil
		back    chan struct{} // closed when it is again, or the link ends
	}
}

// newQUICSession makes the carrier of a link over a connection on which the handshake is
// done. The other side may have so many streams that wait to be accepted.
func newQUICSession(c *quicConn, cfg Config, incoming int) *quicSession {
	_ = c.Stream.Close()
	c.CancelRead(quicDone)
	s := &quicSession{
		conn: c.conn, paths: c.paths, heartbeat: cfg.Heartbeat,
		began: time.Now(), done: make(chan struct{}), accepted: make(chan *quicStream, min(incoming, waiting)),
	}
	if s.heartbeat <= 0 {
		s.heartbeat = DefaultHeartbeat
	}
	if cfg.Resume != nil {
		s.resume = *cfg.Resume
		if s.resume.Window <= 0 {
			s.resume.Window = ResumeWindow
		}
	}
	s.flows.init()
	return s
}

// Run implements carrier.
func (s *quicSession) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		s.linger()
		s.end(context.Cause(ctx))
	})
	defer stop()
	s.tasks.Go(s.take)
	s.tasks.Go(s.watch)
	s.tasks.Go(func() { s.flows.receive(s.conn) })
	<-s.conn.Context().Done()
	s.end(s.explain(context.Cause(s.conn.Context())))
	s.tasks.Wait()
	return s.Err()
}

// take takes the streams that the other side opens, and resets those that find no room.
func (s *quicSession) take() {
	for {
		q, err := s.conn.AcceptStream(s.conn.Context())
		if err != nil {
			return
		}
		st := s.stream(q)
		select {
		case s.accepted <- st:
		default:
			_ = st.Reset()
		}
	}
}

func (s *quicSession) stream(q *quic.Stream) *quicStream {
	s.streams.Enter()
	return &quicStream{session: s, quic: q}
}

// Open implements carrier.
func (s *quicSession) Open(ctx context.Context) (Stream, error) {
	if err := s.mayOpen(); err != nil {
		return nil, err
	}
	q, err := s.conn.OpenStreamSync(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, s.lost(err)
	}
	return s.stream(q), nil
}

func (s *quicSession) mayOpen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.err == nil && s.mu.closing {
		return yamux.ErrGoAway
	}
	return s.mu.err
}

// Accept implements carrier.
func (s *quicSession) Accept(ctx context.Context) (Stream, error) {
	select {
	case st := <-s.accepted:
		return st, nil
	case <-s.done:
		return nil, s.Err()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close implements carrier.
func (s *quicSession) Close() error {
	s.end(yamux.ErrSessionClosed)
	return nil
}

// Shutdown implements carrier.
func (s *quicSession) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.mu.closing = true
	s.mu.Unlock()
	var err error
	select {
	case <-s.streams.Empty():
		s.linger()
	case <-s.done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.end(yamux.ErrSessionClosed)
	return err
}

// wrote notes that something was written.
func (s *quicSession) wrote() { s.written.Store(int64(time.Since(s.began))) }

// linger waits until what was last written has had the time to arrive, if need be for the
// second time.
func (s *quicSession) linger() {
	const atLeast, atMost = 50 * time.Millisecond, time.Second
	needs := min(atLeast+3*s.RTT(), atMost) - (time.Since(s.began) - time.Duration(s.written.Load()))
	if needs <= 0 {
		return
	}
	select {
	case <-time.After(needs):
	case <-s.done:
	}
}

// end ends the session, once.
func (s *quicSession) end(err error) {
	s.mu.Lock()
	if s.mu.err != nil {
		s.mu.Unlock()
		return
	}
	s.mu.err = err
	close(s.done) // before any stream fails, so that who sees one fail can tell why
	if s.mu.back != nil {
		close(s.mu.back)
		s.mu.back = nil
	}
	s.mu.Unlock()
	s.flows.close()
	_ = s.conn.CloseWithError(quicClosed, "")
	if s.paths != nil {
		s.paths.close()
	}
}

// lost ends the session by an error of the connection that one of its streams met, and
// returns what to say of it.
func (s *quicSession) lost(err error) error {
	s.end(s.explain(err))
	return s.Err()
}

// explain says why a connection has ended.
func (s *quicSession) explain(err error) error {
	var told *quic.ApplicationError
	var idle *quic.IdleTimeoutError
	switch {
	case errors.As(err, &told) && told.Remote && told.ErrorCode == quicClosed:
		return yamux.ErrPeerClosed
	case errors.As(err, &idle):
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	return fmt.Errorf("link by QUIC: %w", err)
}

// errSilent says that nothing was heard for too long.
var errSilent = &net.OpError{Op: "read", Net: "quic", Err: syscall.ETIMEDOUT}

// Done implements carrier.
func (s *quicSession) Done() <-chan struct{} { return s.done }

// Err implements carrier.
func (s *quicSession) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.err
}

// Queued implements carrier.
func (s *quicSession) Queued() int { return int(s.queued.Load()) }

// RTT implements carrier.
func (s *quicSession) RTT() time.Duration { return s.conn.ConnectionStats().SmoothedRTT }

// RemoteAddr implements carrier.
func (s *quicSession) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

// Away implements carrier.
func (s *quicSession) Away() (since time.Time, back <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.since, s.mu.back
}

// Liveness is looked at so many times in a heartbeat. In silence the other side is asked
// for life at some of these times, and away after others: 12 s at most by the default.
const (
	ticks     = 4
	ticksAsk  = ticks - 1
	ticksAway = 2 * ticks
)

// watch asks a silent other side for life, and ends the session when it has been away for
// the resume window. Meanwhile the side that dialled looks for another way to it.
func (s *quicSession) watch() {
	tick := time.NewTicker(s.heartbeat / ticks)
	defer tick.Stop()
	var moving sync.WaitGroup
	defer moving.Wait()
	found, looking := make(chan error, 1), false
	heard := s.conn.ConnectionStats().PacketsReceived
	for silent := 0; ; {
		select {
		case <-tick.C:
		case err := <-found:
			looking = false
			if err == nil {
				silent = 0 // of the new way nothing is known yet
				s.ask()    // the node comes along when it hears more than probes
			}
			continue
		case <-s.done:
			return
		case <-s.conn.Context().Done():
			return
		}
		if now := s.conn.ConnectionStats().PacketsReceived; now != heard {
			heard, silent = now, 0
			s.present()
			continue
		}
		silent++
		switch {
		case silent < ticksAway:
			if silent%ticksAsk == 0 {
				s.ask()
			}
			continue
		case s.absent() > s.resume.Window:
			s.end(errSilent)
			return
		}
		s.ask()
		if s.paths != nil && !looking {
			looking = true
			moving.Go(func() { found <- s.paths.move(s.conn.Context(), s.conn) })
		}
	}
}

// askSize is that of a datagram that asks for life, in bytes: a node that has lost its memory
// answers to no packet that is as small as the answer (RFC 9000, section 10.3).
const askSize = 64

// ask sends something that has to be acknowledged, without waiting for its turn.
func (s *quicSession) ask() {
	if s.asking.Swap(true) {
		return
	}
	s.tasks.Go(func() {
		_ = s.conn.SendDatagram(make([]byte, askSize)) // of askFlow
		s.asking.Store(false)
	})
}

// absent notes that the other side has not been heard of for too long, and returns since
// when that is so.
func (s *quicSession) absent() time.Duration {
	s.mu.Lock()
	news := s.mu.back == nil && s.mu.err == nil
	if news {
		s.mu.since, s.mu.back = time.Now(), make(chan struct{})
	}
	away := time.Since(s.mu.since)
	s.mu.Unlock()
	if news && s.resume.Lost != nil {
		s.resume.Lost(errSilent)
	}
	return away
}

// present notes that it was.
func (s *quicSession) present() {
	s.mu.Lock()
	news := s.mu.back != nil
	if news {
		close(s.mu.back)
		s.mu.back, s.mu.since = nil, time.Time{}
	}
	s.mu.Unlock()
	if news && s.resume.Back != nil {
		s.resume.Back()
	}
}
