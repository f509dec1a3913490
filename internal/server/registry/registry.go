// Package registry is a node's table from name to routes. The edge looks routes
// up, control binds them for sessions; the two meet nowhere else.
//
// A name belongs to an agent, not to a connection (Owner). When the agent's
// session is lost, its names are held for the grace time: visitors wait, the
// agent takes the name over again, nobody else can. A name that its agent gave
// back is free for everyone at once, but visitors still wait for the grace time,
// because a restarting agent looks just like that. After the grace time the name
// is known to be offline until somebody binds it or it is forgotten.
//
// A name has several routes, its members, if its agents share it (a pool), or if one run of
// an agent has sessions at several nodes (Owner.Seat). Those of other nodes are among them.
// Lookup picks one for each visitor; the rest of the walk knows of one route alone.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// ErrSessionGone is what Route.Open wraps when the agent can't be reached any more.
var ErrSessionGone = errors.New("session is gone")

// ErrUncertain is what Route.Open wraps, beside ErrSessionGone, when some of the first
// bytes may have reached the agent.
var ErrUncertain = errors.New("some of it may have arrived")

// ErrMoved is what the first Read of a stream wraps, beside ErrSessionGone, when it led to a
// node that has no session for it: nothing went any further.
var ErrMoved = errors.New("the session is not at that server")

// CodeMoved is how a node tells another, in a StreamReply, that it has no session for a
// visitor: nothing of him went any further. Neither agents nor visitors see it.
const CodeMoved tunnel.Code = "moved"

// OpenFunc opens a stream for a visitor to the endpoint with that id, at the
// agent that serves it. The first bytes leave together with the stream's header.
// It waits for no round trip; a failing upstream shows in the stream's first Read
// as *tunnel.StreamError.
type OpenFunc func(ctx context.Context, endpointID string, v endpoint.Visitor, first []byte) (net.Conn, error)

// Negotiated is a stream to an upstream behind TLS. ALPN waits for the agent's word on
// which of the visitor's Protocol the upstream took: "h2", "http/1.1" or nothing.
type Negotiated interface {
	ALPN() (string, error)
}

// Passable is a stream that can be handed on to another node. After Pass, which comes
// before any Read, the agent's StreamReply is read as it came, ahead of the upstream's bytes.
type Passable interface {
	Pass()
}

// Config of a registry. Domain must be set for HTTP and TLS endpoints without a
// host of their own; everything else has a default.
type Config struct {
	Domain   string
	TCPPorts PortRange
	UDPPorts PortRange
	// Listen opens the node's port for visitors of a tcp or udp endpoint; it is closed
	// when the name is given up. Without it such endpoints are refused.
	Listen func(endpoint.Name) (io.Closer, error)

	// Claims make names this node's among all nodes; nil: there are no others.
	Claims *store.Presence
	// Reserved returns the token that a name is reserved for, empty if for none; nil: none is.
	Reserved func(endpoint.Name) (token string)
	// Prove judges whether who has a token controls a domain that was another token's
	// before; its error is a *tunnel.BindError. Shared says whether that is asked at all.
	Prove  func(ctx context.Context, host, token string) error
	Shared func() bool

	// Peer opens streams to the sessions of another node; nil: names of other nodes are
	// not served here.
	Peer func(node string) OpenFunc
	// Warn, if set, is told of ports of other nodes' endpoints that can't be opened here.
	Warn func(name endpoint.Name, err error)

	// Released, if set, is told when an agent gave names back, without locks held.
	Released func()

	Grace      time.Duration // default 10 s
	Remember   int           // offline names kept for a better answer than "not found"; default 10,000
	MaxWaiting int           // visitors that wait for one name; default 1,024
	Youth      time.Duration // after New, in which visitors of unknown names wait for them; 0: none
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
	cfg    Config
	claims claims
	// live is what visitors look at: mu is for who changes something, or waits.
	live directory
	// pathed are the hosts that have names with paths.
	pathed *xsync.Map[string, bool]
	youth  *youth
	synced chan struct{} // closed when what other nodes have was read once

	mu struct {
		sync.RWMutex
		entries map[endpoint.Name]*entry
		// far are other nodes' members of names with several, by their ids.
		far map[string]*Route
		// paths are the names of a host that have a path; most hosts have none.
		paths   map[string]map[endpoint.Name]*entry
		offline []endpoint.Name // names in state offline, oldest first; may hold stale ones
		closed  bool
		drained bool // no name is bound any more; those that are stay
	}
}

// state of an entry.
type state uint8

const (
	live     state = iota // there are members
	held                  // the session was lost; only its agent may bind, visitors wait
	released              // the agent gave the name back; anyone may bind, visitors wait
	offline               // the grace time is over; anyone may bind, visitors are told
)

// entry is what is known of one name. All fields are guarded by Registry.mu.
type entry struct {
	state   state
	members []*Route // that serve it; none unless it is live
	route   *Route   // the one that came last, there or not
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
	r := &Registry{cfg: cfg, synced: make(chan struct{}), youth: newYouth(cfg.Youth), claims: newClaims(), live: newDirectory(), pathed: xsync.NewMap[string, bool]()}
	if cfg.Claims == nil {
		close(r.synced) // there are no others
	}
	r.mu.entries, r.mu.far = make(map[endpoint.Name]*entry), make(map[string]*Route)
	r.mu.paths = make(map[string]map[endpoint.Name]*entry)
	return r
}

