package http2

import (
	"errors"
	"time"

	"golang.org/x/net/http2"
)

// seen is what Look saw, and when: of what does not change it knows for how long. All but
// announced is its own.
type seen struct {
	phases uint32
	at     int64
	reads  uint32
	heard  int64
	asked  int64 // when a PING was sent; 0: there was none since
	writes uint32
	wrote  int64
	// announced says that the last stream that is served has been told. Guarded by Conn.mu.
	announced bool
	left      int64
}

func (c *Conn) setPhaseLocked(p phase) {
	if c.mu.phase != p {
		c.mu.phase = p
		c.mu.phases++
	}
}

// restLocked is setPhaseLocked for a connection that is in no head.
func (c *Conn) restLocked() {
	if len(c.mu.streams) > 0 {
		c.setPhaseLocked(busy)
	} else {
		c.setPhaseLocked(idle)
	}
}

var (
	errIdle  = fault{http2.ErrCodeNo, "idle for too long"}
	errSlow  = fault{http2.ErrCodeEnhanceYourCalm, "a head that takes too long"}
	errMute  = errors.New("no sign of life")
	errStuck = errors.New("what is sent is not taken")
)

// Look is to be called several times within each time-out, with a time that does not go
// backwards. It ends who is too slow.
func (c *Conn) Look(now time.Duration) {
	c.mu.Lock()
	if c.mu.ended {
		c.mu.Unlock()
		return
	}
	t := int64(now)
	c.mu.credit.pass(t)
	c.lookAtPhaseLocked(t)
	c.lookForLifeLocked(t)
	for _, s := range c.mu.streams {
		s.lookLocked(t, c.cfg)
	}
	stuck := c.lookAtWriterLocked(t)
	c.mu.Unlock()
	if stuck {
		c.abort(errStuck)
	}
}

func (c *Conn) lookAtPhaseLocked(now int64) {
	if c.seen.phases != c.mu.phases || c.seen.at == 0 {
		c.seen.phases, c.seen.at = c.mu.phases, now
	}
	lasts := time.Duration(now - c.seen.at)
	switch c.mu.phase {
	case beginning:
		if lasts > c.cfg.HeaderTimeout {
			c.stopLocked(errSlow)
		}
	case heading:
		if lasts > c.cfg.HeaderTimeout {
			c.stopLocked(errSlow)
		}
	case idle:
		if lasts > c.cfg.IdleTimeout {
			c.stopLocked(errIdle)
		}
	case busy:
	}
	if !c.mu.leaving {
		return
	}
	if c.seen.left == 0 {
		c.seen.left = now
	}
	if !c.seen.announced && time.Duration(now-c.seen.left) >= lastStreams {
		c.seen.announced = true
		_ = c.mu.frames.WriteGoAway(c.mu.last, http2.ErrCodeNo, nil)
		c.kickLocked()
	}
	c.leaveLocked()
}

// leaveLocked ends a connection that is to end when nothing is under way.
func (c *Conn) leaveLocked() {
	if c.seen.announced && !c.mu.ended && c.mu.running == 0 && len(c.mu.streams) == 0 && len(c.mu.out) == 0 && !c.mu.writing {
		c.stopLocked(errDone)
	}
}

func (c *Conn) lookForLifeLocked(now int64) {
	if reads := c.reads.Load(); reads != c.seen.reads || c.seen.heard == 0 || c.mu.phase != busy {
		c.seen.reads, c.seen.heard, c.seen.asked = reads, now, 0
		return
	}
	switch {
	case c.seen.asked == 0 && time.Duration(now-c.seen.heard) >= silence:
		c.seen.asked = now
		if c.controlLocked() {
			_ = c.mu.frames.WritePing(false, [8]byte{})
			c.kickLocked()
		}
	case c.seen.asked != 0 && time.Duration(now-c.seen.asked) >= answer:
		c.stopLocked(errMute)
	}
}

func (c *Conn) lookAtWriterLocked(now int64) bool {
	if !c.mu.writing || c.seen.writes != c.mu.writes || c.seen.wrote == 0 {
		c.seen.writes, c.seen.wrote = c.mu.writes, now
	}
	return c.mu.writing && time.Duration(now-c.seen.wrote) > c.cfg.WriteTimeout
}

// leastTaken is how much of a stream must be taken within WriteTimeout.
const leastTaken = 4 << 10

// lookLocked ends a wait that has lasted for too long.
func (s *Stream) lookLocked(now int64, cfg Config) {
	if s.unread {
		if s.since == 0 {
			s.since = now
		} else if time.Duration(now-s.since) >= lastBytes {
			s.conn.resetLocked(s.id, http2.ErrCodeNo)
			s.conn.kickLocked()
			s.conn.forgetLocked(s)
		}
	}
	if w := &s.reading; w.waits && !s.patient {
		if w.since == 0 {
			w.since = now
		}
		if time.Duration(now-w.since) > cfg.BodyTimeout {
			w.expired = true
			w.wakeLocked()
		}
	}
	if w := &s.writing; w.waits {
		if w.since == 0 || s.moved >= leastTaken {
			w.since, s.moved = now, 0
		}
		if time.Duration(now-w.since) > cfg.WriteTimeout {
			s.expireWriteLocked()
		}
	}
}

// stopLocked lets the reading goroutine end the connection, because of err.
func (c *Conn) stopLocked(err error) {
	if c.mu.err == nil {
		c.mu.err = err
	}
	_ = c.net.SetReadDeadline(time.Unix(1, 0))
}
