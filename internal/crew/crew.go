// Package crew runs tasks in goroutines that are kept for the next ones: their stacks have
// grown to what tasks need. A new goroutine begins with 2 KiB, and to grow from there to what
// a dial, a handshake or TLS itself needs costs more than many a task. What may wait for long
// is not for a crew: it should begin with a small stack, and stay so.
package crew

import (
	"slices"
	"sync"
	"time"
)

// tick is how often goroutines that were not needed since the last are let go, so that who
// is idle has none.
const tick = 50 * time.Millisecond

// Crew are goroutines for the tasks of one owner. The zero value is ready. Who has to know
// when a task has ended counts it himself.
type Crew struct {
	mu struct {
		sync.Mutex
		idle  []worker // who waits least is last
		spare int      // of them were idle since the last tick; at most all
		timer *time.Timer
		ticks bool
		over  bool
	}
}

// worker is a goroutine that waits for a task; nil ends it.
type worker chan func()

// Go calls f in a goroutine of its own.
func (c *Crew) Go(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.mu.idle) - 1
	if n < 0 {
		w := make(worker, 1)
		w <- f
		go c.work(w)
		return
	}
	c.mu.idle[n] <- f
	c.mu.idle[n] = nil
	c.mu.idle = c.mu.idle[:n]
	c.mu.spare = min(c.mu.spare, n)
}

// End lets all go who have no task, and others when they have done theirs.
func (c *Crew) End() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.over = true
	c.dismissLocked(len(c.mu.idle))
	if c.mu.timer != nil {
		c.mu.timer.Stop()
	}
}

func (c *Crew) work(w worker) {
	for {
		f := <-w
		if f == nil {
			return
		}
		f()
		if !c.rest(w) {
			return
		}
	}
}

// rest has w wait for the next task, unless there will be none.
func (c *Crew) rest(w worker) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.over {
		return false
	}
	c.mu.idle = append(c.mu.idle, w)
	if !c.mu.ticks {
		c.tickLocked()
	}
	return true
}

func (c *Crew) tickLocked() {
	c.mu.ticks = true
	if c.mu.timer == nil {
		c.mu.timer = time.AfterFunc(tick, c.look)
	} else {
		c.mu.timer.Reset(tick)
	}
}

// look lets those go who were not needed.
func (c *Crew) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dismissLocked(c.mu.spare)
	if c.mu.spare > 0 {
		c.tickLocked()
		return
	}
	c.mu.ticks = false
	c.mu.idle = nil
}

// dismissLocked ends the n who have waited longest. From now on the others count as spare.
func (c *Crew) dismissLocked(n int) {
	for _, w := range c.mu.idle[:n] {
		w <- nil
	}
	c.mu.idle = slices.Delete(c.mu.idle, 0, n)
	c.mu.spare = len(c.mu.idle)
}
