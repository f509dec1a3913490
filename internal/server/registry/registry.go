// Package registry is a node's table from name to route. The edge looks routes
// up, control binds them for sessions; the two meet nowhere else.
//
// A name belongs to an agent, not to a connection (Owner). When the agent's
// session is lost, its names are held for the grace time: visitors wait, the
// agent takes the name over again, nobody else can. A name that its agent gave
// back is free for everyone at once, but visitors still wait for the grace time,
// because a restarting agent looks just like that. After the grace time the name
// is known to be offline until somebody binds it or it is forgotten.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Errors of Lookup.
var (
	ErrNotFound = errors.New("no endpoint has this name")
	ErrOffline  = errors.New("the endpoint's agent is not connected")
)

// ErrSessionGone is what Route.Open wraps when the agent can't be reached any more.
var ErrSessionGone = errors.New("session is gone")

// OpenFunc opens a stream for a visitor to the endpoint with that id, at the
// agent that serves it. The first bytes leave together with the stream's header.
// It waits for no round trip; a failing upstream shows in the stream's first Read
// as *tunnel.StreamError.
type OpenFunc func(ctx context.Context, endpointID string, v endpoint.Visitor, first []byte) (net.Conn, error)

// Owner is whom a name is leased to.
type Owner struct {
	AgentID    string
	Generation uint64 // of the agent's run; a later one takes names over from an earlier one
	SessionID  string
}

// Route leads to an endpoint's agent.
type Route struct {
	ID    string // of this binding; a name bound again gets another
	Name  endpoint.Name
	Spec  endpoint.Spec
	Owner Owner

	open OpenFunc
	lost func(*Route, *tunnel.BindError)
}

// Open opens a stream to the endpoint for v.
func (r *Route) Open(ctx context.Context, v endpoint.Visitor, first []byte) (net.Conn, error) {
	return r.open(ctx, r.ID, v, first)
}

// Config of a registry. Domain must be set for HTTP and TLS endpoints without a
// host of their own; everything else has a default.
type Config struct {
	Domain   string
	TCPPorts PortRange
	// Listen opens the node's port for visitors of tcp endpoints; it is closed when
	// the name is given up. Without it tcp endpoints are refused.
	Listen func(port uint16) (io.Closer, error)

	// Released, if set, is told when an agent gave names back, without locks held.
	Released func()

	Grace      time.Duration // default 10 s
	Remember   int           // offline names kept for a better answer than "not found"; default 10,000
	MaxWaiting int           // visitors that wait for one name; default 1,024
}

// DefaultGrace is how long names are held for an agent that is gone.
const DefaultGrace = 10 * time.Second

// PortRange is a range of ports, both ends included. The zero value is empty.
type PortRange struct{ First, Last uint16 }

// Contains reports whether port lies in the range.
func (p PortRange) Contains(port uint16) bool { return port != 0 && p.First <= port && port <= p.Last }

// Size is the number of ports in the range.
func (p PortRange) Size() int {
	if p.First == 0 || p.Last < p.First {
		return 0
	}
	return int(p.Last) - int(p.First) + 1
}

func (p PortRange) String() string { return fmt.Sprintf("%d-%d", p.First, p.Last) }

// Registry is a node's table of routes. Make one with New, close it with Close.
type Registry struct {
	cfg Config

	mu struct {
		sync.RWMutex
		entries map[endpoint.Name]*entry
		offline []endpoint.Name // names in state offline, oldest first; may hold stale ones
		closed  bool
	}
}

// state of an entry.
type state uint8

const (
	live     state = iota // route is set
	held                  // the session was lost; only its agent may bind, visitors wait
	released              // the agent gave the name back; anyone may bind, visitors wait
	offline               // the grace time is over; anyone may bind, visitors are told
)

// entry is what is known of one name. All fields are guarded by Registry.mu.
type entry struct {
	state   state
	route   *Route // the present route, or the last one
	port    io.Closer
	grace   *time.Timer
	waiting int
	changed chan struct{} // closed and replaced when the state changes
}

// New makes an empty registry.
func New(cfg Config) *Registry {
	if cfg.Grace <= 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.Remember <= 0 {
		cfg.Remember = 10_000
	}
	if cfg.MaxWaiting <= 0 {
		cfg.MaxWaiting = 1024
	}
	r := &Registry{cfg: cfg}
	r.mu.entries = make(map[endpoint.Name]*entry)
	return r
}

// Find returns the live route of a name without waiting.
func (r *Registry) Find(name endpoint.Name) (*Route, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	e := r.mu.entries[name]
	if e == nil || e.state != live {
		return nil, false
	}
	return e.route, true
}

