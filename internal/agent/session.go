package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/splice"
	"github.com/culvert-tunnel/culvert/internal/tally"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Times of a session.
const (
	headerTimeout = 10 * time.Second // from a stream's opening to its header
	pingInterval  = 15 * time.Second // for the latency that users see; liveness is the link's own
	sendTimeout   = 10 * time.Second // for one control message
	farewell      = 3 * time.Second  // for the node to end the link of an agent that is done
	rebindMin     = time.Second      // before a Bind that may succeed later is tried again
	rebindMax     = 15 * time.Second
)

// session is one link and what the agent does on it.
type session struct {
	agent *Agent
	link  *link.Link
	log   *slog.Logger

	write sync.Mutex // one message at a time on the control stream
	ctl   link.Stream

	streams tally.Tally
}

// run serves the link until it ends or ctx does, in which case it drains.
func (s *session) run(ctx context.Context) error {
	linkCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer s.link.Close() //nolint:errcheck // ended either way
	ended := make(chan error, 3)
	tasks.Go(func() { ended <- s.link.Run(linkCtx) })

	ctl, err := s.link.Open(ctx)
	if err != nil {
		return fmt.Errorf("open control stream: %w", err)
	}
	s.ctl = ctl
	tasks.Go(func() { ended <- s.serveControl(linkCtx) })
	tasks.Go(func() { ended <- s.serveStreams(linkCtx) })
	tasks.Go(func() { s.ping(linkCtx) })
	for i := range s.agent.endpoints {
		s.bind(i)
	}

	select {
	case err = <-ended:
	case <-ctx.Done():
		s.drain()
	}
	cancel()
	_ = s.link.Close()
	tasks.Wait() // no stream is accepted any more
	<-s.streams.Empty()
	return err
}

// drain gives the names back and lets streams end.
func (s *session) drain() {
	s.log.Info("agent draining", "deadline", s.agent.cfg.Drain.String())
	_ = s.send(&tunnel.Control{Message: &tunnel.Control_Drain{Drain: &tunnel.Drain{
		Reason: "the agent is stopping", DeadlineMs: uint32(s.agent.cfg.Drain.Milliseconds()), //nolint:gosec // seconds
	}}})
	timeout := time.NewTimer(s.agent.cfg.Drain)
	defer timeout.Stop()
	select {
	case <-s.streams.Empty():
	case <-timeout.C:
		s.log.Warn("connections cut off at the end of the drain")
		return
	case <-s.link.Done():
		return
	}
	// The last bytes of the streams may still be on their way. The end of the control
	// stream comes behind them, and the node answers it by ending the link.
	s.write.Lock()
	_ = s.ctl.CloseWrite()
	s.write.Unlock()
	select {
	case <-s.link.Done():
	case <-time.After(farewell):
	}
}

// bind asks for endpoint i. The answer comes on the control stream.
func (s *session) bind(i int) {
	e := s.agent.endpoints[i]
	if !e.wanted() {
		return
	}
	_ = s.send(&tunnel.Control{Message: &tunnel.Control_Bind{Bind: &tunnel.Bind{
		Request: uint64(i), Spec: tunnel.SpecToWire(e.spec()), //nolint:gosec // an index
	}}})
}

