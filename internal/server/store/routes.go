package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Route says who serves a name, or is one of those who do. It hangs on its node's lease.
type Route struct {
	Name       string          `json:"name"` // what endpoint.Name.String makes
	Node       string          `json:"node"`
	Session    string          `json:"session"`
	Endpoint   string          `json:"endpoint"` // id of the binding
	Agent      string          `json:"agent"`
	Generation uint64          `json:"generation"`
	Token      string          `json:"token"`
	Since      time.Time       `json:"since"` // since when the agent has the name; it keeps that when it comes back
	Spec       json.RawMessage `json:"spec,omitempty"`

	Seat uint32 `json:"seat,omitempty"` // which of the sessions that one run of the agent has at once
	Part string `json:"part,omitempty"` // which of the agent's endpoints in a pool
	Pool string `json:"pool,omitempty"` // what the members of a pool agree on; empty: it is none
	Down bool   `json:"down,omitempty"` // its agent says that it should get no visitors
}

// Claim asks for a name.
type Claim struct {
	Route
	// Excludes are names that nobody else may have at the same time, nor names that go on
	// from them with a slash.
	Excludes []string
	// Custom remembers the token as the last one to have had the name's host. Proof is then
	// demanded of another token, for whatever name of the host: without Proven it gets a
	// *ProofError.
	Custom, Proof, Proven bool
	// Free reports whether a route is nobody's in truth, though it still stands in the
	// store: its node is known to be dead, or has given it up.
	Free func(Route) bool
	// Older says that the claim was granted while the store was away: the older of two
	// claims wins, not the one that is written.
	Older bool
}

// ProofError says that another token had the name last, and that control of the domain
// is to be shown.
type ProofError struct{ Last Reservation }

func (e *ProofError) Error() string { return e.Last.Name + " was another token's before" }

func (s *Store) routeTable() table[Route] { return table[Route]{s, "routes/"} }

// FollowRoutes tells the sink of all routes and then of each change, until ctx ends.
func (s *Store) FollowRoutes(ctx context.Context, sink Sink[Route]) { s.routeTable().Follow(ctx, sink) }

// Routes reads all routes.
func (s *Store) Routes(ctx context.Context) ([]Route, error) {
	list, _, err := s.routeTable().list(ctx)
	routes := make([]Route, 0, len(list))
	for _, r := range list {
		routes = append(routes, r.Value)
	}
	return routes, err
}

// claimTries is how often a claim is judged anew because others wrote at the same moment,
// as the members of a pool do that start together.
const (
	claimTries = 50
	claimPause = 5 * time.Millisecond // and one more with each try, on average half of it
)

// Claim makes the route the one of its name, or one of its pool, in one transaction, if
// judge says that it may be, and returns the route as it stands in the store. The errors are
// *HeldError, *PoolError, *ReservedError, *ProofError, ErrSuperseded, ErrPoolFull, or wrap
// ErrUnavailable: then it is not known whether the claim was written.
func (p *Presence) Claim(ctx context.Context, c Claim) (Record[Route], error) {
	c.Node = p.node.ID
	for try := range claimTries {
		seen, err := p.s.look(ctx, c)
		if err != nil {
			return Record[Route]{}, fmt.Errorf("claim %s: %w", c.Name, err)
		}
		route, ghosts, err := c.judge(seen)
		if err != nil {
			return Record[Route]{}, err
		}
		rev, err := p.write(ctx, c, route, ghosts, seen)
		if errors.Is(err, ErrUnavailable) {
			// It may have been written all the same.
			if now, again := p.s.routeTable().get(ctx, c.Key()); again == nil && now.Value.Endpoint == c.Endpoint {
				return now, nil
			}
		}
		switch {
		case err == nil:
			return Record[Route]{Key: route.Key(), Value: route, rev: rev}, nil
		case !errors.Is(err, ErrChanged):
			return Record[Route]{}, fmt.Errorf("claim %s: %w", c.Name, err)
		}
		select {
		case <-time.After(rand.N(time.Duration(try+1) * claimPause)):
		case <-ctx.Done():
			return Record[Route]{}, fmt.Errorf("claim %s: %w", c.Name, ErrUnavailable)
		}
	}
	return Record[Route]{}, fmt.Errorf("claim %s: %w", c.Name, ErrUnavailable)
}

// sight is what stands in the store around one name.
type sight struct {
	members  []Record[Route]       // that have the name
	reserved Record[Reservation]   // the name itself
	names    []Record[Reservation] // all that bear on the name, itself among them
	excluded []Record[Route]
	rev      int64 // of the store when this was so
}

// look reads what a claim is judged by, as of one moment.
func (s *Store) look(ctx context.Context, c Claim) (sight, error) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	routes, names := s.routeTable(), s.nameTable()
	ops := []clientv3.Op{clientv3.OpGet(routes.path(membersOf(c.Name)), clientv3.WithPrefix())}
	related := c.related()
	for _, n := range related {
		ops = append(ops, clientv3.OpGet(names.path(n), reach(n)...))
	}
	for _, x := range c.Excludes {
		ops = append(ops, clientv3.OpGet(routes.path(membersOf(x)), clientv3.WithPrefix()), clientv3.OpGet(routes.path(x)+"/", clientv3.WithPrefix()))
	}
	r, err := s.client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return sight{}, fault(err)
	}
	v := sight{rev: r.Header.Revision}
	for i, res := range r.Responses {
		for _, kv := range res.GetResponseRange().Kvs {
			switch {
			case i == 0:
				rec, _ := routes.decode(kv) // what can't be read is somebody's all the same
				v.members = append(v.members, rec)
			case i <= len(related):
				rec, _ := names.decode(kv)
				v.names = append(v.names, rec)
				if rec.Key == c.Name {
					v.reserved = rec
				}
			default:
				rec, _ := routes.decode(kv)
				v.excluded = append(v.excluded, rec)
			}
		}
	}
	return v, nil
}

