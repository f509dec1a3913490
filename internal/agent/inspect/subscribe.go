package inspect

import (
	"slices"
	"sync"
)

// Subscription is told which exchanges change. It holds ids, not exchanges, and
// forgets the oldest when nobody takes them.
type Subscription struct {
	in    *Inspector
	ready chan struct{}
	mu    struct {
		sync.Mutex
		ids     map[uint64]struct{}
		skipped int
		cleared bool
	}
}

// maxNews is how many changes a subscription holds.
const maxNews = 500

// Subscribe begins a subscription, which must be closed.
func (in *Inspector) Subscribe() *Subscription {
	s := &Subscription{in: in, ready: make(chan struct{}, 1)}
	s.mu.ids = make(map[uint64]struct{})
	in.mu.Lock()
	defer in.mu.Unlock()
	in.mu.subscribers[s] = struct{}{}
	return s
}

// Close ends it.
func (s *Subscription) Close() {
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	delete(s.in.mu.subscribers, s)
}

// Ready gets a value when there is something to take.
func (s *Subscription) Ready() <-chan struct{} { return s.ready }

// News is what changed since the last Take.
type News struct {
	Cleared bool
	Changed []Exchange // oldest first
	Skipped int        // changes that were forgotten
}

// Take returns what changed.
func (s *Subscription) Take() News {
	s.mu.Lock()
	n := News{Cleared: s.mu.cleared, Skipped: s.mu.skipped}
	ids := make([]uint64, 0, len(s.mu.ids))
	for id := range s.mu.ids {
		ids = append(ids, id)
	}
	clear(s.mu.ids)
	s.mu.cleared, s.mu.skipped = false, 0
	s.mu.Unlock()
	slices.Sort(ids)
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	for _, id := range ids {
		if x := s.in.mu.find(id); x != nil {
			n.Changed = append(n.Changed, *x)
		}
	}
	return n
}

// note adds changes.
func (s *Subscription) note(ids []uint64, cleared bool) {
	s.mu.Lock()
	if cleared {
		s.mu.cleared = true
		clear(s.mu.ids)
	}
	for _, id := range ids {
		s.mu.ids[id] = struct{}{}
	}
	if over := len(s.mu.ids) - maxNews; over > 0 {
		s.mu.skipped += over
		all := make([]uint64, 0, len(s.mu.ids))
		for id := range s.mu.ids {
			all = append(all, id)
		}
		slices.Sort(all)
		for _, id := range all[:over] {
			delete(s.mu.ids, id)
		}
	}
	s.mu.Unlock()
	signal(s.ready)
}

// notify tells the subscribers of what changed.
func (in *Inspector) notify() {
	in.mu.Lock()
	defer in.mu.Unlock()
	changed, cleared := in.mu.changed, in.mu.cleared
	in.mu.changed, in.mu.cleared = changed[:0], false
	var ids []uint64
	for _, x := range changed {
		x.dirty = false
		if !x.dropped && len(in.mu.subscribers) > 0 {
			ids = append(ids, x.ID)
		}
	}
	clear(changed)
	if len(ids) > 0 || cleared {
		for s := range in.mu.subscribers {
			s.note(ids, cleared)
		}
	}
}

// Clear forgets all exchanges.
func (in *Inspector) Clear() {
	in.mu.Lock()
	in.mu.clear()
	in.mu.Unlock()
	in.notify()
}

// Find returns the exchange with an id, and whether it is kept.
func (in *Inspector) Find(id uint64) (Exchange, bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	x := in.mu.find(id)
	if x == nil {
		return Exchange{}, false
	}
	return *x, true
}

// List returns up to limit exchanges that match, the newest first, from before an id
// on; 0 is the newest. next is the id to go on before, 0 at the end.
func (in *Inspector) List(f Filter, before uint64, limit int) (found []Exchange, next uint64) {
	in.mu.Lock()
	list := slices.Clone(in.mu.list) // pointers: what they lead to is copied one by one
	in.mu.Unlock()
	for _, p := range slices.Backward(list) {
		if before != 0 && p.ID >= before {
			continue
		}
		if len(found) == limit {
			return found, found[limit-1].ID
		}
		in.mu.Lock()
		x := *p
		in.mu.Unlock()
		if !x.dropped && f.Match(&x) {
			found = append(found, x)
		}
	}
	return found, 0
}
