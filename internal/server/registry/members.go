package registry

import (
	"hash/fnv"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// served is by whom a name is: by one route, as mostly, or by several.
type served struct {
	only    *Route
	several *members // else
}

// servedBy is what follows before where these routes, at least one, serve a name.
func servedBy(list []*Route, before served) served {
	if len(list) == 1 {
		return served{only: list[0]}
	}
	m := &members{list: list}
	if before.several != nil {
		m.turn.Store(before.several.turn.Load())
	}
	return served{several: m}
}

// any returns one of the routes.
func (s served) any() *Route {
	if s.several != nil {
		return s.several.list[0]
	}
	return s.only
}

// has reports whether a route fits.
func (s served) has(fits func(*Route) bool) bool {
	if s.several != nil {
		return slices.ContainsFunc(s.several.list, fits)
	}
	return s.only != nil && fits(s.only)
}

// pick returns the route for a visitor that none of those he tried is; nil: there is no
// other.
func (s served) pick(v *endpoint.Visitor, tried []*Route) *Route {
	if s.several != nil {
		return s.several.choose(v, tried, time.Now())
	}
	if !slices.Contains(tried, s.only) {
		return s.only
	}
	return nil
}

// members are the routes of one name, more than one. They do not change: others replace them.
type members struct {
	list []*Route
	turn atomic.Uint64 // of round-robin
}

// choose is pick. Who is not well is chosen only if nobody else is there.
func (m *members) choose(v *endpoint.Visitor, tried []*Route, now time.Time) *Route {
	var room [16]*Route
	for _, good := range []func(*Route) bool{
		func(r *Route) bool { return r.fit(now) },
		func(r *Route) bool { return !r.Away() },
		func(*Route) bool { return true },
	} {
		fit := room[:0]
		for _, r := range m.list {
			if !slices.Contains(tried, r) && good(r) {
				fit = append(fit, r)
			}
		}
		if len(fit) == 0 {
			continue
		}
		chosen := m.among(fit, v)
		if n := chosen.failures.Load(); n > 0 {
			chosen.rest(now, n) // for the others, until this one has found out
		}
		return chosen
	}
	return nil
}

// among chooses one of several that are as good as each other.
func (m *members) among(fit []*Route, v *endpoint.Visitor) *Route {
	p := &m.list[0].Spec.Pool // what counts here, all agree on
	switch p.Sticky {
	case endpoint.StickyByCookie:
		if i := slices.IndexFunc(fit, func(r *Route) bool { return r.member == v.Member }); i >= 0 {
			return fit[i]
		}
	case endpoint.StickyByAddress:
		return byAddress(fit, v)
	case endpoint.NotSticky:
	}
	turn := m.turn.Add(1) - 1
	if p.Balance == endpoint.RoundRobin {
		return byTurn(fit, turn)
	}
	return leastBusy(fit, turn)
}

// byAddress is rendezvous hashing: the same for an address on all nodes, and a member that
// comes or goes moves only its own share of the visitors.
func byAddress(fit []*Route, v *endpoint.Visitor) *Route {
	address := v.Remote.Addr().As16()
	return slices.MaxFunc(fit, func(a, b *Route) int {
		x, y := a.pull(address), b.pull(address)
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
}

// pull is how strongly a member draws an address: the strongest has it, which each is in
// proportion to its weight.
func (r *Route) pull(address [16]byte) float64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(r.member))
	_, _ = h.Write(address[:])
	u := (float64(mix(h.Sum64())>>11) + 0.5) / (1 << 53) // in (0, 1)
	return -float64(r.Spec.Pool.WeightOf()) / math.Log(u)
}

// mix spreads the low bits of a sum over all (the finalizer of MurmurHash3).
func mix(x uint64) uint64 {
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// byTurn is round-robin over the sum of the weights, in steps that spread each member's
// turns: those of the golden ratio, or of one where all weigh the same.
func byTurn(fit []*Route, turn uint64) *Route {
	sum, same := 0, true
	for _, r := range fit {
		w := r.Spec.Pool.WeightOf()
		sum += w
		same = same && w == fit[0].Spec.Pool.WeightOf()
	}
	if same {
		return fit[turn%uint64(len(fit))]
	}
	const golden = 0x9e3779b97f4a7c15 // of 2^64
	at := float64(turn*golden) / (1 << 64) * float64(sum)
	for _, r := range fit {
		if at -= float64(r.Spec.Pool.WeightOf()); at < 0 {
			return r
		}
	}
	return fit[len(fit)-1]
}

// A member at another node is chosen only if those here are this much busier: a hop costs
// time, and what is known of its load is a moment old.
const (
	fartherTimes = 2
	fartherPlus  = 4
)

// leastBusy chooses the member that has the fewest visitors for its weight, of those of this
// node unless they are much busier. Among equals it goes by turns.
func leastBusy(fit []*Route, turn uint64) *Route {
	var best, far *Route
	least, leastFar := math.Inf(1), math.Inf(1)
	for i := range fit {
		r := fit[(uint64(i)+turn)%uint64(len(fit))] //nolint:gosec // small
		switch busy := r.busy(); {
		case r.node == "" && busy < least:
			best, least = r, busy
		case r.node != "" && busy < leastFar:
			far, leastFar = r, busy
		}
	}
	if best == nil || far != nil && least > fartherTimes*leastFar+fartherPlus {
		return far
	}
	return best
}
