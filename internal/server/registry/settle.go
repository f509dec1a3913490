package registry

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Pauses and bounds of settle.
const (
	settleEvery = time.Second
	settleAtOne = 16
)

func (r *Registry) wake() {
	select {
	case r.claims.wake <- struct{}{}:
	default:
	}
}

// Regained says that the node has a new lease: all that hung on the old one is gone.
func (r *Registry) Regained() {
	r.claims.Lock()
	for _, c := range r.claims.own {
		clear(c.records)
	}
	r.claims.lapsed = true
	r.claims.Unlock()
	r.wake()
}

// Run keeps claims and store in step until ctx ends: it hears of others' claims, gives up
// what is to be given up, and writes what could not be written before.
func (r *Registry) Run(ctx context.Context) error {
	if r.cfg.Claims == nil {
		return nil
	}
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(func() { r.cfg.Claims.FollowRoutes(ctx, (*sink)(r)) })
	if r.cfg.Peer != nil {
		tasks.Go(func() { r.cfg.Claims.FollowLoads(ctx, (*loadSink)(r)) })
		tasks.Go(func() { r.tellLoads(ctx) })
	}
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-r.claims.wake:
		}
		r.settle(ctx)
	}
}

// settle makes the store agree with what this node serves.
func (r *Registry) settle(ctx context.Context) {
	r.claims.Lock()
	ending := r.claims.ending
	r.claims.ending = nil
	type missing struct {
		c     *claimed
		claim store.Claim
	}
	var wanting []missing
	var unmarked []*claimed
	for _, c := range r.claims.own {
		for _, claim := range c.claims {
			// Until a route is entered, its claims are secure's to write.
			if _, ok := c.records[claim.Name]; !ok && c.route.entered.Load() {
				wanting = append(wanting, missing{c, claim})
			}
		}
		if !c.marked {
			unmarked = append(unmarked, c)
		}
	}
	r.claims.Unlock()
	places := make(chan struct{}, settleAtOne)
	var tasks sync.WaitGroup
	do := func(f func()) {
		places <- struct{}{}
		tasks.Go(func() {
			f()
			<-places
		})
	}
	for _, rec := range ending {
		do(func() {
			if err := r.cfg.Claims.Unclaim(ctx, rec); err != nil {
				r.claims.Lock()
				r.claims.ending = append(r.claims.ending, rec) // again with the next tick
				r.claims.Unlock()
			}
		})
	}
	for _, m := range wanting {
		do(func() { r.rewrite(ctx, m.c, m.claim) })
	}
	for _, c := range unmarked {
		do(func() { r.mark(ctx, c) })
	}
	tasks.Wait()
}

// rewrite claims again a name that this node serves, or ends serving it.
func (r *Registry) rewrite(ctx context.Context, c *claimed, claim store.Claim) {
	claim.Older, claim.Down = true, c.route.down.Load()
	rec, err := r.cfg.Claims.Claim(ctx, claim)
	switch {
	case errors.Is(err, store.ErrUnavailable):
	case err == nil:
		r.keep(c, rec)
	case errors.Is(err, store.ErrSuperseded):
		r.evict(c.route, refuse(tunnel.CodeSuperseded, "%s is served by a newer run of this agent now", claim.Name))
	default:
		r.evict(c.route, refuse(tunnel.CodeNameTaken, "%s went to another agent while the cluster's state was out of reach", claim.Name))
	}
}

// evict ends a route whose name is somebody else's now.
func (r *Registry) evict(route *Route, why *tunnel.BindError) {
	r.abandon(route)
	r.leave(released, []*Route{route})
	for _, name := range route.names {
		r.followAll(name.String())
	}
	if route.lost != nil {
		route.lost(route, why)
	}
}

// markEvery bounds how often an agent's word about its upstream is written.
const markEvery = time.Second

// SetDown says what the agent knows of its upstream: whether visitors should go to other
// members while there are some, on all nodes.
func (r *Registry) SetDown(route *Route, down bool) {
	if route.down.Swap(down) == down || r.cfg.Claims == nil {
		return
	}
	r.claims.Lock()
	if c := r.claims.own[route.ID]; c != nil {
		c.marked = false
	}
	r.claims.Unlock()
	r.wake()
}

// mark tells other nodes of a route's Down. What can't be written is tried again with the
// next tick.
func (r *Registry) mark(ctx context.Context, c *claimed) {
	down := c.route.down.Load()
	r.claims.Lock()
	if time.Since(c.markedAt) < markEvery {
		r.claims.Unlock()
		return
	}
	c.markedAt = time.Now()
	records := slices.Collect(maps.Values(c.records))
	r.claims.Unlock()
	for _, rec := range records {
		rec.Value.Down = down
		rec, err := r.cfg.Claims.Mark(ctx, rec)
		if err != nil {
			return
		}
		r.keep(c, rec)
	}
	r.claims.Lock()
	c.marked = c.route.down.Load() == down
	r.claims.Unlock()
}
