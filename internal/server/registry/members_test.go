package registry

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/store/storetest"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// pooled is a spec that shares a host.
func pooled(host string) endpoint.Spec {
	s := http(host)
	s.Pool.Shared = true
	return s
}

// ask binds a spec for an agent of a token.
func ask(t *testing.T, r *Registry, s endpoint.Spec, agent, token string) (*Route, error) {
	t.Helper()
	return r.Bind(t.Context(), Request{Spec: s, Owner: owner(agent, 1), Token: token})
}

func list(r *Registry, name endpoint.Name) []*Route {
	s, ok := r.live.load(&name)
	switch {
	case s.several != nil:
		return s.several.list
	case ok:
		return []*Route{s.only}
	}
	return nil
}

// TestWhoMayJoin: agents of one token share a name if all of them ask for it and agree on
// what decides about visitors.
func TestWhoMayJoin(t *testing.T) {
	r := New(Config{Domain: "example.com", Grace: time.Hour})
	defer r.Close()
	first, err := ask(t, r, pooled("a.example.com"), "a", "mine")
	if err != nil {
		t.Fatal(err)
	}
	second := pooled("a.example.com")
	second.Name, second.Pool.Weight, second.Pool.Check.Path = "another", 3, "/healthz"
	if _, err := ask(t, r, second, "b", "mine"); err != nil {
		t.Fatal(err)
	}
	other, redirect, sticky := pooled("a.example.com"), pooled("a.example.com"), pooled("a.example.com")
	other.Compress, redirect.Redirect, sticky.Pool.Sticky = true, endpoint.RedirectAlways, endpoint.StickyByCookie
	for _, c := range []struct {
		spec  endpoint.Spec
		token string
		want  tunnel.Code
		again bool
	}{
		{pooled("a.example.com"), "another", tunnel.CodeNameTaken, false},
		{http("a.example.com"), "mine", tunnel.CodeNameTaken, false},
		{other, "mine", tunnel.CodePoolMismatch, true},
		{redirect, "mine", tunnel.CodePoolMismatch, true},
		{sticky, "mine", tunnel.CodePoolMismatch, true},
	} {
		_, err := ask(t, r, c.spec, "c", c.token)
		if b, ok := errors.AsType[*tunnel.BindError](err); !ok || b.Code != c.want || b.Retryable != c.again {
			t.Errorf("%+v for %s: %v, want %s", c.spec, c.token, err, c.want)
		}
	}
	if n := len(list(r, first.Name)); n != 2 {
		t.Errorf("%d members", n)
	}
	// An agent may have several of the pool, and its next run takes each of them over.
	if _, err := ask(t, r, second, "a", "mine"); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t, r, second, "a", "mine"); code(err) != tunnel.CodeNameTaken {
		t.Errorf("bound twice: %v", err)
	}
	if _, err := r.Bind(t.Context(), Request{Spec: second, Owner: owner("a", 2), Token: "mine"}); err != nil {
		t.Fatal(err)
	}
	if members := list(r, first.Name); len(members) != 2 || members[0].Owner.AgentID != "b" {
		t.Errorf("%d members after a restart", len(members))
	}
	if _, err := ask(t, r, http("alone.example.com"), "a", "mine"); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t, r, pooled("alone.example.com"), "b", "mine"); code(err) != tunnel.CodeNameTaken {
		t.Errorf("shared what is another's alone: %v", err)
	}
}

// TestSeats: the sessions that one run has at a time share its names though they are no
// pool, and each is followed by the next in its seat alone.
func TestSeats(t *testing.T) {
	s := storetest.Embedded(t)
	one, two := join(t, s, Config{Peer: toNode, Grace: time.Hour}), join(t, s, Config{Peer: toNode, Grace: time.Hour})
	seat := func(n node, session string, generation uint64, seat uint32) *Route {
		t.Helper()
		route, err := n.Bind(t.Context(), Request{Spec: http("a.example.com"), Token: "t", Owner: Owner{AgentID: "a", Generation: generation, SessionID: session, Seat: seat}})
		if err != nil {
			t.Fatal(err)
		}
		return route
	}
	first, second := seat(one, "s1", 1, 0), seat(two, "s2", 1, 1)
	both := func() bool {
		return len(list(one.Registry, first.Name)) == 2 && len(list(two.Registry, first.Name)) == 2
	}
	eventually(t, "both everywhere", both)
	if _, err := two.Bind(t.Context(), Request{Spec: http("a.example.com"), Token: "t", Owner: owner("b", 1)}); code(err) != tunnel.CodeNameTaken {
		t.Errorf("another agent: %v", err)
	}
	one.Lose(first)
	eventually(t, "the other alone", func() bool {
		m := list(one.Registry, first.Name)
		return len(m) == 1 && m[0].ID == second.ID && len(list(two.Registry, first.Name)) == 1
	})
	again := seat(one, "s3", 1, 0)
	eventually(t, "both again", both)
	if m := list(two.Registry, first.Name); m[0].ID != second.ID || m[1].ID != again.ID {
		t.Error("others than those that are there")
	}
	newer := seat(one, "s4", 2, 0)
	eventually(t, "the next run alone", func() bool {
		m, n := list(one.Registry, first.Name), list(two.Registry, first.Name)
		return len(m) == 1 && len(n) == 1 && m[0] == newer && n[0].ID == newer.ID
	})
}

