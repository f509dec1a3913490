package registry

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/limit"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// other is a route of another node.
type other struct {
	key    string
	record store.Route   // without its spec
	name   endpoint.Name // zero: what it says can't be read, so it is not served here
	spec   endpoint.Spec
	cas    *endpoint.CAs
}

func newOther(key string, told store.Route) other {
	o := other{key: key, record: told}
	o.record.Spec = nil
	if json.Unmarshal(told.Spec, &o.spec) != nil {
		return o
	}
	var err error
	if o.cas, err = clientCAs(o.spec); err == nil {
		o.name = parseName(told.Name)
	}
	return o
}

// route is the way to it.
func (o *other) route(open OpenFunc) *Route {
	route := &Route{
		ID: o.record.Endpoint, Name: o.name, Spec: o.spec, Gate: limit.New(o.spec.Limits), ClientCAs: o.cas,
		Owner: Owner{AgentID: o.record.Agent, Generation: o.record.Generation, SessionID: o.record.Session, Seat: o.record.Seat},
		names: []endpoint.Name{o.name}, token: o.record.Token, node: o.record.Node, open: open,
		record: o.record, member: o.record.Member(),
	}
	route.down.Store(o.record.Down)
	route.entered.Store(true)
	return route
}

// parseName reads what endpoint.Name.String made; the zero Name for anything else.
func parseName(s string) endpoint.Name {
	kind, rest, _ := strings.Cut(s, "://")
	n := endpoint.Name{Kind: endpoint.Kind(kind)}
	switch n.Kind {
	case endpoint.TCP, endpoint.UDP:
		port, _ := strconv.ParseUint(strings.TrimPrefix(rest, ":"), 10, 16)
		n.Port = uint16(port)
	case endpoint.HTTP, endpoint.TLS:
		n.Host = rest
		if slash := strings.IndexByte(rest, '/'); slash >= 0 {
			n.Host, n.Path = rest[:slash], rest[slash:]
		}
	}
	if n.String() != s || n.Host == "" && n.Port == 0 {
		return endpoint.Name{}
	}
	return n
}

// follow makes the route that another node has at a key one of the name's members, or ends
// that when the node has given it up. Routes of this node's own stay: whose the name is, the
// store has decided, and evict comes before.
func (r *Registry) follow(key string) { r.followFrom(key, "") }

// followAll follows all that other nodes have of a name.
func (r *Registry) followAll(name string) {
	r.claims.Lock()
	var keys []string
	for _, o := range r.claims.others[name] {
		keys = append(keys, o.key)
	}
	r.claims.Unlock()
	for _, key := range keys {
		r.follow(key)
	}
}

// followFrom is follow; the route to the node again is replaced though nothing has changed,
// so that who found it unusable tries anew.
func (r *Registry) followFrom(key, again string) {
	if r.cfg.Peer == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.claims.Lock()
	o, there := r.claims.otherLocked(key)
	r.claims.Unlock()
	if !there {
		e := r.mu.entries[parseName(store.NameOf(key))]
		if e == nil {
			return
		}
		if i := slices.IndexFunc(e.members, func(m *Route) bool { return m.node != "" && m.at(key) }); i >= 0 {
			r.leaveLocked(released, []*Route{e.members[i]})
			r.tellReleased()
		}
		return
	}
	if o.name.Kind == "" || r.mu.closed {
		return
	}
	e := r.mu.entries[o.name]
	if e == nil {
		e = &entry{changed: make(chan struct{})}
	}
	route := o.route(r.cfg.Peer(o.record.Node))
	if e.route != nil && e.route.member == route.member {
		route.Gate = gateFor(route, e.route)
	}
	var list []*Route
	for _, m := range e.members {
		fate, _ := route.record.Meets(m.record)
		switch {
		case m.node == "" && fate != store.Shares:
			return
		case m.node == "" || !m.at(key):
			list = append(list, m) // what yields to it among others', the store tells too
		case m.ID == route.ID && m.node == route.node && m.node != again:
			m.down.Store(o.record.Down)
			return
		default:
			route.Gate = gateFor(route, m)
		}
	}
	if o.name.Kind.ByPort() && e.port == nil && !r.openOtherLocked(o.name, e) {
		return
	}
	r.addLocked(o.name, e)
	r.setLocked(o.name, e, live, append(list, route)...)
	r.youth.announce()
}

// at reports whether a key is the route's.
func (r *Route) at(key string) bool { return strings.HasSuffix(key, "#"+r.member) }

// openOtherLocked opens the port of another node's endpoint, if this node may: visitors
// then come in here too. Where it can't, they go by the other nodes.
func (r *Registry) openOtherLocked(name endpoint.Name, e *entry) bool {
	ports := r.cfg.TCPPorts
	if name.Kind == endpoint.UDP {
		ports = r.cfg.UDPPorts
	}
	if r.cfg.Listen == nil || !ports.Contains(name.Port) {
		return false
	}
	port, err := r.cfg.Listen(name)
	if err != nil {
		if r.cfg.Warn != nil {
			r.cfg.Warn(name, err)
		}
		return false
	}
	e.port = port
	return true
}

// tellReleased passes on that names were given up at another node. It does not wait.
func (r *Registry) tellReleased() {
	if r.cfg.Released != nil {
		go r.cfg.Released()
	}
}

