package store_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"

	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/server/store/storetest"
	"github.com/culvert-tunnel/culvert/test/harness"
)

// The operations on one name. What can't be known, because the answer never came, has the
// outcome unknown and no end.
type (
	operation struct {
		name, agent   string
		pool, release bool
	}
	outcome string
)

const (
	done    outcome = "done"
	held    outcome = "held"
	unknown outcome = "unknown"
)

// ownership is what is allowed: a name has one holder, or a pool of them, or none. The state
// is the holder, or the members.
var ownership = porcupine.NondeterministicModel{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byName := make(map[string][]porcupine.Operation)
		for _, o := range history {
			name := o.Input.(operation).name
			byName[name] = append(byName[name], o)
		}
		var parts [][]porcupine.Operation
		for _, p := range byName {
			parts = append(parts, p)
		}
		return parts
	},
	Init: func() []any { return []any{""} },
	Step: func(state, input, output any) []any {
		has, in, out := state.(string), input.(operation), output.(outcome)
		after, may := has, true
		switch mine := in.agent + ";"; {
		case in.release: // of what it has; elsewhere it is not asked for
			if after = strings.Replace(has, mine, "", 1); after == "pool:" {
				after = ""
			}
		case has == "" || has == mine || has == "pool:"+mine:
			if after = mine; in.pool {
				after = "pool:" + mine
			}
		case in.pool && strings.HasPrefix(has, "pool:"):
			members := strings.Fields(strings.ReplaceAll(strings.TrimPrefix(has, "pool:"), ";", "; "))
			if !slices.Contains(members, mine) {
				members = append(members, mine)
			}
			slices.Sort(members)
			after = "pool:" + strings.Join(members, "")
		default:
			may = false // it is somebody else's, or shared otherwise
		}
		switch {
		case out == done && may:
			return []any{after}
		case out == held && !may, out == unknown && !may:
			return []any{has}
		case out == unknown:
			return []any{has, after}
		}
		return nil
	},
	Equal: func(a, b any) bool { return a == b },
}

// TestClaimsAreLinearizable: several agents claim and give up a few names through several
// nodes, while the engine is halted and killed; what each was told fits one order.
func TestClaimsAreLinearizable(t *testing.T) {
	etcd := harness.StartEtcd(t, harness.EtcdConfig{})
	var nodes []*store.Presence
	ctx, stop := context.WithTimeout(t.Context(), 8*time.Second)
	defer stop()
	var background sync.WaitGroup
	for range 2 {
		s := storetest.Open(t, store.Config{External: store.External{URLs: etcd.URLs}})
		p, err := s.Join(t.Context(), store.Node{ID: uuid.NewString(), Name: "n"})
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, p)
		background.Go(func() { _ = p.Run(ctx, func() { t.Error("a lease was lost") }) })
	}
	background.Go(func() { faults(ctx, etcd) })

	begin := time.Now()
	var mu sync.Mutex
	var history []porcupine.Operation
	var agents sync.WaitGroup
	for i := range 6 {
		agents.Go(func() {
			a := agentOf(nodes[i%2], i)
			for ctx.Err() == nil {
				o := porcupine.Operation{ClientId: i, Call: int64(time.Since(begin))}
				o.Input, o.Output = a.next(t.Context())
				o.Return = int64(time.Since(begin))
				if o.Output == unknown {
					o.Return = math.MaxInt64
				}
				mu.Lock()
				history = append(history, o)
				mu.Unlock()
			}
		})
	}
	agents.Wait()
	background.Wait()
	counts := make(map[outcome]int)
	for _, o := range history {
		counts[o.Output.(outcome)]++
	}
	t.Logf("%v", counts)
	if counts[done] < 20 || counts[held] == 0 || counts[unknown] == 0 {
		t.Errorf("too little happened: %v", counts)
	}
	if r := porcupine.CheckOperationsTimeout(ownership.ToModel(), history, time.Minute); r != porcupine.Ok {
		t.Errorf("%d operations: %s", len(history), r)
	}
}

// faults halts and kills the engine, each for a moment.
func faults(ctx context.Context, etcd *harness.Etcd) {
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(500+rand.IntN(500)) * time.Millisecond):
		}
		if i%2 == 0 {
			etcd.Signal(0, syscall.SIGSTOP)
		} else {
			etcd.Kill(0)
		}
		<-time.After(time.Duration(1000+rand.IntN(500)) * time.Millisecond)
		if i%2 == 0 {
			etcd.Signal(0, syscall.SIGCONT)
		} else {
			etcd.Start(0)
		}
	}
}

// agent claims a name, and gives up what it has.
type agent struct {
	node *store.Presence
	id   string
	has  *store.Record[store.Route]
}

func agentOf(node *store.Presence, i int) *agent {
	return &agent{node: node, id: fmt.Sprintf("agent-%d", i)}
}

// next makes one operation.
func (a *agent) next(ctx context.Context) (operation, outcome) {
	if a.has != nil {
		o := operation{name: a.has.Value.Name, agent: a.id, release: true}
		err := a.node.Unclaim(ctx, *a.has)
		a.has = nil
		if err != nil {
			return o, unknown
		}
		return o, done
	}
	o := operation{name: fmt.Sprintf("http://%d.example.com", rand.IntN(3)), agent: a.id, pool: rand.IntN(2) == 0}
	claim := route(o.name, a.id)
	if o.pool {
		claim.Pool = "terms"
	}
	rec, err := a.node.Claim(ctx, claim)
	_, isHeld := errors.AsType[*store.HeldError](err)
	_, isPool := errors.AsType[*store.PoolError](err)
	switch {
	case isHeld, isPool:
		return o, held
	case err != nil:
		return o, unknown
	}
	a.has = &rec
	return o, done
}

func route(name, agent string) store.Claim {
	return store.Claim{Route: store.Route{
		Name: name, Agent: agent, Generation: 1, Session: agent, Endpoint: uuid.NewString(), Since: time.Now(),
	}}
}
