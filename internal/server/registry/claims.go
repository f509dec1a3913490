package registry

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// A name that a node serves is its own among all nodes by a claim in the store. The claim
// comes first and the entry after it; it goes when the name is nobody's here any more, not
// while it is held for its agent. While the store is away, an agent keeps the names that
// this node knew to be its own, and the claims are written when the store is back: of two
// then, the older one stands.
//
// Registry.mu is taken before claims.mu where both are.
type claims struct {
	sync.Mutex
	own    map[string]*claimed            // by Route.ID, from before the claim is written until the name is given up
	names  map[string][]*claimed          // by name: which of own have it, or are about to; one for each key
	others map[string][]other             // by name: the routes of other nodes, as far as is known
	tokens map[string]map[string]struct{} // the keys among others, by token
	ending []store.Record[store.Route]
	wake   chan struct{}
	lapsed bool // the node has another lease: what it told of its load is gone
}

// claimed is what a route of this node has in the store.
type claimed struct {
	route    *Route
	token    string
	claims   []store.Claim                        // one for each name
	records  map[string]store.Record[store.Route] // by name
	before   map[string]*claimed                  // by name: what had its key before, while the route is not entered
	settled  chan struct{}                        // closed when the route is entered, or given up before
	marked   bool                                 // the records say what the route's down does
	markedAt time.Time
}

func newClaims() claims {
	return claims{
		own: make(map[string]*claimed), names: make(map[string][]*claimed), others: make(map[string][]other),
		tokens: make(map[string]map[string]struct{}), wake: make(chan struct{}, 1),
	}
}

// secure claims all names of a route that is about to be entered. Its error is a
// *tunnel.BindError.
func (r *Registry) secure(ctx context.Context, req Request, route *Route, names []endpoint.Name) error {
	if r.cfg.Claims == nil {
		return nil
	}
	c, err := r.newClaimed(req, route, names)
	if err != nil {
		return err
	}
	r.claims.Lock()
	if limit := req.MaxEndpoints; limit > 0 && r.countLocked(c) >= limit {
		r.claims.Unlock()
		return refuse(tunnel.CodeTooManyEndpoints, "this token has %d endpoints, as many as it allows: give one up, or use another token", limit)
	}
	r.registerLocked(c)
	r.claims.Unlock()
	for i, claim := range c.claims {
		rec, err := r.claimOne(ctx, claim, names[i])
		switch {
		case err == nil:
			r.keep(c, rec)
		case errors.Is(err, store.ErrUnavailable) && r.knew(names[i], req):
			r.wake() // provisionally
		default:
			r.abandon(route)
			return r.explain(err, names[i])
		}
	}
	return nil
}

// registerLocked makes c the one that has its keys, in place of what its agent had.
func (r *Registry) registerLocked(c *claimed) {
	r.claims.own[c.route.ID] = c
	for i, claim := range c.claims {
		list := r.claims.names[claim.Name]
		at := slices.IndexFunc(list, func(has *claimed) bool { return has.route.member == c.route.member })
		if at < 0 {
			r.claims.names[claim.Name] = append(list, c)
			continue
		}
		c.before[claim.Name] = list[at]
		c.claims[i].Since = list[at].since(claim.Name, claim.Since)
		list[at] = c
	}
}

// since is since when the agent of a claim has a name.
func (c *claimed) since(name string, or time.Time) time.Time {
	for _, claim := range c.claims {
		if claim.Name == name {
			return claim.Since
		}
	}
	return or
}

// keep notes that a claim is written, or sees to it that it goes if the name has been given
// up meanwhile.
func (r *Registry) keep(c *claimed, rec store.Record[store.Route]) {
	r.claims.Lock()
	defer r.claims.Unlock()
	if r.claims.own[c.route.ID] != c {
		r.claims.ending = append(r.claims.ending, rec)
		r.wake()
		return
	}
	c.records[rec.Value.Name] = rec
	for i := range c.claims {
		if c.claims[i].Name == rec.Value.Name {
			c.claims[i].Since = rec.Value.Since
		}
	}
}

func (r *Registry) newClaimed(req Request, route *Route, names []endpoint.Name) (*claimed, error) {
	spec, err := json.Marshal(req.Spec)
	if err != nil {
		return nil, refuse(tunnel.CodeInternal, "the endpoint can't be written down")
	}
	c := &claimed{
		route: route, token: req.Token, marked: true,
		records: make(map[string]store.Record[store.Route]), before: make(map[string]*claimed),
		settled: make(chan struct{}),
	}
	for _, name := range names {
		record := route.record
		record.Name, record.Since, record.Spec = name.String(), time.Now().UTC(), spec
		c.claims = append(c.claims, store.Claim{
			Route:    record,
			Excludes: excludes(name), Custom: r.custom(name), Proof: r.cfg.Shared != nil && r.cfg.Shared(),
			Free: r.free,
		})
	}
	return c, nil
}

