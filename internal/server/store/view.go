package store

import (
	"context"
	"sync"
	"time"
)

// View is a table in memory. It implements Sink.
type View[T any] struct {
	table table[T]
	ready chan struct{} // closed after the first Reset

	mu struct {
		sync.RWMutex
		records map[string]Record[T]
		rev     int64     // everything up to it is in here
		at      time.Time // when it was last known to be all there is
		moved   chan struct{}
		watch   []func(was, is *T)
	}
}

func newView[T any](t table[T]) *View[T] {
	v := &View[T]{table: t, ready: make(chan struct{})}
	v.mu.records, v.mu.moved = make(map[string]Record[T]), make(chan struct{})
	return v
}

// OnChange has f called after each change from now on, with what was there and what is,
// nil for nothing. Until f returns nothing else changes, so it must not wait.
func (v *View[T]) OnChange(f func(was, is *T)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mu.watch = append(v.mu.watch, f)
}

// Get returns a record from memory.
func (v *View[T]) Get(key string) (Record[T], bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	r, ok := v.mu.records[key]
	return r, ok
}

// All returns all records, in no order.
func (v *View[T]) All() []Record[T] {
	v.mu.RLock()
	defer v.mu.RUnlock()
	list := make([]Record[T], 0, len(v.mu.records))
	for _, r := range v.mu.records {
		list = append(list, r)
	}
	return list
}

// Behind is for how long changes may have been missed. Word comes every two seconds.
func (v *View[T]) Behind() time.Duration {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return max(0, time.Since(v.mu.at)-2*followProgress)
}

// reach waits until the change of a revision is in memory. If that does not happen in
// time, it is no fault of who made the change.
func (v *View[T]) reach(ctx context.Context, rev int64) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	for {
		v.mu.RLock()
		there, moved := v.mu.rev >= rev, v.mu.moved
		v.mu.RUnlock()
		if there {
			return
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return
		}
	}
}

// Reset implements Sink.
func (v *View[T]) Reset(records []Record[T], rev int64) {
	is := make(map[string]Record[T], len(records))
	for _, r := range records {
		is[r.Key] = r
	}
	v.mu.Lock()
	was, watch := v.mu.records, v.mu.watch
	v.mu.records, v.mu.rev = is, rev
	v.mu.Unlock()
	for k, r := range is {
		if old, had := was[k]; !had || old.rev != r.rev {
			tell(watch, old, had, &r.Value)
		}
	}
	for k, r := range was {
		if _, still := is[k]; !still {
			tell(watch, r, true, nil)
		}
	}
}

// Put implements Sink.
func (v *View[T]) Put(r Record[T]) {
	v.mu.Lock()
	old, had := v.mu.records[r.Key]
	v.mu.records[r.Key] = r
	watch := v.mu.watch
	v.mu.Unlock()
	tell(watch, old, had, &r.Value)
}

// Drop implements Sink.
func (v *View[T]) Drop(key string) {
	v.mu.Lock()
	old, had := v.mu.records[key]
	delete(v.mu.records, key)
	watch := v.mu.watch
	v.mu.Unlock()
	if had {
		tell(watch, old, true, nil)
	}
}

func tell[T any](watch []func(was, is *T), was Record[T], had bool, is *T) {
	var old *T
	if had {
		old = &was.Value
	}
	for _, f := range watch {
		f(old, is)
	}
}

// Reached implements Sink.
func (v *View[T]) Reached(rev int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mu.rev, v.mu.at = max(v.mu.rev, rev), time.Now()
	close(v.mu.moved)
	v.mu.moved = make(chan struct{})
	select {
	case <-v.ready:
	default:
		close(v.ready)
	}
}
