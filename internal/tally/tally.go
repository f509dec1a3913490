// Package tally counts what is going on, so that a drain can wait for its end.
package tally

import (
	"context"
	"sync"
)

// Tally counts what is going on. Unlike a WaitGroup's, its count may rise from
// zero while somebody waits. The zero value counts zero.
type Tally struct {
	mu sync.Mutex
	n  int
	// zero is closed when n falls to zero; nil while nobody waits.
	zero chan struct{}
}

// Enter counts one more.
func (t *Tally) Enter() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n++
}

// Leave counts one less.
func (t *Tally) Leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n--
	if t.n == 0 && t.zero != nil {
		close(t.zero)
		t.zero = nil
	}
}

// Count is how many are going on now.
func (t *Tally) Count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n
}

// Empty returns a channel that is closed as soon as nothing goes on.
func (t *Tally) Empty() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == 0 {
		done := make(chan struct{})
		close(done)
		return done
	}
	if t.zero == nil {
		t.zero = make(chan struct{})
	}
	return t.zero
}

// Wait waits until nothing goes on, or returns ctx's error.
func (t *Tally) Wait(ctx context.Context) error {
	select {
	case <-t.Empty():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
