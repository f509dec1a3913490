package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// URLs tells the public URLs of a name: the one to show first, then the others.
type URLs func(name endpoint.Name, spec endpoint.Spec) []string

// sendTimeout bounds one message to an agent that takes nothing, though its link has
// had the time to be resumed. The link is closed then: a message cut in the middle can't
// be mended.
const sendTimeout = link.ResumeWindow + 10*time.Second

// serveControl serves the session's control stream until it ends.
func (s *agentSession) serveControl(ctx context.Context, l *link.Link) error {
	accept, cancel := context.WithTimeout(ctx, handshakeTimeout)
	stop := context.AfterFunc(accept, func() { _ = l.Close() }) // not every multiplexer heeds a context
	ctl, err := l.Accept(accept)
	stop()
	cancel()
	if err != nil {
		return err
	}
	s.write.Lock()
	s.ctl = ctl
	s.write.Unlock()
	defer ctl.Close() //nolint:errcheck // the link ends with it
	return s.follow(ctx, ctl)
}

// follow does what the agent asks for until the control stream ends. Idle agents' goroutines
// are here, which should take little stack for that.
//
//go:noinline
func (s *agentSession) follow(ctx context.Context, ctl link.Stream) error {
	handled := make(chan error)
	for {
		var m tunnel.Control
		if err := tunnel.Read(ctl, &m, tunnel.MaxControl); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		go func() { handled <- s.handle(ctx, &m) }() // binding takes a large stack, which this idle goroutine would keep
		if err := <-handled; err != nil {
			return err
		}
	}
}

func (s *agentSession) handle(ctx context.Context, m *tunnel.Control) error {
	switch m := m.GetMessage().(type) {
	case *tunnel.Control_Bind:
		answer, route := s.bind(ctx, m.Bind)
		err := s.send(answer)
		if route != nil && s.cfg.Bound != nil {
			s.cfg.Bound(route)
		}
		return err
	case *tunnel.Control_Unbind:
		s.unbind(m.Unbind.GetEndpointId())
	case *tunnel.Control_Ping:
		return s.send(&tunnel.Control{Message: &tunnel.Control_Pong{Pong: &tunnel.Pong{
			Id: m.Ping.GetId(), SentUnixNs: m.Ping.GetSentUnixNs(),
		}}})
	case *tunnel.Control_Health:
		s.health(m.Health)
	case *tunnel.Control_Drain:
		s.drain()
	}
	return nil // what this version doesn't know is ignored
}

// send writes one message to the agent.
func (s *agentSession) send(m *tunnel.Control) error {
	s.write.Lock()
	defer s.write.Unlock()
	if s.ctl == nil {
		return nil // not there yet: nothing bound that could be spoken of
	}
	_ = s.ctl.SetWriteDeadline(time.Now().Add(sendTimeout))
	err := tunnel.Write(s.ctl, m, tunnel.MaxControl)
	if err != nil {
		_ = s.ctl.Reset()
	}
	return err
}

// bind binds an endpoint and returns the answer, and the route if it is yes.
func (s *agentSession) bind(ctx context.Context, m *tunnel.Bind) (*tunnel.Control, *registry.Route) {
	route, err := s.bindSpec(ctx, m.GetSpec())
	if err != nil {
		var b *tunnel.BindError
		if !errors.As(err, &b) {
			b = &tunnel.BindError{Code: tunnel.CodeNameInvalid, Message: err.Error()}
		}
		s.log.Warn("endpoint refused", "code", b.Code, "kind", tunnel.Clean(m.GetSpec().GetKind()),
			"host", tunnel.Clean(m.GetSpec().GetHost()), "label", tunnel.Clean(m.GetSpec().GetLabel()), "port", m.GetSpec().GetPort())
		s.tell(EndpointRefused, tunnel.Clean(wanted(m.GetSpec())), b.Code)
		return &tunnel.Control{Message: &tunnel.Control_Refused{Refused: &tunnel.Refused{
			Request: m.GetRequest(), Code: string(b.Code), Message: b.Message, Retryable: b.Retryable,
		}}}, nil
	}
	urls := s.cfg.URLs(route.Name, route.Spec)
	s.tell(EndpointBound, route.Name.String(), "")
	s.log.Info("endpoint bound", "endpoint", route.ID, "url", urls[0], "agent", s.AgentID)
	return &tunnel.Control{Message: &tunnel.Control_Bound{Bound: &tunnel.Bound{
		Request: m.GetRequest(), EndpointId: route.ID, Url: urls[0], MoreUrls: urls[1:], Port: uint32(route.Name.Port),
	}}}, route
}

