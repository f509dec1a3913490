package edge

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/splice"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Names of ALPN (RFC 7301, section 6).
const (
	alpnH1 = "http/1.1"
	alpnH2 = "h2"
)

// askTimeout bounds the agent's dialling of an upstream, for which it has its own limit.
const askTimeout = 15 * time.Second

var errNoALPN = errors.New("the route does not tell what its upstream speaks")

// speaks is spoken for an exchange, which it leads to another route, or its agent's next
// session, if nobody is there to ask.
func (e *Edge) speaks(ctx context.Context, x *exchange) (string, error) {
	for {
		protocol, err := spoken(ctx, x.route, x.visitor)
		if err == nil || !nobodyReached(err) {
			return protocol, err
		}
		if err := elsewhere(ctx, e.cfg.Registry, x, err); err != nil {
			return "", err
		}
	}
}

// spoken returns what the upstream of route speaks: alpnH2 or alpnH1. Of an upstream
// behind TLS only its ALPN tells, so that the first request waits for a connection that
// carries nothing else. Requests at that very moment ask each for themselves, and get
// the same answer.
func spoken(ctx context.Context, route *registry.Route, v endpoint.Visitor) (string, error) {
	switch route.Spec.UpstreamProtocol {
	case endpoint.H2C:
		return alpnH2, nil
	case endpoint.ALPN:
	default:
		return alpnH1, nil
	}
	if known := route.Spoken.Load(); known != nil {
		return *known, nil
	}
	v.Protocol = endpoint.AnyProtocol
	s, err := route.Open(ctx, v, nil)
	if err != nil {
		return "", &openError{err}
	}
	defer splice.Reset(s)
	asked, ok := s.(registry.Negotiated)
	if !ok {
		return "", errNoALPN
	}
	stop := context.AfterFunc(ctx, func() { _ = s.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = s.SetReadDeadline(time.Now().Add(askTimeout))
	answer, err := asked.ALPN()
	if err != nil {
		return "", &openError{fmt.Errorf("ask what the upstream speaks: %w", err)}
	}
	if answer != alpnH2 {
		answer = alpnH1
	}
	route.Spoken.Store(&answer)
	return answer, nil
}

// unspoken forgets what the upstream was found to speak when err says that it could not
// be reached: it may come back as another. It reports whether a request may be tried
// again at once because only that was wrong.
func unspoken(route *registry.Route, err error) bool {
	refused, ok := errors.AsType[*tunnel.StreamError](err)
	if !ok || route.Spec.UpstreamProtocol != endpoint.ALPN {
		return false
	}
	return route.Spoken.Swap(nil) != nil && refused.Code == tunnel.CodeUpstreamTLS
}
