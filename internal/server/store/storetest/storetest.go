// Package storetest is the conformance suite of the store: whatever engine is behind it,
// and however many, the promises are the same.
package storetest

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/test/harness"
)

// Opener opens a store on the same state, each time anew. It closes it when the test ends.
type Opener func(t *testing.T) *store.Store

// Embedded opens a store of its own in a new directory.
func Embedded(t testing.TB) *store.Store {
	t.Helper()
	return Open(t, store.Config{Dir: t.TempDir()})
}

// Open opens a store that is closed when the test ends.
func Open(t testing.TB, cfg store.Config) *store.Store {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close the store: %v", err)
		}
	})
	return s
}

// Run runs the suite. one and two may open the same engine, or two members of one.
func Run(t *testing.T, one, two Opener) {
	for name, test := range map[string]func(*testing.T, *store.Store, *store.Store){
		"tokens": tokens, "first token": firstToken, "reservations": reservations, "one host": oneHost, "claims": claims,
		"excluded names": excluded, "custom domains": customDomains, "one owner": oneOwner, "leases": leases,
		"following": following, "files": files, "locks": locks, "events": events, "bounds": bounds, "backup": backup,
	} {
		t.Run(name, func(t *testing.T) { test(t, one(t), two(t)) })
	}
}

const patience = 10 * time.Second

// eventually polls what a watch brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	harness.Eventually(t, what, ok)
}

// again does what may be refused for the moment, as it asks to be done, where the machine is
// busy with other things.
func again(t *testing.T, do func() error) {
	t.Helper()
	until := time.Now().Add(2 * patience)
	err := do()
	for errors.Is(err, store.ErrUnavailable) && time.Now().Before(until) {
		err = do()
	}
	check(t, err)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func join(t *testing.T, s *store.Store) *store.Presence {
	t.Helper()
	p, err := s.Join(t.Context(), store.Node{ID: uuid.NewString(), Name: "n", Since: time.Now()})
	check(t, err)
	return p
}

// route is a claim of a name by a run of an agent.
func route(name, agent string, generation uint64) store.Claim {
	return store.Claim{Route: store.Route{
		Name: name, Agent: agent, Generation: generation, Token: "token-of-" + agent,
		Session: uuid.NewString(), Endpoint: uuid.NewString(), Since: time.Now().UTC(),
	}}
}

// fresh is a name that no other test has.
func fresh() string { return "http://" + uuid.NewString() + ".example.com" }
