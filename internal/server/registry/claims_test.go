package registry

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/server/store/storetest"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
	"github.com/culvert-tunnel/culvert/test/harness"
)

// node is a registry of a cluster.
type node struct {
	*Registry
	presence *store.Presence
}

// join makes a registry whose claims go to s, and runs it.
func join(t testing.TB, s *store.Store, cfg Config) node {
	t.Helper()
	p, err := s.Join(t.Context(), store.Node{ID: uuid.NewString(), Name: "n"})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Domain, cfg.Claims = "example.com", p
	r := New(cfg)
	ctx, stop := context.WithCancel(t.Context())
	var tasks sync.WaitGroup
	tasks.Go(func() { _ = r.Run(ctx) })
	tasks.Go(func() { _ = p.Run(ctx, r.Regained) })
	t.Cleanup(func() {
		_ = r.Close()
		stop()
		tasks.Wait()
	})
	return node{r, p}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	harness.Eventually(t, what, ok)
}

// holder is the agent whose route of a host stands in the store.
func holder(t *testing.T, s *store.Store, host string) string {
	t.Helper()
	routes, err := s.Routes(t.Context())
	if err != nil {
		return ""
	}
	i := slices.IndexFunc(routes, func(r store.Route) bool { return r.Name == "http://"+host })
	if i < 0 {
		return ""
	}
	return routes[i].Agent
}

// TestOneOwner: two nodes that are asked for one name at the same instant bind it once, and
// tell the other that it is taken, not by whom.
func TestOneOwner(t *testing.T) {
	s := storetest.Embedded(t)
	nodes := []node{join(t, s, Config{}), join(t, s, Config{})}
	for round := range 1000 {
		host := fmt.Sprintf("n%d.example.com", round)
		var routes [2]*Route
		var errs [2]error
		var tasks sync.WaitGroup
		start := make(chan struct{})
		for i, n := range nodes {
			tasks.Go(func() {
				<-start
				routes[i], errs[i] = n.Bind(t.Context(), Request{Spec: http(host), Owner: owner(fmt.Sprintf("agent-%d", i), 1)})
			})
		}
		close(start)
		tasks.Wait()
		won, lost := 0, 1
		if errs[0] != nil {
			won, lost = 1, 0
		}
		if errs[won] != nil || code(errs[lost]) != tunnel.CodeNameTaken {
			t.Fatalf("round %d: %v and %v", round, errs[0], errs[1])
		}
		if text := errs[lost].Error(); text != host2name(host)+" is taken by another agent (name_taken)" {
			t.Fatalf("told: %s", text)
		}
		if _, ok := nodes[lost].Find(routes[won].Name); ok {
			t.Fatalf("round %d: both have it", round)
		}
		nodes[won].Release(routes[won])
	}
	eventually(t, "no claim left", func() bool {
		routes, err := s.Routes(t.Context())
		return err == nil && len(routes) == 0
	})
}

func host2name(host string) string { return endpoint.Name{Kind: endpoint.HTTP, Host: host}.String() }

