package link

import (
	"sync/atomic"
	"time"
)

// heldReset keeps a Reset back until what was written just before is likely to have been
// read. It makes up for go-yamux, whose Read drops what has arrived as soon as a reset
// does, and goes with it: an upstream's last words ("413", "too many connections")
// would be lost as good as always.
type heldReset struct {
	Stream
	wrote atomic.Int64 // Unix nanoseconds of the last Write's end
}

// hold is far above the time in which a reader is woken and gets through a busy link's
// queue with its window update, also on a machine that has no time for either.
const hold = 100 * time.Millisecond

func (s *heldReset) Write(p []byte) (int, error) {
	n, err := s.Stream.Write(p)
	s.wrote.Store(time.Now().UnixNano())
	return n, err
}

func (s *heldReset) Reset() error {
	if left := hold - time.Since(time.Unix(0, s.wrote.Load())); left > 0 {
		time.Sleep(left) //nolint:forbidigo // go-yamux gives no sign that the other side has read
	}
	return s.Stream.Reset()
}