// Synced is closed when Run has read what all other nodes have: a name that is unknown by then
// is nobody's.
func (r *Registry) Synced() <-chan struct{} { return r.synced }

// Grace is how long names and visitors wait for an agent that is gone.
func (r *Registry) Grace() time.Duration { return r.cfg.Grace }

// Live is how many names are served by sessions of this node.
func (r *Registry) Live() int {
	return r.live.count(func(route *Route) bool { return route.node == "" })
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

// Lose says that the session of these routes ended unexpectedly: their names are held for
// their agent, unless others serve them too.
func (r *Registry) Lose(routes ...*Route) { r.leave(held, routes) }

// Release says that the agent gave these routes back.
func (r *Registry) Release(routes ...*Route) {
	r.leave(released, routes)
	for _, route := range routes {
		r.abandon(route)
	}
	if r.cfg.Released != nil {
		r.cfg.Released()
	}
}

func (r *Registry) leave(to state, routes []*Route) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaveLocked(to, routes)
}

func (r *Registry) leaveLocked(to state, routes []*Route) {
	for _, route := range routes {
		for _, name := range route.names {
			e := r.mu.entries[name]
			if e == nil || !slices.Contains(e.members, route) {
				continue // taken over, or already left
			}
			rest := slices.DeleteFunc(slices.Clone(e.members), func(m *Route) bool { return m == route })
			if len(rest) > 0 {
				r.setLocked(name, e, live, rest...)
				if to == held {
					r.abandon(route) // the name does not wait for its agent, and it may join again
				}
				continue
			}
			r.setLocked(name, e, to)
			e.route = route
			e.grace = time.AfterFunc(r.cfg.Grace, func() { r.expire(name, route) })
		}
	}
}

// expire ends the grace time of a route's name.
func (r *Registry) expire(name endpoint.Name, route *Route) {
	r.mu.Lock()
	e := r.mu.entries[name]
	if e == nil || e.route != route || (e.state != held && e.state != released) || r.mu.closed {
		r.mu.Unlock()
		return
	}
	r.setLocked(name, e, offline)
	port := e.port
	e.port = nil
	r.abandon(route)
	if port != nil {
		r.deleteLocked(name) // a closed port needs no memory
	} else {
		r.mu.offline = append(r.mu.offline, name)
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
			r.deleteLocked(name)
		}
	}
}

func (r *Registry) addLocked(name endpoint.Name, e *entry) {
	r.mu.entries[name] = e
	if name.Path == "" {
		return
	}
	if r.mu.paths[name.Host] == nil {
		r.mu.paths[name.Host] = make(map[endpoint.Name]*entry)
		r.pathed.Store(name.Host, true)
	}
	r.mu.paths[name.Host][name] = e
}

func (r *Registry) deleteLocked(name endpoint.Name) {
	delete(r.mu.entries, name)
	if name.Path == "" {
		return
	}
	if delete(r.mu.paths[name.Host], name); len(r.mu.paths[name.Host]) == 0 {
		delete(r.mu.paths, name.Host)
		r.pathed.Delete(name.Host)
	}
}

// setLocked changes an entry's state, which is live for some members and something else for
// none, and wakes who waits for that.
func (r *Registry) setLocked(name endpoint.Name, e *entry, to state, list ...*Route) {
	for _, m := range e.members {
		delete(r.mu.far, m.ID)
	}
	for _, m := range list {
		if m.several.Store(len(list) > 1); m.node != "" && len(list) > 1 {
			r.mu.far[m.ID] = m
		}
	}
	e.state, e.members = to, list
	if to == live {
		e.route = list[len(list)-1]
		before, _ := r.live.load(&name)
		r.live.store(&name, servedBy(list, before))
	} else {
		r.live.delete(&name)
	}
	if e.grace != nil {
		e.grace.Stop()
		e.grace = nil
	}
	close(e.changed)
	e.changed = make(chan struct{})
}

// Ports are the open ports of tcp and udp endpoints.
func (r *Registry) Ports() []io.Closer {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var ports []io.Closer
	for _, e := range r.mu.entries {
		if e.port != nil {
			ports = append(ports, e.port)
		}
	}
	return ports
}

// Drain closes all ports and lets no name be bound any more. The routes that there are go
// on to lead to their agents, for the visitors who are in, though the agents may bind the
// names elsewhere.
func (r *Registry) Drain() {
	r.mu.Lock()
	r.mu.drained = true
	r.mu.Unlock()
	for _, p := range r.Ports() {
		_ = p.Close()
	}
}

func (r *Registry) draining() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.mu.drained
}

// Close gives up all names: ports are closed, timers stopped, who waits is told.
func (r *Registry) Close() error {
	r.mu.Lock()
	r.mu.closed = true
	var ports []io.Closer
	for name, e := range r.mu.entries {
		for _, route := range append(e.members, e.route) {
			r.abandon(route)
		}
		r.setLocked(name, e, offline)
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
