package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-tunnel/culvert/internal/crew"
	"github.com/culvert-tunnel/culvert/internal/datagram"
	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/splice"
	"github.com/culvert-tunnel/culvert/internal/tally"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Times of a session.
const (
	headerTimeout = 10 * time.Second      // from a stream's opening to its header
	pingInterval  = 15 * time.Second      // for the latency that users see; liveness is the link's own
	requestWait   = 50 * time.Millisecond // for a request that can't be served, to show it
	sendTimeout   = 10 * time.Second      // for one message to a node whose link had the time to be resumed
	farewell      = 3 * time.Second       // for the node to end the link of an agent that is done
	rebindMin     = time.Second           // before a Bind that may succeed later is tried again
	rebindMax     = 15 * time.Second
	storeMax      = 4 * time.Second // while the cluster has no state, which it has again for all at once
)

// requestSize is how much is shown of a request that can't be served, in bytes.
const requestSize = 64 << 10

// session is an agent's presence on a node and what it does there.
type session struct {
	agent *Agent
	seat  *seat
	life  *lifeline
	link  *link.Link // the first, with the control stream
	log   *slog.Logger

	write sync.Mutex // one message at a time on the control stream
	ctl   link.Stream
	said  bool // all there was to say; guarded by write

	streams   tally.Tally
	beginners crew.Crew // begin to serve streams

	webs webs

	binds bindings
	ended chan error       // buffered: why the link has ended, while its streams may still be ending
	moved chan *movedError // buffered: the node goes away
	left  atomic.Bool      // it does

	draining context.Context //nolint:containedctx // ends when the agent begins to drain
	drains   context.CancelFunc
}

// run serves the link until it ends or ctx does, in which case it drains. It returns when its
// streams have ended too.
func (s *session) run(ctx context.Context) {
	linkCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	s.draining, s.drains = context.WithCancel(linkCtx)
	defer s.drains()
	defer s.beginners.End()
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer s.link.Close() //nolint:errcheck // ended either way
	ended := make(chan error, 3)
	tasks.Go(func() { ended <- s.link.Run(linkCtx) })

	ctl, err := s.link.Open(ctx)
	if err != nil {
		s.ended <- fmt.Errorf("open control stream: %w", err)
		return
	}
	s.ctl = ctl
	tasks.Go(func() { ended <- s.serveControl(linkCtx) })
	tasks.Go(func() { ended <- s.serveStreams(linkCtx, s.link) })
	if len(s.life.key) > 0 {
		for range s.agent.cfg.Links - 1 {
			tasks.Go(func() { s.keepLink(linkCtx) })
		}
	}
	tasks.Go(func() { s.ping(linkCtx) })
	tasks.Go(func() { s.life.improve(linkCtx, s.link) })
	s.agent.endpoints.attach(s)
	s.bindWanted()

	select {
	case err = <-ended:
	case <-ctx.Done():
		s.drain()
	}
	cancel()
	_ = s.link.Close()
	s.agent.endpoints.detach(s)
	s.ended <- err
	tasks.Wait() // no stream is accepted any more
	<-s.streams.Empty()
	s.closeWebs()
}

// drain gives the names back and lets streams end.
func (s *session) drain() {
	s.agent.endpoints.detach(s)
	s.agent.mu.Lock()
	s.agent.mu.draining = true
	s.agent.mu.Unlock()
	s.log.Info("agent draining", "deadline", s.agent.cfg.Drain.String())
	_ = s.send(&tunnel.Control{Message: &tunnel.Control_Drain{Drain: &tunnel.Drain{
		Reason: "the agent is stopping", DeadlineMs: uint32(s.agent.cfg.Drain.Milliseconds()), //nolint:gosec // seconds
	}}})
	s.drains()
	finish, done := context.WithTimeout(context.WithoutCancel(s.draining), s.agent.cfg.Drain)
	defer done()
	s.drainWebs(finish)
	timeout := time.NewTimer(s.agent.cfg.Drain)
	defer timeout.Stop()
	select {
	case <-s.streams.Empty():
	case <-timeout.C:
		s.log.Warn("connections cut off at the end of the drain")
		return
	case <-s.link.Done():
		return
	case <-s.agent.aborted:
		return
	}
	// The last bytes of the streams may still be on their way. The end of the control
	// stream comes behind them, and the node answers it by ending the link.
	s.write.Lock()
	s.said = true
	_ = s.ctl.CloseWrite()
	s.write.Unlock()
	select {
	case <-s.link.Done():
	case <-time.After(farewell):
	case <-s.agent.aborted:
	}
}

