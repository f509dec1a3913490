package registry

import (
	"context"
	"errors"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// Errors of Lookup.
var (
	ErrNotFound = errors.New("no endpoint has this name")
	ErrOffline  = errors.New("the endpoint's agent is not connected")
	// ErrAmbiguous is Resolve's: some servers read the path as one endpoint's, some as
	// another's.
	ErrAmbiguous = errors.New("the path may be that of several endpoints")
)

// Find returns a route of a name without waiting.
func (r *Registry) Find(name endpoint.Name) (*Route, bool) {
	if s, ok := r.live.load(&name); ok {
		return s.any(), true
	}
	return nil, false
}

// Serves reports whether a route is one that visitors are led to.
func (r *Registry) Serves(route *Route) bool {
	s, ok := r.live.load(&route.Name)
	return ok && s.has(func(o *Route) bool { return o == route })
}

// Lookup returns a route for a visitor, by the name that he asks for. While the name's
// agent is away, it waits for the rest of the grace time. It returns ErrNotFound,
// ErrOffline, or ctx's error.
func (r *Registry) Lookup(ctx context.Context, v *endpoint.Visitor) (*Route, error) {
	if !r.youth.over() {
		r.await(ctx, v.Name)
	}
	return r.lookup(ctx, v, nil)
}

// LookupAfter is Lookup for a caller who found routes to be unusable, the last one lately:
// it waits for another while the loss of all that there are has not been noticed yet.
func (r *Registry) LookupAfter(ctx context.Context, v *endpoint.Visitor, tried []*Route) (*Route, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Grace)
	defer cancel()
	route, err := r.lookup(ctx, v, tried)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, ErrOffline
	}
	return route, err
}

// Another returns one more route for a visitor whom those that he tried do not serve, if
// there is one at the moment.
func (r *Registry) Another(v *endpoint.Visitor, tried []*Route) (*Route, bool) {
	if s, ok := r.live.load(&v.Name); ok {
		route := s.pick(v, tried)
		return route, route != nil
	}
	return nil, false
}

func (r *Registry) lookup(ctx context.Context, v *endpoint.Visitor, tried []*Route) (*Route, error) {
	if s, ok := r.live.load(&v.Name); ok {
		if route := s.pick(v, tried); route != nil {
			return route, nil
		}
	}
	name := v.Name
	r.mu.RLock()
	_, known := r.mu.entries[name]
	r.mu.RUnlock()
	if !known {
		return nil, ErrNotFound
	}
	for {
		route, changed, err := r.wait(v, tried)
		if changed == nil {
			return route, err
		}
		select {
		case <-changed:
			r.unwait(name)
		case <-ctx.Done():
			r.unwait(name)
			return nil, ctx.Err()
		}
	}
}

// wait returns a route or the error, or else a channel that is closed when the name's state
// changes; the caller is then counted as waiting.
func (r *Registry) wait(v *endpoint.Visitor, tried []*Route) (*Route, <-chan struct{}, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.mu.entries[v.Name]
	if e == nil {
		return nil, nil, ErrNotFound
	}
	if e.state == live {
		if s, ok := r.live.load(&v.Name); ok {
			if route := s.pick(v, tried); route != nil {
				return route, nil, nil
			}
		}
	}
	if e.state == offline || e.waiting >= r.cfg.MaxWaiting || r.mu.closed {
		return nil, nil, ErrOffline
	}
	e.waiting++
	return nil, e.changed, nil
}

func (r *Registry) unwait(name endpoint.Name) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.mu.entries[name]; e != nil {
		e.waiting--
	}
}
