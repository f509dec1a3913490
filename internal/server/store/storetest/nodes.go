package storetest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/culvert-tunnel/culvert/internal/server/store"
)

func leases(t *testing.T, one, two *store.Store) {
	ctx, name := t.Context(), fresh()
	node := store.Node{ID: uuid.NewString(), Name: "n"}
	dead, err := one.Join(ctx, node)
	check(t, err)
	_, err = dead.Claim(ctx, route(name, "x", 1))
	check(t, err)
	there := func() bool {
		return slices.ContainsFunc(two.Nodes(), func(n store.Node) bool { return n.ID == node.ID })
	}
	eventually(t, "the node at the other", there)
	again, err := two.Join(ctx, node) // as after kill -9: at once, on a new lease
	check(t, err)
	if _, err := again.Claim(ctx, route(name, "y", 1)); err != nil {
		t.Errorf("the ghost of an earlier life holds on: %v", err)
	}
	if _, err := dead.Claim(ctx, route(fresh(), "x", 1)); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a claim on a lost lease: %v", err)
	}
	// The one whose lease was taken notices, and gets another.
	running, stop := context.WithCancel(ctx)
	regained, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() { ended <- dead.Run(running, func() { regained <- struct{}{} }) }()
	select {
	case <-regained:
	case <-time.After(patience):
		t.Fatal("the lease was not regained")
	}
	stop()
	check(t, <-ended)
	if _, err := dead.Claim(ctx, route(fresh(), "x", 1)); err != nil {
		t.Errorf("on the new lease: %v", err)
	}
	check(t, dead.Leave(ctx))
	check(t, again.Leave(ctx))
	eventually(t, "nobody there", func() bool { return !there() })
}

// sink keeps what it is told.
type sink struct {
	mu     sync.Mutex
	routes map[string]store.Route
	resets int
}

func (s *sink) Reset(list []store.Record[store.Route], _ int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resets++
	s.routes = make(map[string]store.Route)
	for _, r := range list {
		s.routes[r.Value.Name] = r.Value
	}
}

func (s *sink) Put(r store.Record[store.Route]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.routes[r.Value.Name] = r.Value
}

func (s *sink) Drop(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.routes, store.NameOf(key))
}

func (s *sink) Reached(int64) {}

func (s *sink) agent(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.routes[name].Agent
}

func following(t *testing.T, one, two *store.Store) {
	p, before, after := join(t, one), fresh(), fresh()
	_, err := p.Claim(t.Context(), route(before, "x", 1))
	check(t, err)
	ctx, stop := context.WithCancel(t.Context())
	s, ended := &sink{}, make(chan struct{})
	go func() {
		two.FollowRoutes(ctx, s)
		close(ended)
	}()
	eventually(t, "what was there", func() bool { return s.agent(before) == "x" })
	r, err := p.Claim(t.Context(), route(after, "y", 1))
	check(t, err)
	eventually(t, "what came", func() bool { return s.agent(after) == "y" })
	check(t, p.Unclaim(t.Context(), r))
	eventually(t, "what went", func() bool { return s.agent(after) == "" })
	check(t, p.Leave(t.Context()))
	eventually(t, "what went with its node", func() bool { return s.agent(before) == "" })
	if d := two.Behind(); d > 0 {
		t.Errorf("behind by %v", d)
	}
	stop()
	<-ended
}