// send writes one control message. What can't be sent ends the link, which is then
// made again.
func (s *session) send(m *tunnel.Control) error {
	s.write.Lock()
	defer s.write.Unlock()
	_ = s.ctl.SetWriteDeadline(time.Now().Add(sendTimeout))
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

var errServerClosed = errors.New("the server closed the connection")

func (s *session) handle(ctx context.Context, m *tunnel.Control) error {
	switch m := m.GetMessage().(type) {
	case *tunnel.Control_Bound:
		if e := s.agent.byRequest(m.Bound.GetRequest()); e != nil {
			urls := e.online(m.Bound)
			s.agent.announce()
			s.log.Info("endpoint online", "name", e.name, "url", urls[0], "upstream", e.upstream.String())
			if s.agent.cfg.Online != nil {
				s.agent.cfg.Online(e.name, urls)
			}
		}
	case *tunnel.Control_Refused:
		return s.refused(ctx, m.Refused)
	case *tunnel.Control_Unbound:
		return s.agent.lost(m.Unbound)
	case *tunnel.Control_Ping:
		return s.send(&tunnel.Control{Message: &tunnel.Control_Pong{Pong: &tunnel.Pong{
			Id: m.Ping.GetId(), SentUnixNs: m.Ping.GetSentUnixNs(),
		}}})
	case *tunnel.Control_Pong:
		s.agent.pong(m.Pong)
	case *tunnel.Control_Drain:
		s.log.Info("server is draining", "reason", tunnel.Clean(m.Drain.GetReason()))
	case *tunnel.Control_Notice:
		s.log.Warn("notice from the server", "code", tunnel.Clean(m.Notice.GetCode()), "message", tunnel.Clean(m.Notice.GetMessage()))
	}
	return nil
}

// refused handles the answer no to a Bind. What may succeed later is asked for
// again on this link; a name that this agent once had is also waited for, because
// an agent that was up must not give up over somebody else's mistake.
func (s *session) refused(ctx context.Context, m *tunnel.Refused) error {
	e := s.agent.byRequest(m.GetRequest())
	if e == nil {
		return nil
	}
	err := &tunnel.BindError{Code: tunnel.Code(m.GetCode()), Message: m.GetMessage(), Retryable: m.GetRetryable()}
	again, wait := e.refused(err)
	if !again {
		if err.Code == tunnel.CodeSuperseded {
			return s.agent.leftEndpoints(err)
		}
		return fmt.Errorf("endpoint %s: %w", e.name, err)
	}
	s.log.Warn("endpoint refused", "name", e.name, "code", err.Code, "error", err, "retry_in", wait.String())
	i := int(m.GetRequest()) //nolint:gosec // byRequest found it
	time.AfterFunc(wait, func() {
		if ctx.Err() == nil {
			s.bind(i)
		}
	})
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
func (s *session) serveStreams(ctx context.Context) error {
	for {
		st, err := s.link.Accept(ctx)
		if err != nil {
			return err
		}
		s.streams.Enter()
		go func() {
			defer s.streams.Leave()
			s.serveStream(ctx, st)
		}()
	}
}

// serveStream joins one stream to its upstream.
func (s *session) serveStream(ctx context.Context, st link.Stream) {
	_ = st.SetReadDeadline(time.Now().Add(headerTimeout))
	var h tunnel.StreamHeader
	if err := tunnel.Read(st, &h, tunnel.MaxHeader); err != nil {
		s.log.Debug("read stream header", "error", err)
		_ = st.Reset()
		return
	}
	_ = st.SetReadDeadline(time.Time{})
	e := s.agent.await(ctx, h.GetEndpointId())
	if e == nil {
		reply(st, tunnel.CodeEndpointOffline, "the endpoint is not served here any more")
		return
	}
	up, err := e.dial(ctx)
	if err != nil {
		reply(st, codeOf(err), "the upstream could not be reached")
		return
	}
	if err := tunnel.Write(st, &tunnel.StreamReply{}, tunnel.MaxHeader); err != nil {
		_ = up.Close()
		_ = st.Reset()
		return
	}
	n, err := splice.Join(ctx, st, up, splice.Config{})
	e.count(n.Forward, n.Backward)
	s.log.Debug("stream served", "name", e.name, "endpoint", h.GetEndpointId(), "visitor", tunnel.Clean(h.GetVisitorId()),
		"remote", tunnel.Clean(h.GetVisitor()), "bytes_in", n.Forward, "bytes_out", n.Backward, "error", err)
}

// reply says no to a stream and ends it. The stream is closed, not reset, so that
// the answer arrives; what the visitor sent is thrown away by the closing.
func reply(st net.Conn, code tunnel.Code, message string) {
	_ = st.SetDeadline(time.Now().Add(sendTimeout))
	_ = tunnel.Write(st, &tunnel.StreamReply{Code: string(code), Message: message}, tunnel.MaxHeader)
	_ = st.Close()
}
