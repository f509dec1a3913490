package control

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// URLs tells the public URLs of a name: the one to show first, then the others.
type URLs func(name endpoint.Name, spec endpoint.Spec) []string

// sendTimeout bounds one message to an agent that takes nothing. Its link is
// closed then: a message cut in the middle can't be mended.
const sendTimeout = 10 * time.Second

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
	for {
		var m tunnel.Control
		if err := tunnel.Read(ctl, &m, tunnel.MaxControl); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := s.handle(&m); err != nil {
			return err
		}
	}
}

func (s *agentSession) handle(m *tunnel.Control) error {
	switch m := m.GetMessage().(type) {
	case *tunnel.Control_Bind:
		return s.send(s.bind(m.Bind))
	case *tunnel.Control_Unbind:
		s.unbind(m.Unbind.GetEndpointId())
	case *tunnel.Control_Ping:
		return s.send(&tunnel.Control{Message: &tunnel.Control_Pong{Pong: &tunnel.Pong{
			Id: m.Ping.GetId(), SentUnixNs: m.Ping.GetSentUnixNs(),
		}}})
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

// bind binds an endpoint and returns the answer.
func (s *agentSession) bind(m *tunnel.Bind) *tunnel.Control {
	route, err := s.bindSpec(m.GetSpec())
	if err != nil {
		var b *tunnel.BindError
		if !errors.As(err, &b) {
			b = &tunnel.BindError{Code: tunnel.CodeNameInvalid, Message: err.Error()}
		}
		s.log.Warn("endpoint refused", "code", b.Code, "kind", tunnel.Clean(m.GetSpec().GetKind()),
			"host", tunnel.Clean(m.GetSpec().GetHost()), "label", tunnel.Clean(m.GetSpec().GetLabel()), "port", m.GetSpec().GetPort())
		return &tunnel.Control{Message: &tunnel.Control_Refused{Refused: &tunnel.Refused{
			Request: m.GetRequest(), Code: string(b.Code), Message: b.Message, Retryable: b.Retryable,
		}}}
	}
	urls := s.cfg.URLs(route.Name, route.Spec)
	s.log.Info("endpoint bound", "endpoint", route.ID, "url", urls[0], "agent", s.AgentID)
	return &tunnel.Control{Message: &tunnel.Control_Bound{Bound: &tunnel.Bound{
		Request: m.GetRequest(), EndpointId: route.ID, Url: urls[0], MoreUrls: urls[1:], Port: uint32(route.Name.Port),
	}}}
}

func (s *agentSession) bindSpec(m *tunnel.EndpointSpec) (*registry.Route, error) {
	spec, err := tunnel.SpecFromWire(m)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	n := len(s.mu.routes)
	s.mu.Unlock()
	if n >= s.cfg.MaxEndpoints {
		return nil, &tunnel.BindError{Code: tunnel.CodeTooManyEndpoints, Message: "this agent has as many endpoints as the server allows"}
	}
	route, err := s.cfg.Registry.Bind(registry.Request{
		Spec:  spec,
		Owner: registry.Owner{AgentID: s.AgentID, Generation: s.Generation, SessionID: s.ID},
		Allow: s.grant.MayBind,
		Open:  s.Open,
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

func (s *agentSession) unbind(endpointID string) {
	s.mu.Lock()
	route := s.mu.routes[endpointID]
	delete(s.mu.routes, endpointID)
	s.mu.Unlock()
	if route != nil {
		s.cfg.Registry.Release(route)
		s.log.Info("endpoint released", "endpoint", route.ID, "name", route.Name.String())
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

// end gives up what the session held when its last link is gone.
func (s *agentSession) end() { s.cfg.Registry.Lose(s.takeRoutes(true)...) }

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