// related are the names whose reservations a claim is judged by, its own first.
func (c Claim) related() []string {
	list := append([]string{c.Name}, covering(c.Name)...)
	if d := domainOf(c.Name); d != "" && !slices.Contains(list, d) {
		list = append(list, d)
	}
	return list
}

// reach is how a related name is read.
func reach(name string) []clientv3.OpOption {
	if strings.HasSuffix(name, "/") {
		return []clientv3.OpOption{clientv3.WithPrefix()}
	}
	return nil
}

// barred is why a claim is not good by what is reserved. Who has the very name reserved has
// it whatever the host's other names say.
func (c Claim) barred(seen sight) error {
	if r := seen.reserved; r.rev != 0 && r.Value.Kept && r.Value.Token == c.Token {
		return nil
	}
	var unproven error
	for _, r := range seen.names {
		switch {
		case r.Value.Token == c.Token:
		case r.Value.Kept:
			return &ReservedError{r.Value}
		case r.Key == domainOf(c.Name) && c.Proof && !c.Proven:
			unproven = &ProofError{r.Value}
		}
	}
	return unproven
}

// passes reports whether a domain passes to a token: it is nobody's, or was another's last.
func (v sight) passes(domain, token string) bool {
	for _, r := range v.names {
		if r.Key == domain {
			return !r.Value.Kept && r.Value.Token != token
		}
	}
	return true
}

// unchanged are the conditions that what a claim was judged by is still so. What has gone
// meanwhile stood against it, if anything.
func (s *Store) unchanged(c Claim, seen sight) []clientv3.Cmp {
	routes, names := s.routeTable(), s.nameTable()
	list := []clientv3.Cmp{
		clientv3.Compare(clientv3.ModRevision(routes.path(membersOf(c.Name))), "<", seen.rev+1).WithPrefix(),
		clientv3.Compare(clientv3.ModRevision(names.path(c.Name)), "=", seen.reserved.rev),
	}
	for _, n := range c.related() {
		cmp := clientv3.Compare(clientv3.ModRevision(names.path(n)), "<", seen.rev+1)
		if len(reach(n)) > 0 {
			cmp = cmp.WithPrefix()
		}
		list = append(list, cmp)
	}
	for _, x := range c.Excludes {
		list = append(list,
			clientv3.Compare(clientv3.ModRevision(routes.path(membersOf(x))), "<", seen.rev+1).WithPrefix(),
			clientv3.Compare(clientv3.ModRevision(routes.path(x)+"/"), "<", seen.rev+1).WithPrefix())
	}
	return list
}

// write writes a claim if nothing has changed since it was judged.
func (p *Presence) write(ctx context.Context, c Claim, route Route, ghosts []string, seen sight) (int64, error) {
	lease := p.lease()
	if lease == 0 {
		return 0, ErrUnavailable
	}
	text, err := encode(route)
	if err != nil {
		return 0, err
	}
	routes, names := p.s.routeTable(), p.s.nameTable()
	unchanged := p.s.unchanged(c, seen)
	ops := []clientv3.Op{clientv3.OpPut(routes.path(route.Key()), text, clientv3.WithLease(lease))}
	for _, key := range ghosts {
		ops = append(ops, clientv3.OpDelete(routes.path(key)))
	}
	if domain := domainOf(c.Name); c.Custom && seen.passes(domain, c.Token) {
		last, err := encode(Reservation{Name: domain, Token: c.Token, Created: time.Now().UTC().Truncate(time.Second)})
		if err != nil {
			return 0, err
		}
		ops = append(ops, clientv3.OpPut(names.path(domain), last))
	}
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	r, err := p.s.client.Txn(ctx).If(unchanged...).Then(ops...).Commit()
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return 0, ErrUnavailable // Run gets another one
	case err != nil:
		return 0, fault(err)
	case !r.Succeeded:
		return 0, ErrChanged
	}
	return r.Header.Revision, nil
}

// Mark writes anew a route of this node whose Down has changed. ErrChanged says that it has
// been replaced since.
func (p *Presence) Mark(ctx context.Context, r Record[Route]) (Record[Route], error) {
	lease := p.lease()
	if lease == 0 {
		return r, ErrUnavailable
	}
	rev, err := p.s.routeTable().put(ctx, r.Key, r.rev, r.Value, clientv3.WithLease(lease))
	if err != nil {
		return r, fmt.Errorf("mark %s: %w", r.Value.Name, err)
	}
	r.rev = rev
	return r, nil
}

// Unclaim gives a name up, unless the route has been replaced since. That the store is
// away is an error; that the route is gone is none.
func (p *Presence) Unclaim(ctx context.Context, r Record[Route]) error {
	_, err := p.s.routeTable().drop(ctx, r.Key, r.rev)
	if err == nil || errors.Is(err, ErrChanged) || errors.Is(err, ErrNotFound) {
		return nil
	}
	return fmt.Errorf("give up %s: %w", r.Key, err)
}
