package edge

import (
	"context"
	"errors"
	"net"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/limit"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/splice"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// next returns a route for a visitor whom the last of those that he tried led to nobody, or
// else why there is none. Where the session is gone it waits for another one.
func next(ctx context.Context, reg *registry.Registry, v *endpoint.Visitor, tried []*registry.Route, why error) (*registry.Route, error) {
	if !isLimit(why) {
		tried[len(tried)-1].Failed()
	}
	var route *registry.Route
	var err error
	if errors.Is(why, registry.ErrSessionGone) {
		if route, err = reg.LookupAfter(ctx, v, tried); err != nil {
			return nil, err
		}
	} else if another, ok := reg.Another(v, tried); ok && nobodyReached(why) {
		route = another
	} else {
		return nil, why
	}
	if route.Spec.ClientCA != tried[0].Spec.ClientCA {
		return nil, registry.ErrOffline // he was let in by what counted before
	}
	return route, nil
}

// elsewhere is next for an exchange, which it leads by the route.
func elsewhere(ctx context.Context, reg *registry.Registry, x *exchange, why error) error {
	x.tried = append(x.tried, x.route)
	route, err := next(ctx, reg, &x.visitor, x.tried, why)
	if err == nil {
		x.take(route)
	}
	return err
}

// nobodyReached reports whether an error says that nothing of a visitor got to an upstream:
// his session is gone, his agent could not connect, or he was not let in.
func nobodyReached(err error) bool {
	_, refused := errors.AsType[*tunnel.StreamError](err)
	return refused || errors.Is(err, registry.ErrSessionGone) || isLimit(err)
}

func isLimit(err error) bool {
	return errors.Is(err, limit.ErrTooMany) || errors.Is(err, limit.ErrTooFast)
}

// replied waits for the agent's word on a new stream. One on which nobody was reached is
// ended.
func replied(ctx context.Context, s net.Conn) error {
	told, ok := s.(registry.Negotiated)
	if !ok {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { splice.Reset(s) })
	_, err := told.ALPN()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		splice.Reset(s)
	}
	return err
}