// TestAgentMoves: an agent that comes to another node has its names there, and what was
// left behind is told.
func TestAgentMoves(t *testing.T) {
	s := storetest.Embedded(t)
	a, b := join(t, s, Config{Grace: time.Hour}), join(t, s, Config{Grace: time.Hour})
	lost := make(chan tunnel.Code, 1)
	_, err := a.Bind(t.Context(), Request{Spec: http("x.example.com"), Owner: owner("x", 1), Lost: func(_ *Route, why *tunnel.BindError) { lost <- why.Code }})
	if err != nil {
		t.Fatal(err)
	}
	there := bind(t, b.Registry, http("x.example.com"), owner("x", 2))
	select {
	case c := <-lost:
		if c != tunnel.CodeSuperseded {
			t.Errorf("told %s", c)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("the first node was not told")
	}
	if _, ok := a.Find(there.Name); ok {
		t.Error("both serve it")
	}
	if _, err := a.Bind(t.Context(), Request{Spec: http("x.example.com"), Owner: owner("x", 1)}); code(err) != tunnel.CodeSuperseded {
		t.Errorf("the older run: %v", err)
	}
	if _, err := a.Bind(t.Context(), Request{Spec: endpoint.Spec{Kind: endpoint.TLS, Host: "x.example.com"}, Owner: owner("y", 1)}); code(err) != tunnel.CodeNameTaken {
		t.Errorf("as another kind: %v", err)
	}
	b.Lose(there) // held for its agent, on all nodes
	if _, err := a.Bind(t.Context(), Request{Spec: http("x.example.com"), Owner: owner("y", 1)}); code(err) != tunnel.CodeNameTaken {
		t.Errorf("held elsewhere: %v", err)
	}
	bind(t, a.Registry, http("x.example.com"), owner("x", 2))
}

// TestGivenBack: what was given back is free for others at once on the node itself, and
// soon on all.
func TestGivenBack(t *testing.T) {
	s := storetest.Embedded(t)
	a, b := join(t, s, Config{}), join(t, s, Config{})
	for i := range 20 {
		a.Release(bind(t, a.Registry, http("x.example.com"), owner(fmt.Sprint(i), 1)))
	}
	eventually(t, "free on the other", func() bool {
		_, err := b.Bind(t.Context(), Request{Spec: http("x.example.com"), Owner: owner("y", 1)})
		return err == nil
	})
}

func TestTokenLimit(t *testing.T) {
	s := storetest.Embedded(t)
	a, b := join(t, s, Config{}), join(t, s, Config{})
	ask := func(n node, host, agent string, generation uint64) error {
		_, err := n.Bind(t.Context(), Request{Spec: http(host), Owner: owner(agent, generation), Token: "t", MaxEndpoints: 2})
		return err
	}
	if err := ask(a, "1.example.com", "x", 1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "known to the other", func() bool {
		b.claims.Lock()
		defer b.claims.Unlock()
		return len(b.claims.others) == 1
	})
	if err := ask(b, "2.example.com", "y", 1); err != nil {
		t.Fatal(err)
	}
	if err := ask(b, "3.example.com", "y", 1); code(err) != tunnel.CodeTooManyEndpoints {
		t.Errorf("a third: %v", err)
	}
	if err := ask(b, "2.example.com", "y", 2); err != nil {
		t.Errorf("a newer run takes over: %v", err)
	}
	if err := ask(b, "1.example.com", "x", 2); err != nil {
		t.Errorf("from another node: %v", err)
	}
}

// TestReserved: a name that is reserved for a token is that token's alone, and random names
// pass it by.
func TestReserved(t *testing.T) {
	s := storetest.Embedded(t)
	n := join(t, s, Config{Reserved: func(name endpoint.Name) string {
		r, _ := s.Reserved(name.String())
		return r.Token
	}})
	random, err := n.Bind(t.Context(), Request{Spec: endpoint.Spec{Kind: endpoint.HTTP, Name: "r"}, Owner: owner("x", 1), Token: "x"})
	if err != nil {
		t.Fatal(err)
	}
	n.Release(random)
	for _, name := range []string{"http://a.example.com", random.Name.String()} {
		eventually(t, "reserved", func() bool { return s.Reserve(t.Context(), name, "mine") == nil })
	}
	if _, err := n.Bind(t.Context(), Request{Spec: http("a.example.com"), Owner: owner("y", 1), Token: "other"}); code(err) != tunnel.CodeNameReserved {
		t.Errorf("another token: %v", err)
	}
	path := endpoint.Spec{Kind: endpoint.HTTP, Host: "a.example.com", Path: "/p"}
	if _, err := n.Bind(t.Context(), Request{Spec: path, Owner: owner("y", 1), Token: "other"}); code(err) != tunnel.CodeNameReserved {
		t.Errorf("a path of a reserved host: %v", err)
	}
	tls := endpoint.Spec{Kind: endpoint.TLS, Host: "a.example.com"}
	if _, err := n.Bind(t.Context(), Request{Spec: tls, Owner: owner("y", 1), Token: "other"}); code(err) != tunnel.CodeNameReserved {
		t.Errorf("a reserved host as tls: %v", err)
	}
	// A wildcard takes nothing in that is another's, though its agent is away.
	if err := s.Reserve(t.Context(), "http://kept.alice.org", "mine"); err != nil {
		t.Fatal(err)
	}
	tls.Host = "*.alice.org"
	if _, err := n.Bind(t.Context(), Request{Spec: tls, Owner: owner("y", 1), Token: "other"}); err != nil {
		t.Errorf("a wildcard above a reserved host: %v", err)
	}
	if _, ok := n.Passthrough("kept.alice.org"); ok {
		t.Error("a wildcard took a reserved host")
	}
	if name, ok := n.Passthrough("free.alice.org"); !ok || name.Host != tls.Host {
		t.Errorf("%v", name)
	}
	if _, err := n.Bind(t.Context(), Request{Spec: path, Owner: owner("z", 1), Token: "mine"}); err != nil {
		t.Errorf("a path of one's own host: %v", err)
	}
	if _, err := n.Bind(t.Context(), Request{Spec: http("a.example.com"), Owner: owner("y", 1), Token: "mine"}); err != nil {
		t.Errorf("its token: %v", err)
	}
	again, err := n.Bind(t.Context(), Request{Spec: endpoint.Spec{Kind: endpoint.HTTP, Name: "r"}, Owner: owner("x", 1), Token: "x"})
	if err != nil || again.Name == random.Name {
		t.Errorf("a random name: %v, %v", again, err)
	}
}

// TestProof: a domain that was one token's is another's only with proof, where several
// share the server.
func TestProof(t *testing.T) {
	s := storetest.Embedded(t)
	shared, proven := true, ""
	n := join(t, s, Config{
		Shared: func() bool { return shared },
		Prove: func(_ context.Context, host, token string) error {
			if host+" "+token != proven {
				return refuse(tunnel.CodeDomainUnproven, "set a record")
			}
			return nil
		},
	})
	ask := func(host, token string) error {
		route, err := n.Bind(t.Context(), Request{Spec: http(host), Owner: owner("agent-of-"+token, 1), Token: token})
		if err == nil {
			n.Release(route)
		}
		return err
	}
	for _, host := range []string{"app.else.org", "app.example.com"} {
		if err := ask(host, "a"); err != nil {
			t.Fatal(err)
		}
	}
	if err := ask("app.example.com", "b"); err != nil {
		t.Errorf("a name below the server's domain: %v", err)
	}
	if err := ask("app.else.org", "b"); code(err) != tunnel.CodeDomainUnproven {
		t.Errorf("without proof: %v", err)
	}
	proven = "app.else.org b"
	if err := ask("app.else.org", "b"); err != nil {
		t.Errorf("with proof: %v", err)
	}
	proven = ""
	if err := ask("app.else.org", "b"); err != nil {
		t.Errorf("proven once: %v", err)
	}
	if err := ask("app.else.org", "a"); code(err) != tunnel.CodeDomainUnproven {
		t.Errorf("the first one again: %v", err)
	}
	shared = false
	if err := ask("app.else.org", "a"); err != nil {
		t.Errorf("on a server of one's own: %v", err)
	}
}

// TestOutage: while the store is away, what is bound is served, agents come back to the
// names they had, and others are told to try again; afterwards the claims stand, and of two
// for one name the older one.
func TestOutage(t *testing.T) {
	etcd := harness.StartEtcd(t, harness.EtcdConfig{})
	open := func() *store.Store {
		return storetest.Open(t, store.Config{External: store.External{URLs: etcd.URLs}})
	}
	s := open()
	a, b := join(t, s, Config{Grace: time.Hour}), join(t, open(), Config{Grace: time.Hour})
	kept := bind(t, a.Registry, http("kept.example.com"), owner("x", 1))
	back := bind(t, a.Registry, http("back.example.com"), owner("x", 1))
	gone := bind(t, a.Registry, http("gone.example.com"), owner("x", 1))
	etcd.Signal(0, syscall.SIGSTOP)
	a.Lose(back)
	if _, ok := a.Find(kept.Name); !ok {
		t.Error("what is bound is not served")
	}
	again := bind(t, a.Registry, http("back.example.com"), owner("x", 2))
	if route, ok := a.Find(again.Name); !ok || route != again {
		t.Error("what came back is not served")
	}
	began := time.Now()
	_, err := a.Bind(t.Context(), Request{Spec: http("new.example.com"), Owner: owner("x", 1)})
	if refused := err.(*tunnel.BindError); refused.Code != tunnel.CodeStoreUnavailable || !refused.Retryable { //nolint:errorlint // as documented
		t.Errorf("a new name: %v", err)
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("told after %v", d)
	}
	a.Release(gone)
	etcd.Signal(0, syscall.SIGCONT)
	eventually(t, "the store agrees", func() bool {
		return holder(t, s, "kept.example.com") == "x" && holder(t, s, "back.example.com") == "x" && holder(t, s, "gone.example.com") == ""
	})
	eventually(t, "new names", func() bool {
		_, err := b.Bind(t.Context(), Request{Spec: http("gone.example.com"), Owner: owner("y", 1)})
		return err == nil
	})
	if _, err := b.Bind(t.Context(), Request{Spec: http("back.example.com"), Owner: owner("y", 1)}); code(err) != tunnel.CodeNameTaken {
		t.Errorf("what came back is anybody's: %v", err)
	}
}

// TestLeaseLost: when all that hung on the lease is gone, it comes again; what somebody
// else has taken meanwhile stays the older one's.
func TestLeaseLost(t *testing.T) {
	s := storetest.Embedded(t)
	a, b := join(t, s, Config{}), join(t, s, Config{})
	lost := make(chan tunnel.Code, 10)
	for _, host := range []string{"1.example.com", "2.example.com"} {
		_, err := a.Bind(t.Context(), Request{Spec: http(host), Owner: owner("x", 1), Lost: func(_ *Route, why *tunnel.BindError) { lost <- why.Code }})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := a.presence.Leave(t.Context()); err != nil { // as if it had expired
		t.Fatal(err)
	}
	// The lease's end frees the names for a moment; whoever takes one is younger.
	taken := make(chan tunnel.Code, 1)
	_, err := b.Bind(t.Context(), Request{Spec: http("2.example.com"), Owner: owner("y", 1), Lost: func(_ *Route, why *tunnel.BindError) { taken <- why.Code }})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-taken:
	case c := <-lost:
		t.Fatalf("the older claim lost: %s", c)
	case <-time.After(15 * time.Second):
		t.Fatal("both serve it")
	}
	eventually(t, "both again", func() bool {
		return holder(t, s, "1.example.com") == "x" && holder(t, s, "2.example.com") == "x"
	})
	if len(lost) != 0 {
		t.Errorf("lost %s", <-lost)
	}
}
