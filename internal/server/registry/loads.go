package registry

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/culvert-tunnel/culvert/internal/server/store"
)

// A node tells the others what its members of names with members elsewhere have to do, so
// that visitors can be led to those that are less busy: not for each visitor, but every few
// seconds if it has changed by much.
const (
	tellEvery = 2 * time.Second
	maxTold   = 512 // members; the busiest
)

// tellLoads tells until ctx ends.
func (r *Registry) tellLoads(ctx context.Context) {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	told := make(map[string]int64)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		is := r.loads()
		r.claims.Lock()
		if r.claims.lapsed {
			r.claims.lapsed, told = false, map[string]int64{}
		}
		r.claims.Unlock()
		if !maps.Equal(told, is) && r.cfg.Claims.TellLoad(ctx, store.Load{Visitors: is}) == nil {
			told = is
		}
	}
}

// loads is what there is to tell.
func (r *Registry) loads() map[string]int64 {
	var busy []*Route
	r.claims.Lock()
	for _, c := range r.claims.own {
		if c.route.Shared() && coarse(c.route.load.Load()) > 0 {
			busy = append(busy, c.route)
		}
	}
	r.claims.Unlock()
	if len(busy) > maxTold {
		slices.SortFunc(busy, func(a, b *Route) int { return cmp.Compare(b.load.Load(), a.load.Load()) })
		busy = busy[:maxTold]
	}
	is := make(map[string]int64, len(busy))
	for _, route := range busy {
		is[route.ID] = coarse(route.load.Load())
	}
	return is
}

// coarse rounds a number down to two bits, so that few changes are worth a word.
func coarse(n int64) int64 {
	unit := int64(1)
	for n/unit >= 4 {
		unit *= 2
	}
	return n / unit * unit
}

// loadSink hears of what others tell.
type loadSink Registry

// Reset implements store.Sink.
func (s *loadSink) Reset(records []store.Record[store.Load], _ int64) {
	for _, rec := range records {
		s.Put(rec)
	}
}

// Put implements store.Sink.
func (s *loadSink) Put(rec store.Record[store.Load]) {
	r := (*Registry)(s)
	if rec.Key == r.cfg.Claims.Node() {
		return
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	for id, route := range r.mu.far {
		if route.node == rec.Key {
			// This node's own visitors are among those.
			route.elsewhere.Store(max(0, rec.Value.Visitors[id]-route.load.Load()))
		}
	}
}

// Drop implements store.Sink. What a node has goes with its routes.
func (s *loadSink) Drop(string) {}

// Reached implements store.Sink.
func (s *loadSink) Reached(int64) {}
