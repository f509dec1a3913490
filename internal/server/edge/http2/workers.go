package http2

import "slices"

// task is what a worker is to do: serve a stream, or, without one, write.
type task struct {
	stream *Stream
	end    bool // nothing, ever
}

// worker is a goroutine of the connection, which is kept for the next task: its stack has
// grown to what tasks need. Look ends half of those that wait, so that idle connections
// have none.
type worker chan task

// workLocked lets a goroutine do t.
func (c *Conn) workLocked(t task) {
	if n := len(c.mu.workers); n > 0 {
		w := c.mu.workers[n-1]
		c.mu.workers = c.mu.workers[:n-1]
		w <- t
		return
	}
	w := make(worker, 1)
	w <- t
	c.handlers.Go(func() { c.work(w) })
}

func (c *Conn) work(w worker) {
	for {
		t := <-w
		switch {
		case t.end:
			return
		case t.stream != nil:
			t.stream.serve()
		default:
			c.write()
		}
		c.mu.Lock()
		if c.mu.ended {
			c.mu.Unlock()
			return
		}
		c.mu.workers = append(c.mu.workers, w)
		c.mu.Unlock()
	}
}

// dismissLocked ends n workers that have nothing to do, those that had longest.
func (c *Conn) dismissLocked(n int) {
	for _, w := range c.mu.workers[:n] {
		w <- task{end: true}
	}
	c.mu.workers = slices.Delete(c.mu.workers, 0, n)
}
