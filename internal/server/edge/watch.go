package edge

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// watch keeps time for visitors: who is slow, and who has left while he
// was to wait. One goroutine looks at all of them now and then, so that a request costs
// neither a timer nor a goroutine that reads ahead.
type watch struct {
	now      atomic.Int64 // as of the last look, in nanoseconds of the process
	draining atomic.Bool
	start    time.Time
	every    time.Duration

	mu struct {
		sync.Mutex
		all map[looker]struct{}
	}
}

// looker is somebody to look at.
type looker interface{ look(now int64) }

// drainer is a connection.
type drainer interface {
	looker
	// drain lets it have one more request.
	drain(w *watch)
}

// lookEvery is how often, unless time-outs are shorter than a few of that.
const lookEvery = 250 * time.Millisecond

func newWatch(timeouts ...time.Duration) *watch {
	w := &watch{start: time.Now(), every: lookEvery}
	for _, d := range timeouts {
		w.every = min(w.every, max(d/4, time.Millisecond))
	}
	w.now.Store(1)
	w.mu.all = make(map[looker]struct{})
	return w
}

// in is the time that far from now, for comparison with a later now.
func (w *watch) in(d time.Duration) int64 { return w.now.Load() + int64(d+w.every) }

func (w *watch) enter(v looker) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.all[v] = struct{}{}
}

func (w *watch) leave(v looker) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.mu.all, v)
}

// run looks until ctx ends. Also calls each.
func (w *watch) run(ctx context.Context, each func(now time.Time)) {
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	var all []looker
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		w.now.Store(int64(now.Sub(w.start)) + 1)
		all = w.snapshot(all[:0])
		for _, v := range all {
			v.look(w.now.Load())
		}
		clear(all)
		each(now)
	}
}

func (w *watch) snapshot(to []looker) []looker {
	w.mu.Lock()
	defer w.mu.Unlock()
	for v := range w.mu.all {
		to = append(to, v)
	}
	return to
}

// lastRequest is how long connections between two requests stay when the edge drains. A
// request may be on its way already: it is served, and its answer says that it was the
// last.
const lastRequest = 2 * time.Second

// drain lets each connection have one more request.
func (w *watch) drain() {
	w.draining.Store(true)
	for _, v := range w.snapshot(nil) {
		if v, ok := v.(drainer); ok {
			v.drain(w)
		}
	}
}

// gone waits until no connection is left, or ctx ends.
func (w *watch) gone(ctx context.Context) error {
	tick := time.NewTicker(w.every / 4)
	defer tick.Stop()
	for w.connections() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (w *watch) connections() int {
	n := 0
	for _, v := range w.snapshot(nil) {
		if _, ok := v.(drainer); ok {
			n++
		}
	}
	return n
}

// past is a deadline that has passed.
var past = time.Unix(1, 0)