// recordOf is what a route is in the store, whatever its name.
func recordOf(req Request, id string) store.Route {
	record := store.Route{
		Session: req.Owner.SessionID, Endpoint: id, Agent: req.Owner.AgentID, Generation: req.Owner.Generation,
		Token: req.Token, Seat: req.Owner.Seat, Pool: req.Spec.Terms(),
	}
	if record.Pool != "" {
		record.Part = req.Spec.Name
	}
	return record
}

// excludes are the names that a name leaves no room for: HTTP and TLS share a port.
func excludes(name endpoint.Name) []string {
	switch name.Kind {
	case endpoint.HTTP:
		return []string{endpoint.Name{Kind: endpoint.TLS, Host: name.Host}.String()}
	case endpoint.TLS:
		return []string{endpoint.Name{Kind: endpoint.HTTP, Host: name.Host}.String()}
	default:
		return nil
	}
}

// custom reports whether a name is a domain of its owner's, not one of the server's.
func (r *Registry) custom(name endpoint.Name) bool {
	return name.Host != "" && !strings.HasSuffix(name.Host, "."+r.cfg.Domain)
}

// claimOne claims a name; where another token had it last, whoever shows that the domain is
// his has it.
func (r *Registry) claimOne(ctx context.Context, c store.Claim, name endpoint.Name) (store.Record[store.Route], error) {
	rec, err := r.cfg.Claims.Claim(ctx, c)
	if _, unproven := errors.AsType[*store.ProofError](err); unproven && r.cfg.Prove != nil {
		if err := r.cfg.Prove(ctx, name.Host, c.Token); err != nil {
			return rec, err
		}
		c.Proven = true
		rec, err = r.cfg.Claims.Claim(ctx, c)
	}
	return rec, err
}

// free reports whether a route in the store is nobody's in truth: one of this node's that
// it has given up already, though the store has not heard of it.
func (r *Registry) free(route store.Route) bool {
	if route.Node != r.cfg.Claims.Node() {
		return false
	}
	r.claims.Lock()
	defer r.claims.Unlock()
	return r.claims.own[route.Endpoint] == nil
}

// countLocked is how many endpoints a token has, but for those that c is about to take over
// from its agent.
func (r *Registry) countLocked(c *claimed) int {
	taken := func(name string, has store.Route) bool {
		fate, _ := c.route.record.Meets(has)
		return fate == store.Yields && slices.ContainsFunc(c.claims, func(claim store.Claim) bool { return claim.Name == name })
	}
	n := 0
	for _, has := range r.claims.own {
		if has.token == c.token && !taken(has.claims[0].Name, has.route.record) {
			n++
		}
	}
	counted := make(map[string]bool) // an endpoint may have several names
	for key := range r.claims.tokens[c.token] {
		name := store.NameOf(key)
		for _, o := range r.claims.others[name] {
			if o.key == key && !taken(name, o.record) && !counted[o.record.Endpoint] {
				counted[o.record.Endpoint] = true
				n++
			}
		}
	}
	return n
}

// knew reports whether a name was the agent's by what this node knows.
func (r *Registry) knew(name endpoint.Name, req Request) bool {
	agent, token := req.Owner.AgentID, req.Token
	its := func(route *Route) bool { return route.Owner.AgentID == agent && route.token == token }
	r.mu.RLock()
	e := r.mu.entries[name]
	mine := e != nil && (slices.ContainsFunc(e.members, its) || e.state == held && its(e.route))
	r.mu.RUnlock()
	if mine {
		return true
	}
	r.claims.Lock()
	defer r.claims.Unlock()
	return slices.ContainsFunc(r.claims.others[name.String()], func(o other) bool { return o.record.Agent == agent && o.record.Token == token })
}

// enteredLocked notes that a route is in the table. Whoever calls it holds Registry.mu.
func (r *Registry) enteredLocked(route *Route) {
	r.claims.Lock()
	defer r.claims.Unlock()
	route.entered.Store(true)
	if c := r.claims.own[route.ID]; c != nil {
		close(c.settled)
	}
}

// abandon gives up what a route has claimed, but for what its heir claims. It does not wait
// for the store.
func (r *Registry) abandon(route *Route) {
	if r.cfg.Claims == nil {
		return
	}
	r.claims.Lock()
	defer r.claims.Unlock()
	c := r.claims.own[route.ID]
	if c == nil {
		return
	}
	delete(r.claims.own, route.ID)
	if !route.entered.Load() {
		close(c.settled)
	}
	for _, claim := range c.claims {
		rec, written := c.records[claim.Name]
		list := r.claims.names[claim.Name]
		at := slices.Index(list, c)
		if at < 0 {
			continue // its heir has replaced it, or will
		}
		if before := c.before[claim.Name]; !route.entered.Load() && before != nil && r.claims.own[before.route.ID] == before {
			list[at] = before // which goes on
		} else if list = slices.Delete(list, at, at+1); len(list) > 0 {
			r.claims.names[claim.Name] = list
		} else {
			delete(r.claims.names, claim.Name)
		}
		if written {
			r.claims.ending = append(r.claims.ending, rec)
		}
	}
	r.wake()
}
