package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/culvert-tunnel/culvert/internal/server/store"
)

func claims(t *testing.T, one, two *store.Store) {
	ctx, name := t.Context(), fresh()
	a, b := join(t, one), join(t, two)
	first, err := a.Claim(ctx, route(name, "x", 5))
	check(t, err)
	if first.Value.Node != a.Node() || first.Rev() == 0 {
		t.Errorf("%+v", first)
	}
	var held *store.HeldError
	if _, err := b.Claim(ctx, route(name, "y", 9)); !errors.As(err, &held) || held.Holder.Agent != "x" {
		t.Errorf("another agent: %v", err)
	}
	if _, err := b.Claim(ctx, route(name, "x", 4)); !errors.Is(err, store.ErrSuperseded) {
		t.Errorf("an older run: %v", err)
	}
	moved, err := b.Claim(ctx, route(name, "x", 5))
	if err != nil || !moved.Value.Since.Equal(first.Value.Since) {
		t.Errorf("the same run elsewhere: %+v, %v", moved, err)
	}
	check(t, a.Unclaim(ctx, first)) // late news of the ghost must not touch its heir
	if _, err := a.Claim(ctx, route(name, "y", 1)); !errors.As(err, &held) {
		t.Errorf("the ghost took the name with it: %v", err)
	}
	dead := route(name, "y", 1)
	dead.Free = func(r store.Route) bool { return r.Node == b.Node() }
	if _, err := a.Claim(ctx, dead); err != nil {
		t.Errorf("from a dead node: %v", err)
	}
	older := route(name, "z", 1)
	older.Older, older.Since = true, first.Value.Since
	won, err := b.Claim(ctx, older)
	check(t, err)
	older.Agent, older.Since = "w", time.Now()
	if _, err := b.Claim(ctx, older); !errors.As(err, &held) {
		t.Errorf("the younger of two: %v", err)
	}
	check(t, b.Unclaim(ctx, won))
	check(t, b.Unclaim(ctx, won))
	if _, err := a.Claim(ctx, route(name, "y", 1)); err != nil {
		t.Errorf("what was given up: %v", err)
	}
}

func excluded(t *testing.T, one, two *store.Store) {
	ctx, host := t.Context(), uuid.NewString()
	a, b := join(t, one), join(t, two)
	_, err := a.Claim(ctx, route("http://"+host+"/path", "x", 1))
	check(t, err)
	_, err = a.Claim(ctx, route("http://"+host+"x", "x", 1))
	check(t, err)
	tls := route("tls://"+host, "y", 1)
	tls.Excludes = []string{"http://" + host}
	var held *store.HeldError
	if _, err := b.Claim(ctx, tls); !errors.As(err, &held) || held.Holder.Name != "http://"+host+"/path" {
		t.Errorf("the host has another kind: %v", err)
	}
	tls.Agent, tls.Token = "x", "token-of-x" // its own ghost
	_, err = b.Claim(ctx, tls)
	check(t, err)
	routes, err := one.Routes(ctx)
	check(t, err)
	if slices.ContainsFunc(routes, func(r store.Route) bool { return r.Name == "http://"+host+"/path" }) {
		t.Error("the ghost is still there")
	}
}

// oneOwner: two ask for a name at the same instant, many times. Who is told that the store
// is out of reach, as on a machine that is busy with other things, has no answer yet.
func oneOwner(t *testing.T, one, two *store.Store) {
	a, b := join(t, one), join(t, two)
	judged := 0
	for range 200 {
		name := fresh()
		var errs [2]error
		var tasks sync.WaitGroup
		start := make(chan struct{})
		for i, p := range []*store.Presence{a, b} {
			tasks.Go(func() {
				<-start
				_, errs[i] = p.Claim(t.Context(), route(name, fmt.Sprint(i), 1))
			})
		}
		close(start)
		tasks.Wait()
		var held *store.HeldError
		if both := errors.Join(errs[:]...); errors.Is(both, store.ErrUnavailable) {
			continue
		}
		judged++
		if (errs[0] == nil) == (errs[1] == nil) || !errors.As(errors.Join(errs[:]...), &held) {
			t.Fatalf("%v and %v", errs[0], errs[1])
		}
	}
	if judged < 20 {
		t.Errorf("only %d of 200 were answered", judged)
	}
}
