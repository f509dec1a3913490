package session

import (
	"time"

	"github.com/culvert-tunnel/culvert/internal/link"
)

// member is one of a session's links, and what it has carried lately. What waits to be sent
// is known at once; that the agent has much to send shows only in what arrives.
type member struct {
	link   *link.Link
	since  time.Time // of moved
	moved  int64     // bytes that the link had carried by then
	before int64     // bytes in the time lately before
}

// lately is the time in which traffic counts.
const lately = 100 * time.Millisecond

// busy is how many bytes the link has to do with. Whoever calls it holds the session's lock.
func (m *member) busy(now time.Time) int64 {
	in, out := m.link.Moved()
	moved := in + out
	if elapsed := now.Sub(m.since); elapsed >= lately {
		m.before = int64(float64(moved-m.moved) * float64(lately) / float64(elapsed))
		m.since, m.moved = now, moved
	}
	return int64(m.link.Queued()) + m.before + moved - m.moved
}

// pick returns the link that has least to do, of those that have a connection if there are
// any.
func (s *Session) pick() *link.Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mu.links) == 1 {
		return s.mu.links[0].link
	}
	var best *link.Link
	least, away := int64(0), false
	now := time.Now()
	for _, m := range s.mu.links {
		_, back := m.link.Away()
		busy, gone := m.busy(now), back != nil
		if best == nil || away && !gone || away == gone && busy < least {
			best, least, away = m.link, busy, gone
		}
	}
	return best
}
