package yamux

import (
	"sync"
	"time"
)

// deadline of one direction of a stream. nil: none was ever set. Its fields are
// guarded by the lock of that direction.
type deadline struct {
	timer *time.Timer
	over  bool
}

func (d *deadline) passed() bool { return d != nil && d.over }

// broadcaster wakes who waits, like a sync.Cond.
type broadcaster interface{ Broadcast() }

// set replaces the deadline and wakes who waits when it passes. mu guards d, and
// is held.
func (d *deadline) set(at time.Time, mu sync.Locker, cond broadcaster) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.over = false
	if at.IsZero() {
		return
	}
	left := time.Until(at)
	if left <= 0 {
		d.over = true
		cond.Broadcast()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		mu.Lock()
		defer mu.Unlock()
		if d.timer == timer { // else it was replaced as it fired
			d.over = true
			cond.Broadcast()
		}
	})
	d.timer = timer
}

// stop releases the timer.
func (d *deadline) stop() {
	if d != nil && d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
