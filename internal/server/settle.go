package server

import (
	"runtime/debug"
	"sync"
	"time"
)

// settler gives back the memory that only the coming and going of agents took. Handshakes
// leave more garbage than agents cost from then on, and the runtime lets it lie for minutes
// where nothing else happens.
type settler struct {
	giveBack func()

	mu struct {
		sync.Mutex
		changes int // of the number of agents, since memory was given back
		timer   *time.Timer
	}
}

func newSettler() *settler { return &settler{giveBack: debug.FreeOSMemory} }

// When memory is given back. That costs a collection of garbage, which takes the longer
// the more agents there are: their number must have changed by a part of itself.
const (
	settlePause = time.Second // without a change
	settleLeast = 16          // changes
	settlePart  = 8           // one agent in so many, at least
)

// changed is told that an agent has come or gone, and how many there are.
func (s *settler) changed(agents int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.changes++
	switch {
	case s.mu.changes < max(settleLeast, agents/settlePart):
	case s.mu.timer == nil:
		s.mu.timer = time.AfterFunc(settlePause, s.settle)
	default:
		s.mu.timer.Reset(settlePause)
	}
}

func (s *settler) settle() {
	s.mu.Lock()
	s.mu.changes = 0
	s.mu.Unlock()
	s.giveBack()
}