func (s *agentSession) bindSpec(ctx context.Context, m *tunnel.EndpointSpec) (*registry.Route, error) {
	spec, err := tunnel.SpecFromWire(m)
	if err != nil {
		return nil, err
	}
	if spec.Pool.Shared && s.grant.NoPool {
		return nil, &tunnel.BindError{Code: tunnel.CodeNotAllowed, Message: "this token may not share a name: leave out --pool"}
	}
	if s.endpoints() >= s.cfg.MaxEndpoints {
		return nil, &tunnel.BindError{Code: tunnel.CodeTooManyEndpoints, Message: "this agent has as many endpoints as the server allows"}
	}
	route, err := s.cfg.Registry.Bind(ctx, registry.Request{
		Spec:  spec,
		Owner: registry.Owner{AgentID: s.AgentID, Generation: s.Generation, SessionID: s.ID, Seat: s.seat},
		Token: s.TokenID, MaxEndpoints: s.grant.MaxEndpoints,
		Allow: s.grant.MayBind,
		Open:  s.Open,
		Away:  s.Away,
		Lost:  s.lost,
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	ended := s.mu.ended
	if !ended {
		s.mu.routes[route.ID] = route
	}
	s.mu.Unlock()
	if ended {
		s.cfg.Registry.Lose(route)
		return nil, &tunnel.BindError{Code: tunnel.CodeDraining, Message: "the session has ended", Retryable: true}
	}
	return route, nil
}

// wanted is what a refused agent asked for, as far as it can be named.
func wanted(m *tunnel.EndpointSpec) string {
	if m.GetPort() != 0 {
		return fmt.Sprintf("%s://:%d", m.GetKind(), m.GetPort())
	}
	return m.GetKind() + "://" + m.GetHost() + m.GetLabel()
}

func (s *agentSession) tell(kind EventKind, name string, code tunnel.Code) {
	s.cfg.tell(Event{Kind: kind, Agent: tunnel.Clean(s.AgentID), Token: s.TokenID, Name: name, Code: string(code)})
}

func (s *agentSession) endpoints() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.mu.routes)
}

func (s *agentSession) unbind(endpointID string) {
	s.mu.Lock()
	route := s.mu.routes[endpointID]
	delete(s.mu.routes, endpointID)
	s.mu.Unlock()
	if route != nil {
		s.cfg.Registry.Release(route)
		s.tell(EndpointReleased, route.Name.String(), "")
		s.log.Info("endpoint released", "endpoint", route.ID, "name", route.Name.String())
	}
}

// health passes on how an agent finds the upstream of one of its endpoints.
func (s *agentSession) health(m *tunnel.Health) {
	s.mu.Lock()
	route := s.mu.routes[m.GetEndpointId()]
	s.mu.Unlock()
	if route != nil {
		s.cfg.Registry.SetDown(route, m.GetDown())
		s.log.Info("upstream checked", "endpoint", route.ID, "name", route.Name.String(), "down", m.GetDown())
	}
}

// lost tells the agent that another of its runs took a route over. It must not
// block, so the message is sent aside; send bounds its time.
func (s *agentSession) lost(route *registry.Route, why *tunnel.BindError) {
	s.mu.Lock()
	delete(s.mu.routes, route.ID)
	s.mu.Unlock()
	s.log.Info("endpoint taken over", "endpoint", route.ID, "name", route.Name.String(), "code", why.Code)
	go func() {
		_ = s.send(&tunnel.Control{Message: &tunnel.Control_Unbound{Unbound: &tunnel.Unbound{
			EndpointId: route.ID, Code: string(why.Code), Message: why.Message,
		}}})
	}()
}

// routes takes all routes from the session.
func (s *agentSession) takeRoutes(ended bool) []*registry.Route {
	s.mu.Lock()
	defer s.mu.Unlock()
	routes := make([]*registry.Route, 0, len(s.mu.routes))
	for _, r := range s.mu.routes {
		routes = append(routes, r)
	}
	clear(s.mu.routes)
	s.mu.ended = s.mu.ended || ended
	return routes
}

// end gives up what the session held when the link with its control stream is gone.
func (s *agentSession) end() {
	s.cfg.Registry.Lose(s.takeRoutes(true)...)
	s.Close()
}

// over reports whether the session has ended.
func (s *agentSession) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.ended
}

// revoked ends the session and gives its names to whoever asks: their owner has
// lost the right to them.
func (s *agentSession) revoked() {
	s.cfg.Registry.Release(s.takeRoutes(true)...)
	s.Close()
}

// drain is the agent's word that it goes away: its names are given back, its
// streams go on.
func (s *agentSession) drain() {
	s.cfg.Registry.Release(s.takeRoutes(false)...)
	s.log.Info("agent is draining", "agent", s.AgentID)
}
