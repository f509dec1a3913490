package resume

import "time"

// liveness is the state of watching the transport connection. It is part of Conn.mu.
type liveness struct {
	timer    *time.Timer
	missed   int
	flushed  int64  // bytes that transport connections took after they had been blocked
	progress int64  // of delivered and flushed, at the last look
	looked   uint64 // ring.end at the last look
}

// Deliverer is a Transport that knows how many bytes have reached the other machine,
// for how long ever they will take to reach the process there.
type Deliverer interface{ Delivered() int64 }

// look is called by the timer. After a silence of the heartbeat it asks the other side
// for a sign of life, after two thirds of that once more, and after as long again the
// transport connection is dead. While bytes still arrive at the other machine it is
// alive: an answer behind bulk on a slow line takes its time.
func (c *Conn) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.mu.t
	if t == nil || c.mu.err != nil {
		return // Attach sets the timer again
	}
	beat := int64(c.cfg.Heartbeat)
	silence := c.now() - c.heard.Load()
	progress := c.progressLocked(t)
	var next int64
	ask := false
	switch {
	case silence < beat:
		c.mu.missed = 0
		next = beat - silence
		// What lies in the ring since the last look is to be let go.
		ask = c.mu.ring.end > c.mu.ring.begin && c.mu.ring.end == c.mu.looked
	case c.mu.missed > 0 && progress:
		next = beat * 2 / 3
	case c.mu.missed < 2:
		c.mu.missed++
		ask, next = true, beat*2/3
	default:
		c.loseLocked(t, errSilent)
		return
	}
	c.mu.looked = c.mu.ring.end
	if ask {
		c.askLocked(t)
	}
	c.mu.timer.Reset(time.Duration(max(next, int64(time.Millisecond))))
}

// progressLocked reports whether bytes have left for the other machine, or arrived
// there, since the last look.
func (c *Conn) progressLocked(t Transport) bool {
	now := c.mu.flushed
	if d, ok := t.(Deliverer); ok {
		now = d.Delivered()
	}
	before := c.mu.progress
	c.mu.progress = now
	return now > before
}