// Unreachable says that another node can't be reached: its names are as good as lost, long
// before its lease ends. Visitors wait for their agents to come in elsewhere.
func (r *Registry) Unreachable(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lost []*Route
	for _, e := range r.mu.entries {
		for _, m := range e.members {
			if m.node == node {
				lost = append(lost, m)
			}
		}
	}
	r.leaveLocked(released, lost)
}

// Reachable says that another node can be reached again: what it still has is served.
func (r *Registry) Reachable(node string) {
	r.claims.Lock()
	var keys []string
	for _, list := range r.claims.others {
		for _, o := range list {
			if o.record.Node == node {
				keys = append(keys, o.key)
			}
		}
	}
	r.claims.Unlock()
	for _, key := range keys {
		r.followFrom(key, node)
	}
}

// Own finds the route of this node with an id, for a visitor whom another node sends: he
// goes to a session of this node or nowhere. Where the agent is away and the name has other
// members, he is better off with one of those.
func (r *Registry) Own(ctx context.Context, id string) (*Route, bool) {
	r.claims.Lock()
	c := r.claims.own[id]
	r.claims.Unlock()
	if c == nil {
		return nil, false
	}
	// Other nodes hear of a claim no later than this one, which still enters the route then.
	select {
	case <-c.settled:
	case <-ctx.Done():
	}
	if !c.route.entered.Load() || c.route.Away() && r.Better(c.route.Name, c.route) {
		return nil, false
	}
	return c.route, true
}

// Better reports whether a name has another member whose agent is not away.
func (r *Registry) Better(name endpoint.Name, than *Route) bool {
	s, ok := r.live.load(&name)
	return ok && s.has(func(o *Route) bool { return o != than && !o.Away() })
}

// sink hears of claims from the store.
type sink Registry

// Reset implements store.Sink.
func (s *sink) Reset(records []store.Record[store.Route], _ int64) {
	there := make(map[string]bool, len(records))
	for _, rec := range records {
		there[rec.Key] = true
	}
	var gone []string
	s.claims.Lock()
	for _, list := range s.claims.others {
		for _, o := range list {
			if !there[o.key] {
				gone = append(gone, o.key)
			}
		}
	}
	clear(s.claims.others)
	clear(s.claims.tokens)
	for _, c := range s.claims.own {
		for name, rec := range c.records {
			if !there[rec.Key] {
				delete(c.records, name)
			}
		}
	}
	s.claims.Unlock()
	for _, key := range gone {
		(*Registry)(s).follow(key)
	}
	for _, rec := range records {
		s.Put(rec)
	}
	(*Registry)(s).wake()
}

// Put implements store.Sink.
func (s *sink) Put(rec store.Record[store.Route]) {
	r := (*Registry)(s)
	var lost []*Route
	r.claims.Lock()
	r.claims.forgetLocked(rec.Key)
	if rec.Value.Node == r.cfg.Claims.Node() {
		if r.claims.own[rec.Value.Endpoint] == nil {
			r.claims.ending = append(r.claims.ending, rec) // a write that was thought to have failed
			defer r.wake()
		}
	} else {
		r.claims.learnLocked(rec)
		for _, c := range r.claims.names[rec.Value.Name] {
			fate, _ := rec.Value.Meets(c.route.record)
			if have, written := c.records[rec.Value.Name]; fate != store.Shares && written && have.Rev() < rec.Rev() {
				lost = append(lost, c.route)
			}
		}
	}
	r.claims.Unlock()
	if !r.draining() {
		for _, route := range lost {
			r.evict(route, refuse(tunnel.CodeSuperseded, "%s is served through another server now", rec.Value.Name))
		}
	}
	r.follow(rec.Key)
}

// Drop implements store.Sink.
func (s *sink) Drop(key string) {
	r := (*Registry)(s)
	defer r.follow(key)
	r.claims.Lock()
	defer r.claims.Unlock()
	r.claims.forgetLocked(key)
	name := store.NameOf(key)
	for _, c := range r.claims.names[name] {
		if c.route.at(key) {
			// Not given up by this node: it went with the lease, and comes again.
			delete(c.records, name)
			r.wake()
		}
	}
}

func (c *claims) otherLocked(key string) (other, bool) {
	for _, o := range c.others[store.NameOf(key)] {
		if o.key == key {
			return o, true
		}
	}
	return other{}, false
}

func (c *claims) learnLocked(rec store.Record[store.Route]) {
	name, token := rec.Value.Name, rec.Value.Token
	c.others[name] = append(c.others[name], newOther(rec.Key, rec.Value))
	if c.tokens[token] == nil {
		c.tokens[token] = make(map[string]struct{})
	}
	c.tokens[token][rec.Key] = struct{}{}
}

func (c *claims) forgetLocked(key string) {
	name := store.NameOf(key)
	list := c.others[name]
	at := slices.IndexFunc(list, func(o other) bool { return o.key == key })
	if at < 0 {
		return
	}
	token := list[at].record.Token
	if list = slices.Delete(list, at, at+1); len(list) > 0 {
		c.others[name] = list
	} else {
		delete(c.others, name)
	}
	if delete(c.tokens[token], key); len(c.tokens[token]) == 0 {
		delete(c.tokens, token)
	}
}

// Reached implements store.Sink.
func (s *sink) Reached(int64) {
	select {
	case <-s.synced:
	default:
		close(s.synced)
	}
}
