package agent

import (
	"slices"
	"time"

	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// An agent whose node drains makes another session before that one ends: with the node's
// successor, with the next server, or with the same one as soon as it is back. What was
// begun on the old session goes on there, and the node opens further streams on it for
// visitors who are with it, until it ends the link. It knows best when its last visitor
// has left, so the agent only sees to it that the end comes.

// movedError says that a session was left, not lost.
type movedError struct{ successor bool }

func (e *movedError) Error() string { return "the server is draining" }

// Bounds of sessions that were left.
const (
	maxLeft   = 4               // the oldest is ended when there are more
	leftExtra = 5 * time.Second // beyond the deadline that the node has set itself
	leftLimit = time.Hour       // whatever the node says
)

// leave takes the word of a node that it goes away.
func (s *session) leave(m *tunnel.Drain) {
	if s.left.Swap(true) {
		return
	}
	s.life.left.Store(true)
	if elsewhere := m.GetAddresses(); len(elsewhere) > 0 {
		s.agent.servers.tell(elsewhere)
	}
	deadline := min(time.Duration(m.GetDeadlineMs())*time.Millisecond, leftLimit)
	s.log.Info("server is draining", "reason", tunnel.Clean(m.GetReason()), "deadline", deadline.String())
	end := time.AfterFunc(deadline+leftExtra, func() { _ = s.link.Close() })
	go func() {
		<-s.link.Done()
		end.Stop()
	}()
	s.moved <- &movedError{successor: m.GetSuccessor()}
}

// leave keeps a session that was left in mind. Where there is no other, it counts as one
// until there is.
func (s *seat) leave(n *session) {
	s.agent.mu.Lock()
	s.connected = false
	s.connected = !s.agent.connectedLocked()
	s.lastClass = nil // the first failure of what follows is news
	s.agent.mu.Unlock()
	s.left = append(s.left, n)
	if s.leftServes(); len(s.left) > maxLeft {
		_ = s.left[0].link.Close()
		s.left = s.left[1:]
	}
}

// leftServes reports whether a session that was left is still there, and forgets those that
// are not.
func (s *seat) leftServes() bool {
	s.left = slices.DeleteFunc(s.left, func(n *session) bool {
		select {
		case <-n.link.Done():
			return true
		default:
			return false
		}
	})
	return len(s.left) > 0
}