// TestPoolOfNodes: the members at all nodes are one pool, whoever comes when, and one that
// goes is gone everywhere.
func TestPoolOfNodes(t *testing.T) {
	s := storetest.Embedded(t)
	nodes := []node{join(t, s, Config{Peer: toNode, Grace: time.Hour}), join(t, s, Config{Peer: toNode, Grace: time.Hour})}
	const each = 6
	var tasks sync.WaitGroup
	routes := make([]*Route, each*len(nodes))
	for i := range routes { // all at once
		tasks.Go(func() {
			var err error
			if routes[i], err = nodes[i%2].Bind(t.Context(), Request{Spec: pooled("a.example.com"), Owner: owner(fmt.Sprint("agent-", i), 1), Token: "t"}); err != nil {
				t.Error(err)
			}
		})
	}
	tasks.Wait()
	if t.Failed() {
		return
	}
	name := routes[0].Name
	eventually(t, "all everywhere", func() bool {
		return len(list(nodes[0].Registry, name)) == 2*each && len(list(nodes[1].Registry, name)) == 2*each
	})
	if _, err := ask(t, nodes[0].Registry, http("a.example.com"), "alone", "t"); code(err) != tunnel.CodeNameTaken {
		t.Errorf("alone: %v", err)
	}
	if _, err := ask(t, nodes[1].Registry, endpoint.Spec{Kind: endpoint.TLS, Host: "a.example.com"}, "tls", "t"); code(err) != tunnel.CodeNameTaken {
		t.Errorf("as another kind: %v", err)
	}
	nodes[0].SetDown(routes[0], true)
	eventually(t, "known to be down", func() bool {
		for _, m := range list(nodes[1].Registry, name) {
			if m.ID == routes[0].ID {
				return m.Told().Down
			}
		}
		return false
	})
	nodes[0].Lose(routes[0]) // others serve the name: it does not wait
	nodes[1].Release(routes[1])
	last := len(routes) - 1
	for i := 2; i < last; i++ {
		nodes[i%2].Lose(routes[i])
	}
	eventually(t, "the last one alone", func() bool { return len(list(nodes[0].Registry, name)) == 1 && len(list(nodes[1].Registry, name)) == 1 })
	nodes[1].Lose(routes[last])
	left, err := s.Routes(t.Context())
	if err != nil || len(left) != 1 || left[0].Endpoint != routes[last].ID {
		t.Errorf("the name does not wait for its last agent: %v, %v", left, err)
	}
}

// TestLoads: a node leads visitors to another's members when its own are much busier, by what
// that one has told, and not when they are as busy there.
func TestLoads(t *testing.T) {
	s := storetest.Embedded(t)
	one, two := join(t, s, Config{Peer: toNode}), join(t, s, Config{Peer: toNode})
	here, err := ask(t, one.Registry, pooled("a.example.com"), "a", "t")
	if err != nil {
		t.Fatal(err)
	}
	there, err := ask(t, two.Registry, pooled("a.example.com"), "b", "t")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "both at both", func() bool {
		return len(list(one.Registry, here.Name)) == 2 && len(list(two.Registry, here.Name)) == 2
	})
	for range 100 {
		there.Begin()
		here.Begin()
	}
	far := list(one.Registry, here.Name)[1]
	eventually(t, "told", func() bool { return far.Told().Load == coarse(100) })
	picked := func() *Route {
		r, err := one.Lookup(t.Context(), to(here.Name))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := picked(); r != here {
		t.Error("led elsewhere though they are as busy there")
	}
	for range 90 {
		there.End()
	}
	eventually(t, "less is told", func() bool { return far.Told().Load == coarse(10) })
	if r := picked(); r != far {
		t.Error("led to a much busier member")
	}
}

