package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// bindWanted asks for the endpoints that are neither online nor asked for. The
// answers come on the control stream.
func (s *session) bindWanted() {
	for _, e := range s.agent.endpoints.ask(s) {
		_ = s.send(&tunnel.Control{Message: &tunnel.Control_Bind{Bind: &tunnel.Bind{
			Request: e.request, Spec: tunnel.SpecToWire(e.spec()),
		}}})
	}
}

// unbind gives the name of an endpoint back.
func (s *session) unbind(id string) {
	_ = s.send(&tunnel.Control{Message: &tunnel.Control_Unbind{Unbind: &tunnel.Unbind{EndpointId: id}}})
}

// bound handles the answer yes to a Bind. An endpoint that was removed meanwhile is
// given back.
func (s *session) bound(m *tunnel.Bound) {
	e, urls, news := s.agent.endpoints.bound(s, m)
	if e == nil {
		s.unbind(m.GetEndpointId())
		s.bindWanted()
		return
	}
	if e.check.isDown() {
		s.agent.endpoints.tellHealth(e)
	}
	e.upstream().Terminate.online(urls[0], s.agent.cfg.Certify)
	s.agent.announce()
	s.log.Info("endpoint online", "name", e.name, "url", urls[0], "upstream", e.upstream().String())
	if news && s.agent.cfg.Online != nil {
		s.agent.cfg.Online(e.name, urls)
	}
	s.agent.endpoints.bindWanted() // at other nodes, where this answer was waited for
}

// refused handles the answer no to a Bind. What may succeed later is asked for
// again on this link; a name that this agent once had is also waited for, because
// an agent that was up must not give up over somebody else's mistake.
func (s *session) refused(ctx context.Context, m *tunnel.Refused) error {
	err := &tunnel.BindError{Code: tunnel.Code(m.GetCode()), Message: m.GetMessage(), Retryable: m.GetRetryable()}
	e, v := s.agent.endpoints.refused(s, m, err)
	if e == nil { // it was removed meanwhile
		s.bindWanted()
		return nil
	}
	if v.again {
		s.log.Warn("endpoint refused", "name", e.name, "code", err.Code, "error", err, "retry_in", v.wait.String())
		time.AfterFunc(v.wait, func() {
			if ctx.Err() == nil {
				s.agent.endpoints.rested(s, e)
				s.bindWanted()
			}
		})
		s.agent.endpoints.bindWanted() // at other nodes, which may say yes
		return nil
	}
	s.agent.announce() // no stream waits for it any more
	s.agent.tellLost(e, err)
	if v.fatal {
		return fmt.Errorf("endpoint %s: %w", e.name, err)
	}
	s.log.Error("endpoint refused", "name", e.name, "code", err.Code, "error", err)
	if err.Code == tunnel.CodeSuperseded {
		return s.agent.leftEndpoints(err)
	}
	return nil
}