// send writes one control message. What can't be sent ends the link, which is then
// made again.
func (s *session) send(m *tunnel.Control) error {
	s.write.Lock()
	defer s.write.Unlock()
	if s.said {
		return errDrained
	}
	_ = s.ctl.SetWriteDeadline(time.Now().Add(s.life.window + sendTimeout))
	err := tunnel.Write(s.ctl, m, tunnel.MaxControl)
	if err != nil {
		_ = s.link.Close()
	}
	return err
}

// serveControl reads the control stream to its end.
func (s *session) serveControl(ctx context.Context) error {
	for {
		var m tunnel.Control
		if err := tunnel.Read(s.ctl, &m, tunnel.MaxControl); err != nil {
			if errors.Is(err, io.EOF) {
				return errServerClosed
			}
			return err
		}
		if err := s.handle(ctx, &m); err != nil {
			return err
		}
	}
}

var (
	errServerClosed = errors.New("the server closed the connection")
	errDrained      = errors.New("the agent has ended the control stream")
)

func (s *session) handle(ctx context.Context, m *tunnel.Control) error {
	switch m := m.GetMessage().(type) {
	case *tunnel.Control_Bound:
		s.bound(m.Bound)
	case *tunnel.Control_Refused:
		return s.refused(ctx, m.Refused)
	case *tunnel.Control_Unbound:
		return s.lost(m.Unbound)
	case *tunnel.Control_Ping:
		return s.send(&tunnel.Control{Message: &tunnel.Control_Pong{Pong: &tunnel.Pong{
			Id: m.Ping.GetId(), SentUnixNs: m.Ping.GetSentUnixNs(),
		}}})
	case *tunnel.Control_Pong:
		s.seat.pong(m.Pong)
	case *tunnel.Control_Drain:
		s.leave(m.Drain)
	case *tunnel.Control_Notice:
		s.log.Warn("notice from the server", "code", tunnel.Clean(m.Notice.GetCode()), "message", tunnel.Clean(m.Notice.GetMessage()))
	}
	return nil
}