// TestPick: visitors are spread by load and weight, or in turn, or stay with their member,
// and are led to who is well.
func TestPick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		member := func(id string, weight int, node string) *Route {
			return &Route{ID: id, member: id, node: node, Spec: endpoint.Spec{Pool: endpoint.Pool{Shared: true, Weight: weight}}}
		}
		pool := func(p endpoint.Pool, list ...*Route) served {
			for _, r := range list {
				p.Weight = r.Spec.Pool.Weight
				r.Spec.Pool = p
			}
			return servedBy(list, served{})
		}
		count := func(m served, n int, visitor func(i int) endpoint.Visitor) map[string]int {
			got := make(map[string]int)
			for i := range n {
				v := visitor(i)
				r := m.pick(&v, nil)
				r.Begin()
				got[r.ID]++
			}
			return got
		}
		anyone := func(int) endpoint.Visitor { return endpoint.Visitor{} }
		a, b, c := member("a", 0, ""), member("b", 2, ""), member("c", 0, "far")
		if got := count(pool(endpoint.Pool{Shared: true}, a, b), 30, anyone); got["a"] != 10 || got["b"] != 20 {
			t.Errorf("least busy: %v", got)
		}
		// Those who come here go to members here, until these are much busier than others.
		if got := count(pool(endpoint.Pool{Shared: true}, a, c), 12, anyone); got["c"] == 0 || got["c"] > 10 {
			t.Errorf("with 10 visitors here: %v", got)
		}
		d, e := member("d", 0, ""), member("e", 0, "far")
		if got := count(pool(endpoint.Pool{Shared: true}, d, e), 5, anyone); got["d"] != 5 {
			t.Errorf("without need: %v", got)
		}
		turns := pool(endpoint.Pool{Shared: true, Balance: endpoint.RoundRobin}, a, c, d)
		if got := count(turns, 9, anyone); got["a"] != 3 || got["c"] != 3 || got["d"] != 3 {
			t.Errorf("in turn: %v", got)
		}
		weighed := pool(endpoint.Pool{Shared: true, Balance: endpoint.RoundRobin}, a, b, c)
		if got := count(weighed, 400, anyone); got["b"] < 195 || got["b"] > 205 || got["a"] < 95 || got["a"] > 105 {
			t.Errorf("in turn, by weight: %v", got)
		}
		by := func(i int) endpoint.Visitor {
			return endpoint.Visitor{Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)}
		}
		address := pool(endpoint.Pool{Shared: true, Sticky: endpoint.StickyByAddress}, a, b, c)
		if got := count(address, 4000, by); got["b"] < 1800 || got["b"] > 2200 || got["a"] < 850 || got["c"] < 850 {
			t.Errorf("by address: %v", got)
		}
		moved := 0
		fewer := servedBy([]*Route{b, c}, address)
		for i := range 1000 {
			v := by(i)
			if was, is := address.pick(&v, nil), fewer.pick(&v, nil); was != is {
				moved++
				if was != a {
					t.Fatal("who had a member that stays is led elsewhere")
				}
			}
		}
		cookie := pool(endpoint.Pool{Shared: true, Sticky: endpoint.StickyByCookie}, a, b, c)
		v := endpoint.Visitor{Member: "a"}
		if r := cookie.pick(&v, nil); r != a {
			t.Errorf("the cookie says a, led to %s", r.ID)
		}

		// Who fails is passed over, for longer each time, and tried again by one.
		for i, pause := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			a.Failed()
			if r := cookie.pick(&v, nil); r == a {
				t.Fatalf("round %d: led to who failed", i)
			}
			<-time.After(pause) // of the bubble's clock
			if r := cookie.pick(&v, nil); r != a {
				t.Fatalf("round %d: not tried again", i)
			}
			if r := cookie.pick(&v, nil); r == a {
				t.Fatalf("round %d: tried by two", i)
			}
		}
		a.Served()
		if r := cookie.pick(&v, nil); r != a {
			t.Error("passed over though it serves")
		}
		a.down.Store(true)
		if r := cookie.pick(&v, nil); r == a {
			t.Error("led to who is down")
		}
		b.Failed()
		c.away = func() bool { return true }
		if r := cookie.pick(&v, nil); r == c {
			t.Error("led to who is away")
		}
		if r := cookie.pick(&v, []*Route{a, b}); r != c {
			t.Error("not led to the last one there is")
		}
		if r := cookie.pick(&v, []*Route{a, b, c}); r != nil {
			t.Error("led to who was tried")
		}
	})
}
