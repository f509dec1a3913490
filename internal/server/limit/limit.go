// Package limit holds an endpoint's limits on its visitors: how many at a time, how many
// new ones per second, how many bytes per second. A Gate belongs to an endpoint and
// outlives the sessions that serve it; registry keeps it beside the route, edge asks it.
package limit

import (
	"errors"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// Errors of Enter.
var (
	ErrTooMany = errors.New("the endpoint has as many connections as its limit allows")
	ErrTooFast = errors.New("the endpoint gets new connections faster than its limit allows")
)

// Gate is what stands between an endpoint and its visitors. Nil lets everyone pass.
type Gate struct {
	limits  endpoint.Limits
	present atomic.Int64
	fresh   *rate.Limiter    // new connections
	bytes   [2]*rate.Limiter // of all visitors together
}

// New makes a gate, nil where there is nothing to limit.
func New(l endpoint.Limits) *Gate {
	if l == (endpoint.Limits{}) {
		return nil
	}
	g := &Gate{limits: l}
	if l.Rate > 0 {
		g.fresh = rate.NewLimiter(rate.Limit(l.Rate), int(l.Rate))
	}
	for i := range g.bytes {
		g.bytes[i] = bucket(l.Bandwidth)
	}
	return g
}

// Limits of the gate.
func (g *Gate) Limits() endpoint.Limits {
	if g == nil {
		return endpoint.Limits{}
	}
	return g.limits
}

// Enter lets a visitor in, who must Leave, or says why not.
func (g *Gate) Enter() error {
	if g == nil {
		return nil
	}
	if n := g.present.Add(1); g.limits.Connections > 0 && n > int64(g.limits.Connections) {
		g.present.Add(-1)
		return ErrTooMany
	}
	if g.fresh != nil && !g.fresh.Allow() {
		g.present.Add(-1)
		return ErrTooFast
	}
	return nil
}

// Leave ends what Enter began.
func (g *Gate) Leave() {
	if g != nil {
		g.present.Add(-1)
	}
}

// Directions of bytes.
const (
	in  = 0 // from the visitor
	out = 1 // to the visitor
)

// perBurst is the part of a second's bytes that may come at once: small, so that a
// limited connection is slow and not stuttering.
const perBurst = 50

// leastBurst keeps slow limits from costing a system call per byte.
const leastBurst = 512

// bucket holds bytes; nil: without limit.
func bucket(bandwidth uint64) *rate.Limiter {
	if bandwidth == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(bandwidth), int(max(leastBurst, min(bandwidth/perBurst, 1<<20))))
}

// Conn returns c with the gate's bandwidth limits. It takes c over.
func (g *Gate) Conn(c net.Conn) net.Conn {
	if g == nil || g.limits.Bandwidth == 0 && g.limits.ConnectionBandwidth == 0 {
		return c // keeps the ways of sockets to move bytes
	}
	p := newPaced(c)
	for i := range p.pace {
		p.pace[i] = pace{g.bytes[i], bucket(g.limits.ConnectionBandwidth)}
	}
	return p
}

// Bandwidth is a limit of bytes per second in each direction that connections share.
type Bandwidth struct{ bytes [2]*rate.Limiter }

// NewBandwidth makes one.
func NewBandwidth(perSecond uint64) *Bandwidth {
	return &Bandwidth{[2]*rate.Limiter{bucket(perSecond), bucket(perSecond)}}
}

// Conn returns c with the limit. It takes c over.
func (b *Bandwidth) Conn(c net.Conn) net.Conn {
	p := newPaced(c)
	for i := range p.pace {
		p.pace[i] = pace{b.bytes[i]}
	}
	return p
}

// Policer is the bandwidth limit of one flow of datagrams, which are lost over it, not
// late.
type Policer struct{ pace [2]pace }

// Policer returns one for a new flow; nil: no limit.
func (g *Gate) Policer() *Policer {
	if g == nil || g.limits.Bandwidth == 0 && g.limits.ConnectionBandwidth == 0 {
		return nil
	}
	p := &Policer{}
	for i := range p.pace {
		p.pace[i] = pace{g.bytes[i], bucket(g.limits.ConnectionBandwidth)}
	}
	return p
}

// In reports whether a datagram of n bytes from the visitor may pass.
func (p *Policer) In(n int) bool { return p == nil || p.pace[in].allow(n) }

// Out reports whether a datagram of n bytes to the visitor may pass.
func (p *Policer) Out(n int) bool { return p == nil || p.pace[out].allow(n) }

// pace is the buckets that bytes of one direction are taken from; some may be nil.
type pace [2]*rate.Limiter

// chunk is how many bytes may be taken at once.
func (p pace) chunk() int {
	n := 1 << 20
	for _, b := range p {
		if b != nil {
			n = min(n, b.Burst())
		}
	}
	return n
}

// delay takes n bytes, at most chunk, and returns how long to wait for them.
func (p pace) delay(n int) time.Duration {
	var d time.Duration
	now := time.Now()
	for _, b := range p {
		if b != nil {
			d = max(d, b.ReserveN(now, n).DelayFrom(now))
		}
	}
	return d
}

// allow takes n bytes if they are there. A datagram larger than the bucket passes when
// the bucket is full, and is paid for afterwards by those behind it.
func (p pace) allow(n int) bool {
	now := time.Now()
	for _, b := range p {
		if b != nil && b.TokensAt(now) < float64(min(n, b.Burst())) {
			return false
		}
	}
	for _, b := range p {
		for rest := n; b != nil && rest > 0; rest -= b.Burst() {
			b.ReserveN(now, min(rest, b.Burst()))
		}
	}
	return true
}
