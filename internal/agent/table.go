package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// ErrDuplicate says that an agent serves an endpoint of that name already.
var ErrDuplicate = errors.New("the agent has an endpoint of this name")

// table holds the agent's endpoints, which come and go while it runs, and what the nodes of
// its sessions have said to them. Its lock is taken before an endpoint's own.
type table struct {
	mu sync.Mutex
	// all are the endpoints in the order in which they are shown.
	all      []*served
	request  uint64     // of the next Bind
	sessions []*session // that bind, one for each seat
}

// bindings are where a session's endpoints stand with its node. All fields are guarded by the
// table's lock.
type bindings struct {
	of  map[*served]*binding
	ids map[string]*served // by the id that the node gave
	// leaving were removed while the answer to their Bind was under way. No other
	// Bind is sent before it is here: it might ask for the name that the node is
	// about to give to the endpoint that is gone.
	leaving []*served
}

// binding is where an endpoint stands with a node.
type binding struct {
	phase phase
	id    string // while online
	tries int    // of Binds refused since
}

// phase is how far a binding has come.
type phase uint8

const (
	waiting phase = iota // for a Bind to be sent
	asked                // a Bind is under way
	resting              // after a refusal, until the next Bind
	online
)

// given is an endpoint's id at a node.
type given struct {
	session *session
	id      string
}

func unbind(all []given) {
	for _, g := range all {
		g.session.unbind(g.id)
	}
}

// Add serves one more endpoint from now on. If the node refuses it for good, the
// agent goes on without; Config.Lost is told.
func (a *Agent) Add(e Endpoint) error {
	t := &a.endpoints
	t.mu.Lock()
	if t.namedLocked(e.Spec.Name) != nil {
		t.mu.Unlock()
		return fmt.Errorf("add endpoint %q: %w", e.Spec.Name, ErrDuplicate)
	}
	t.all = append(t.all, t.newLocked(e, a.cfg.Logger, true))
	t.mu.Unlock()
	t.bindWanted()
	return nil
}

// Remove gives an endpoint up and reports whether there was one. The visitors it
// has may finish.
func (a *Agent) Remove(name string) bool {
	t := &a.endpoints
	t.mu.Lock()
	e := t.namedLocked(name)
	if e == nil {
		t.mu.Unlock()
		return false
	}
	t.all = slices.DeleteFunc(t.all, func(o *served) bool { return o == e })
	gone := t.leaveLocked(e)
	t.mu.Unlock()
	unbind(gone)
	return true
}

// Change tells what Apply did, by the endpoints' names.
type Change struct {
	Added   []string `json:"added,omitempty"`
	Removed []string `json:"removed,omitempty"`
	Rebound []string `json:"rebound,omitempty"` // asked for anew, because what is asked for changed or was lost
	Moved   []string `json:"moved,omitempty"`   // bound as before, to another upstream
	Kept    []string `json:"kept,omitempty"`
}

// Apply makes these the agent's endpoints. Those that are asked for as before are
// not touched, nor are their visitors.
func (a *Agent) Apply(endpoints []Endpoint) Change {
	var c Change
	var gone []given
	t := &a.endpoints
	t.mu.Lock()
	old := t.all
	t.all = nil
	for _, e := range endpoints {
		name := e.Spec.Name
		i := slices.IndexFunc(old, func(o *served) bool { return o.name == name })
		if i < 0 {
			t.all = append(t.all, t.newLocked(e, a.cfg.Logger, true))
			c.Added = append(c.Added, name)
			continue
		}
		have := old[i]
		old = slices.Delete(slices.Clone(old), i, i+1)
		switch {
		case !have.wanted() || !reflect.DeepEqual(have.asked, e.Spec):
			gone = append(gone, t.leaveLocked(have)...)
			t.all = append(t.all, t.newLocked(e, a.cfg.Logger, true))
			c.Rebound = append(c.Rebound, name)
		case have.move(e.Upstream):
			t.all = append(t.all, have)
			c.Moved = append(c.Moved, name)
		default:
			t.all = append(t.all, have)
			c.Kept = append(c.Kept, name)
		}
	}
	for _, e := range old {
		gone = append(gone, t.leaveLocked(e)...)
		c.Removed = append(c.Removed, e.name)
	}
	t.mu.Unlock()
	unbind(gone)
	t.bindWanted()
	return c
}

func (t *table) namedLocked(name string) *served {
	for _, e := range t.all {
		if e.name == name {
			return e
		}
	}
	return nil
}

func (t *table) newLocked(e Endpoint, log *slog.Logger, late bool) *served {
	s := newServed(e, log)
	s.request, s.late = t.request, late
	t.request++
	return s
}

// leaveLocked takes note that an endpoint is gone and returns the ids that it has.
func (t *table) leaveLocked(e *served) (ids []given) {
	e.giveUp(nil)
	for _, s := range t.sessions {
		b := s.binds.of[e]
		if b == nil {
			continue
		}
		switch b.phase {
		case asked:
			s.binds.leaving = append(s.binds.leaving, e)
		case online:
			ids = append(ids, given{s, b.id})
			delete(s.binds.ids, b.id)
		case waiting, resting:
		}
		delete(s.binds.of, e)
	}
	return ids
}