// Live is how many names have a route.
func (r *Registry) Live() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	n := 0
	for _, e := range r.mu.entries {
		if e.state == live {
			n++
		}
	}
	return n
}

// Spec returns the spec of a name that is live or was lately.
func (r *Registry) Spec(name endpoint.Name) (endpoint.Spec, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	e := r.mu.entries[name]
	if e == nil {
		return endpoint.Spec{}, false
	}
	return e.route.Spec, true
}

// Lookup returns the route of a name. While the name's agent is away, it waits for
// the rest of the grace time. It returns ErrNotFound, ErrOffline, or ctx's error.
func (r *Registry) Lookup(ctx context.Context, name endpoint.Name) (*Route, error) {
	return r.lookup(ctx, name, nil)
}

// LookupAfter is Lookup for a caller who found stale to be unusable: it waits for
// another route while the loss of stale has not been noticed yet.
func (r *Registry) LookupAfter(ctx context.Context, name endpoint.Name, stale *Route) (*Route, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Grace)
	defer cancel()
	route, err := r.lookup(ctx, name, stale)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, ErrOffline
	}
	return route, err
}

func (r *Registry) lookup(ctx context.Context, name endpoint.Name, stale *Route) (*Route, error) {
	r.mu.RLock()
	e := r.mu.entries[name]
	if e != nil && e.state == live && e.route != stale {
		route := e.route
		r.mu.RUnlock()
		return route, nil
	}
	r.mu.RUnlock()
	if e == nil {
		return nil, ErrNotFound
	}
	for {
		route, changed, err := r.wait(name, stale)
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

// wait returns the route or the error, or else a channel that is closed when the
// name's state changes; the caller is then counted as waiting.
func (r *Registry) wait(name endpoint.Name, stale *Route) (*Route, <-chan struct{}, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.mu.entries[name]
	switch {
	case e == nil:
		return nil, nil, ErrNotFound
	case e.state == live && e.route != stale:
		return e.route, nil, nil
	case e.state == offline || e.waiting >= r.cfg.MaxWaiting || r.mu.closed:
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

// Lose says that the session of these routes ended unexpectedly: their names are
// held for their agent.
func (r *Registry) Lose(routes ...*Route) { r.leave(held, routes) }

// Release says that the agent gave these routes back.
func (r *Registry) Release(routes ...*Route) {
	r.leave(released, routes)
	if r.cfg.Released != nil {
		r.cfg.Released()
	}
}

func (r *Registry) leave(to state, routes []*Route) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, route := range routes {
		e := r.mu.entries[route.Name]
		if e == nil || e.route != route || e.state != live {
			continue // taken over, or already left
		}
		r.setLocked(e, to)
		e.grace = time.AfterFunc(r.cfg.Grace, func() { r.expire(route) })
	}
}

// expire ends the grace time of a route.
func (r *Registry) expire(route *Route) {
	r.mu.Lock()
	e := r.mu.entries[route.Name]
	if e == nil || e.route != route || (e.state != held && e.state != released) || r.mu.closed {
		r.mu.Unlock()
		return
	}
	r.setLocked(e, offline)
	port := e.port
	e.port = nil
	if port != nil {
		delete(r.mu.entries, route.Name) // a closed port needs no memory
	} else {
		r.mu.offline = append(r.mu.offline, route.Name)
		r.forgetLocked()
	}
	r.mu.Unlock()
	if port != nil {
		_ = port.Close()
	}
}

// forgetLocked drops the oldest offline names over the limit.
func (r *Registry) forgetLocked() {
	for len(r.mu.offline) > r.cfg.Remember {
		name := r.mu.offline[0]
		r.mu.offline = r.mu.offline[1:]
		if e := r.mu.entries[name]; e != nil && e.state == offline {
			delete(r.mu.entries, name)
		}
	}
}

// setLocked changes an entry's state and wakes who waits for that.
func (r *Registry) setLocked(e *entry, to state) {
	if e.grace != nil {
		e.grace.Stop()
		e.grace = nil
	}
	e.state = to
	close(e.changed)
	e.changed = make(chan struct{})
}

// Close gives up all names: ports are closed, timers stopped, who waits is told.
func (r *Registry) Close() error {
	r.mu.Lock()
	r.mu.closed = true
	var ports []io.Closer
	for _, e := range r.mu.entries {
		r.setLocked(e, offline)
		if e.port != nil {
			ports = append(ports, e.port)
			e.port = nil
		}
	}
	r.mu.Unlock()
	var errs []error
	for _, p := range ports {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}
