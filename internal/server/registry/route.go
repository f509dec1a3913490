package registry

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/limit"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Owner is whom a name is leased to.
type Owner struct {
	AgentID    string
	Generation uint64 // of the agent's run; a later one takes names over from an earlier one
	SessionID  string
	// Seat tells the sessions apart that one run has at a time, at several nodes: they share
	// the agent's names. A session takes over from the one that had its seat before.
	Seat uint32
}

// Route leads to an endpoint's agent.
type Route struct {
	ID    string        // of this binding; a name bound again gets another
	Name  endpoint.Name // of several ports the first
	Spec  endpoint.Spec
	Owner Owner
	Gate  *limit.Gate // the endpoint's limits; nil: none
	// ClientCAs are those of which visitors must show a certificate; nil: none is asked for.
	ClientCAs *endpoint.CAs

	names   []endpoint.Name // all of them
	token   string          // id of the owner's
	node    string          // another one, to whose session it leads; empty: this one's own
	entered atomic.Bool     // into the table
	record  store.Route     // as it stands in the store, but for its name and spec
	member  string          // record.Member()

	// Spoken is for the edge to note what the upstream was found to speak; nil: not
	// known, or not any more.
	Spoken atomic.Pointer[string]

	open OpenFunc
	away func() bool // nil: never
	lost func(*Route, *tunnel.BindError)

	several   atomic.Bool               // it is one of several
	load      atomic.Int64              // visitors that this node leads by it
	elsewhere atomic.Int64              // and others, as far as is known
	down      atomic.Bool               // its agent says that visitors should go elsewhere
	failures  atomic.Int32              // since it last served somebody
	rests     atomic.Pointer[time.Time] // until when it is passed over for them; nil: it isn't
}

// Open opens a stream to the endpoint for v.
func (r *Route) Open(ctx context.Context, v endpoint.Visitor, first []byte) (net.Conn, error) {
	return r.open(ctx, r.ID, v, first)
}

// Shared reports whether the name has other members.
func (r *Route) Shared() bool { return r.several.Load() }

// Relayed reports whether the route leads to a session of another node.
func (r *Route) Relayed() bool { return r.node != "" }

// Member tells the route from others of its name; it is the same for the agent's next run.
func (r *Route) Member() string { return r.member }

// Begin counts a visitor, who must End.
func (r *Route) Begin() { r.load.Add(1) }

// End ends what Begin began.
func (r *Route) End() { r.load.Add(-1) }

// Pauses of a member that serves nobody: the first, and the longest.
const (
	restMin = time.Second
	restMax = time.Minute
)

// Failed says that a visitor was not served for a reason that is this member's. It is
// passed over for a while that grows each time, then tried again by one visitor.
func (r *Route) Failed() { r.rest(time.Now(), r.failures.Add(1)) }

func (r *Route) rest(now time.Time, failures int32) {
	pause := min(restMin<<min(max(failures-1, 0), 10), restMax)
	until := now.Add(pause)
	r.rests.Store(&until)
}

// Served says that a visitor was.
func (r *Route) Served() {
	if r.failures.Load() != 0 {
		r.failures.Store(0)
		r.rests.Store(nil)
	}
}

// Away reports whether the agent's links have lost their connections.
func (r *Route) Away() bool { return r.away != nil && r.away() }

// fit reports whether visitors should be led by the route while there are others.
func (r *Route) fit(now time.Time) bool {
	return !r.down.Load() && r.resting(now) <= 0 && !r.Away()
}

// resting is for how long the route is passed over yet.
func (r *Route) resting(now time.Time) time.Duration {
	if until := r.rests.Load(); until != nil {
		return until.Sub(now)
	}
	return 0
}

// busy is how many visitors the member has for its weight, one more with the next.
func (r *Route) busy() float64 {
	return float64(r.load.Load()+r.elsewhere.Load()+1) / float64(r.Spec.Pool.WeightOf())
}

// Told is what is known of a member, for people to see.
type Told struct {
	Load    int64         // visitors that it has, as far as is known here
	Down    bool          // its agent's checks fail
	Resting time.Duration // for how long this node passes it over yet
}

// Told returns what is known of the route.
func (r *Route) Told() Told {
	return Told{
		Load: r.load.Load() + r.elsewhere.Load(), Down: r.down.Load(),
		Resting: max(0, r.resting(time.Now())),
	}
}