// list returns the endpoints.
func (t *table) list() []*served {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.all)
}

// attach makes s the session that binds in its seat.
func (t *table) attach(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.binds = bindings{of: make(map[*served]*binding), ids: make(map[string]*served)}
	t.sessions = append(slices.DeleteFunc(t.sessions, func(o *session) bool { return o.seat == s.seat }), s)
}

// detach lets no further endpoint be bound by s: it drains, or has ended.
func (t *table) detach(s *session) {
	t.mu.Lock()
	t.sessions = slices.DeleteFunc(t.sessions, func(o *session) bool { return o == s })
	t.mu.Unlock()
	t.bindWanted() // at other nodes, where its answer was waited for
}

// bindWanted has all sessions ask for what they don't have, none waiting for another's link.
func (t *table) bindWanted() {
	t.mu.Lock()
	sessions := slices.Clone(t.sessions)
	t.mu.Unlock()
	for _, s := range sessions {
		go s.bindWanted() // bounded by send's own deadline
	}
}

// online reports which endpoints some node serves.
func (t *table) online() map[*served]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make(map[*served]bool)
	for _, s := range t.sessions {
		for e, b := range s.binds.of {
			all[e] = all[e] || b.phase == online
		}
	}
	return all
}

// byID finds an endpoint by the id that the node of a session gave it.
func (t *table) byID(s *session, id string) *served {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := s.binds.ids[id]; e != nil && e.wanted() {
		return e
	}
	return nil
}

// ask returns the endpoints that s must send a Bind for now, at most once each. Of an
// endpoint that has no name or port yet, one node after the other is asked: what the first
// picks, the others are asked for.
func (t *table) ask(s *session) []*served {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Contains(t.sessions, s) || len(s.binds.leaving) > 0 {
		return nil
	}
	var now []*served
	for _, e := range t.all {
		b := s.binds.of[e]
		if b == nil {
			b = &binding{}
			s.binds.of[e] = b
		}
		if b.phase == waiting && e.wanted() && (e.had() || !t.elsewhereLocked(e, s, asked)) {
			b.phase = asked
			now = append(now, e)
		}
	}
	return now
}

// elsewhereLocked reports whether an endpoint is in one of these phases in another session
// than s.
func (t *table) elsewhereLocked(e *served, s *session, phases ...phase) bool {
	return slices.ContainsFunc(t.sessions, func(o *session) bool {
		b := o.binds.of[e]
		return o != s && b != nil && slices.Contains(phases, b.phase)
	})
}

// awaits reports whether an answer to a Bind of s is still to come, or the Bind itself.
func (t *table) awaits(s *session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.ContainsFunc(t.all, func(e *served) bool {
		b := s.binds.of[e]
		return e.wanted() && (b == nil || b.phase != online)
	})
}

// answeredLocked finds the endpoint that an answer to a Bind is for: nil for one
// that nobody waits for any more.
func (t *table) answeredLocked(s *session, request uint64) (*served, *binding) {
	if !slices.Contains(t.sessions, s) {
		return nil, nil
	}
	s.binds.leaving = slices.DeleteFunc(s.binds.leaving, func(e *served) bool { return e.request == request })
	for _, e := range t.all {
		if e.request == request && s.binds.of[e] != nil {
			return e, s.binds.of[e]
		}
	}
	return nil, nil
}

// bound puts an endpoint online. It reports whether that is news, as it isn't at the second
// of two nodes.
func (t *table) bound(s *session, m *tunnel.Bound) (e *served, urls []string, news bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, b := t.answeredLocked(s, m.GetRequest())
	if e == nil {
		return nil, nil, false
	}
	*b = binding{phase: online, id: m.GetEndpointId()}
	s.binds.ids[b.id] = e
	urls, changed := e.online(m)
	return e, urls, changed || !t.elsewhereLocked(e, s, online)
}

// verdict says what a refusal means for an endpoint.
type verdict struct {
	again bool // after wait
	wait  time.Duration
	fatal bool // the agent was started for it
}

// refused takes the answer no, and says what becomes of the endpoint. It is given up when
// no other node may still say yes.
func (t *table) refused(s *session, m *tunnel.Refused, err *tunnel.BindError) (*served, verdict) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, b := t.answeredLocked(s, m.GetRequest())
	if e == nil || !e.wanted() {
		return nil, verdict{}
	}
	superseded := err.Code == tunnel.CodeSuperseded
	if superseded || !err.Retryable && !e.had() && !t.elsewhereLocked(e, s, waiting, asked, online) {
		e.giveUp(err)
		delete(s.binds.of, e)
		return e, verdict{fatal: !e.late && !superseded}
	}
	longest := rebindMax
	if err.Code == tunnel.CodeStoreUnavailable {
		longest = storeMax
	}
	wait := min(rebindMin<<min(b.tries, 10), longest)
	b.phase, b.id = resting, ""
	b.tries++
	return e, verdict{again: true, wait: jitter(wait)}
}

// rested ends the rest after a refusal.
func (t *table) rested(s *session, e *served) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := s.binds.of[e]; b != nil && b.phase == resting {
		b.phase = waiting
	}
}
