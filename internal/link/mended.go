package link

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// mended is a stream of go-yamux that keeps the contract of Stream, and goes with it:
//
//   - When the link ends while Read sends a window update, go-yamux returns the bytes it
//     has read together with io.EOF. A transfer that was cut off would look whole.
//   - Its Read drops what has arrived as soon as a reset does. An upstream's last words
//     ("413", "too many connections") would be lost as good as always, so the side that
//     speaks for the upstream keeps a Reset back until they are likely to have been read.
type mended struct {
	Stream
	hold  time.Duration // of a Reset after a Write
	wrote atomic.Int64  // Unix nanoseconds of the last Write's end
}

// holdReset is far above the time in which a reader is woken and gets through a busy
// link's queue with its window update, also on a machine that has no time for either.
const holdReset = 100 * time.Millisecond

func (s *mended) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	if n > 0 {
		err = nil // the next Read knows better
	}
	return n, err
}

func (s *mended) Write(p []byte) (int, error) {
	n, err := s.Stream.Write(p)
	if errors.Is(err, io.EOF) {
		err = net.ErrClosed // the link's own end, which is nobody's orderly one
	}
	s.wrote.Store(time.Now().UnixNano())
	return n, err
}

func (s *mended) Reset() error {
	if left := s.hold - time.Since(time.Unix(0, s.wrote.Load())); left > 0 {
		time.Sleep(left) //nolint:forbidigo // go-yamux gives no sign that the other side has read
	}
	return s.Stream.Reset()
}
