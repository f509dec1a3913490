// Package linktest has a line with a delay and a rate, for tests of what runs over it. Inside
// a bubble of testing/synctest it takes no time and is exact, however slow the machine is.
package linktest

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Line is how a line treats each of its two directions.
type Line struct {
	Rate   int           // bytes per second
	Delay  time.Duration // there, and once more back
	Buffer int           // bytes that a writer may be ahead of the rate; default 256 KiB
}

// New returns the two ends of a line.
func (l Line) New() (a, b net.Conn) {
	if l.Buffer <= 0 {
		l.Buffer = 256 << 10
	}
	there, back := newWay(l), newWay(l)
	return &end{in: back, out: there}, &end{in: there, out: back}
}

// way is one direction.
type way struct {
	line Line

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when something came or went
	queue   []piece
	free    time.Time // when the line has sent all that it has
	closed  bool      // by its writer or its reader: nothing more is written
	gone    bool      // the reader is
}

// piece is what was written at once, and when it arrives.
type piece struct {
	b  []byte
	at time.Time
}

func newWay(l Line) *way { return &way{line: l, changed: make(chan struct{})} }

func (w *way) changedLocked() {
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *way) write(b []byte) error {
	for {
		w.mu.Lock()
		if w.closed {
			w.mu.Unlock()
			return net.ErrClosed
		}
		now := time.Now()
		if w.free.Before(now) {
			w.free = now
		}
		full := w.free.Sub(now) - time.Duration(w.line.Buffer)*time.Second/time.Duration(w.line.Rate)
		if full <= 0 {
			w.free = w.free.Add(time.Duration(len(b)) * time.Second / time.Duration(w.line.Rate))
			w.queue = append(w.queue, piece{append([]byte(nil), b...), w.free.Add(w.line.Delay)})
			w.changedLocked()
			w.mu.Unlock()
			return nil
		}
		changed := w.changed
		w.mu.Unlock()
		wait := time.NewTimer(full)
		select {
		case <-wait.C:
		case <-changed:
			wait.Stop()
		}
	}
}

func (w *way) read(b []byte, deadline time.Time) (int, error) {
	for {
		w.mu.Lock()
		if w.gone {
			w.mu.Unlock()
			return 0, net.ErrClosed
		}
		wait := time.Hour
		if len(w.queue) > 0 {
			p := &w.queue[0]
			if wait = time.Until(p.at); wait <= 0 {
				n := copy(b, p.b)
				if p.b = p.b[n:]; len(p.b) == 0 {
					w.queue = w.queue[1:]
				}
				w.mu.Unlock()
				return n, nil
			}
		} else if w.closed {
			w.mu.Unlock()
			return 0, io.EOF
		}
		if !deadline.IsZero() {
			if left := time.Until(deadline); left <= 0 {
				w.mu.Unlock()
				return 0, os.ErrDeadlineExceeded
			} else if left < wait {
				wait = left
			}
		}
		changed := w.changed
		w.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-changed:
			timer.Stop()
		}
	}
}

func (w *way) close(reader bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed, w.gone = true, w.gone || reader
	w.changedLocked()
}

// end is one end of a line.
type end struct {
	in, out *way

	mu       sync.Mutex
	deadline time.Time
}

func (e *end) Read(b []byte) (int, error) {
	e.mu.Lock()
	deadline := e.deadline
	e.mu.Unlock()
	return e.in.read(b, deadline)
}

func (e *end) Write(b []byte) (int, error) {
	// As packets do: a large write does not arrive as one.
	for at := 0; at < len(b); {
		n := min(len(b)-at, 16<<10)
		if err := e.out.write(b[at : at+n]); err != nil {
			return at, err
		}
		at += n
	}
	return len(b), nil
}

// Close ends both directions at once for this end; what is on its way to the other arrives.
func (e *end) Close() error {
	e.in.close(true)
	e.out.close(false)
	return nil
}

func (e *end) SetReadDeadline(t time.Time) error {
	e.mu.Lock()
	e.deadline = t
	e.mu.Unlock()
	e.in.mu.Lock()
	e.in.changedLocked()
	e.in.mu.Unlock()
	return nil
}

func (e *end) SetDeadline(t time.Time) error    { return e.SetReadDeadline(t) }
func (e *end) SetWriteDeadline(time.Time) error { return nil }
func (e *end) LocalAddr() net.Addr              { return address{} }
func (e *end) RemoteAddr() net.Addr             { return address{} }

type address struct{}

func (address) Network() string { return "line" }
func (address) String() string  { return "line" }