// ping measures the round trip through both processes.
func (s *session) ping(ctx context.Context) {
	ticker := time.NewTicker(pingInterval)
	defer ticker.Stop()
	for id := uint64(1); ; id++ {
		m := &tunnel.Ping{Id: id, SentUnixNs: time.Now().UnixNano()}
		if s.send(&tunnel.Control{Message: &tunnel.Control_Ping{Ping: m}}) != nil {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// serveStreams serves each stream the node opens in a goroutine of its own.
func (s *session) serveStreams(ctx context.Context, l *link.Link) error {
	for {
		st, err := l.Accept(ctx)
		if err != nil {
			return err
		}
		s.streams.Enter()
		s.beginners.Go(func() { s.serveStream(ctx, st) })
	}
}

// serveStream serves one stream. What is left of it, to join it to its upstream, is for others:
// dialling leaves a large stack behind, and a visitor may be idle for long.
func (s *session) serveStream(ctx context.Context, st link.Stream) {
	e, h := s.hear(ctx, st)
	if e == nil {
		s.streams.Leave()
		return
	}
	e.open.Add(1)
	ended := func() {
		e.open.Add(-1)
		s.streams.Leave()
	}
	var up net.Conn
	if !s.serveHere(ctx, st, e, h) {
		up = s.reach(ctx, st, e, h)
	}
	if up == nil {
		ended()
		return
	}
	s.join(ctx, st, up, e, h, func(n splice.Counts, err error) {
		s.served(e, h, n, err)
		ended()
	})
}

// hear reads what a stream is for; nil: for nothing that is served.
func (s *session) hear(ctx context.Context, st link.Stream) (*served, *tunnel.StreamHeader) {
	_ = st.SetReadDeadline(time.Now().Add(headerTimeout))
	h := &tunnel.StreamHeader{}
	if err := tunnel.Read(st, h, tunnel.MaxHeader); err != nil {
		s.log.Debug("read stream header", "error", err)
		_ = st.Reset()
		return nil, nil
	}
	_ = st.SetReadDeadline(time.Time{})
	e := s.await(ctx, h.GetEndpointId())
	if e == nil {
		reply(st, tunnel.CodeEndpointOffline, "the endpoint is not served here any more")
	}
	return e, h
}

// serveHere serves a stream to its end that is not just joined to the upstream, and reports
// whether it was one.
func (s *session) serveHere(ctx context.Context, st link.Stream, e *served, h *tunnel.StreamHeader) bool {
	if l := e.listener; l != nil {
		e.visits.Add(1)
		if err := l.serve(ctx, newVisit(st, e, h), s.link.Done()); err != nil {
			reply(st, codeOf(err), err.Error())
		}
		return true
	}
	t := e.upstream().Terminate
	switch {
	case t == nil:
		return false
	case t.HTTP:
		s.web(e).serve(st, h, t.config(s.log), s.link.Done())
	default:
		n, err := s.serveTerminated(ctx, st, e, h)
		s.served(e, h, n, err)
	}
	return true
}

// reach dials the upstream and says so on the stream; nil: that came to nothing.
func (s *session) reach(ctx context.Context, st link.Stream, e *served, h *tunnel.StreamHeader) net.Conn {
	up, alpn, err := e.dial(ctx, tunnel.VisitorFrom(h))
	if err != nil {
		s.unreached(st, e, h, err)
		return nil
	}
	if err := tunnel.Write(st, &tunnel.StreamReply{Alpn: alpn, Datagrams: beside(st, h) != nil}, tunnel.MaxHeader); err != nil {
		_ = up.Close()
		_ = st.Reset()
		return nil
	}
	if watch := s.agent.cfg.Watch; watch != nil && e.spec().Kind == endpoint.HTTP {
		up = watch(e.name, tunnel.Clean(h.GetVisitor()), up)
	}
	return up
}

// served is when a stream has ended.
func (s *session) served(e *served, h *tunnel.StreamHeader, n splice.Counts, err error) {
	e.count(n.Forward, n.Backward)
	s.log.Debug("stream served", "name", e.name, "endpoint", h.GetEndpointId(), "visitor", tunnel.Clean(h.GetVisitorId()),
		"remote", tunnel.Clean(h.GetVisitor()), "bytes_in", n.Forward, "bytes_out", n.Backward, "error", err)
}

// unreached answers for an upstream that could not be dialled. Who watches is told what
// of the request is there, which came with the header.
func (s *session) unreached(st link.Stream, e *served, h *tunnel.StreamHeader, err error) {
	if tell := s.agent.cfg.Unreached; tell != nil && e.spec().Kind == endpoint.HTTP {
		request := make([]byte, requestSize)
		_ = st.SetReadDeadline(time.Now().Add(requestWait))
		n, _ := st.Read(request)
		tell(e.name, tunnel.Clean(h.GetVisitor()), request[:n], err)
	}
	reply(st, codeOf(err), "the upstream could not be reached")
}

// beside is what carries datagrams beside a stream; nil: nothing does, or the node does not
// take them.
func beside(st link.Stream, h *tunnel.StreamHeader) link.Datagrams {
	d, ok := st.(link.Datagrams)
	if !ok || !h.GetDatagrams() {
		return nil
	}
	return d
}

// join carries what streams of this kind carry to its end, and hands done what that was.
func (s *session) join(ctx context.Context, st link.Stream, up net.Conn, e *served, h *tunnel.StreamHeader, done func(splice.Counts, error)) {
	if e.asked.Kind == endpoint.UDP {
		f := &flow{endpoint: e, up: up, queue: datagram.NewQueue(s.agent.queued), beside: beside(st, h)}
		go func() { done(f.carry(ctx, s.draining, st)) }()
		return
	}
	splice.Start(ctx, st, up, splice.Config{}, done)
}

// reply says no to a stream and ends it. The stream is closed, not reset, so that
// the answer arrives; what the visitor sent is thrown away by the closing.
func reply(st net.Conn, code tunnel.Code, message string) {
	_ = st.SetDeadline(time.Now().Add(sendTimeout))
	_ = tunnel.Write(st, &tunnel.StreamReply{Code: string(code), Message: message}, tunnel.MaxHeader)
	_ = st.Close()
}
