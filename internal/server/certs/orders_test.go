package certs

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestOrders: an attempt at once, then after growing pauses for as long as the name is
// needed; who binds anew doesn't wait long, but can't shorten the pauses at will.
func TestOrders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrders(slog.New(slog.DiscardHandler))
		var attempts, told atomic.Int64
		var fails, needed atomic.Bool
		var dropped atomic.Value
		fails.Store(true)
		needed.Store(true)
		o.attempt = func(context.Context, string) error {
			attempts.Add(1)
			if fails.Load() {
				return errors.New("down")
			}
			return nil
		}
		o.failed = func(string, error) { told.Add(1) }
		o.needed = func(string) bool { return needed.Load() }
		o.drop = func(s string) { dropped.Store(s) }
		ctx, cancel := context.WithCancel(t.Context())
		var task sync.WaitGroup
		task.Go(func() { o.run(ctx) })
		defer task.Wait()
		defer cancel()

		if err := o.want("a.example.com", false); err != nil {
			t.Fatal(err)
		}
		expect := func(after time.Duration, want int64) {
			t.Helper()
			time.Sleep(after) //nolint:forbidigo // the bubble's clock
			synctest.Wait()
			if n := attempts.Load(); n != want {
				t.Fatalf("%d attempts, want %d", n, want)
			}
		}
		expect(0, 1)
		expect(30*time.Second, 1)
		expect(time.Minute, 2)   // after 1 min
		expect(time.Minute, 2)   // the next after 2
		expect(2*time.Minute, 3) //
		expect(24*time.Hour, 12) // 5, 10, 20, 30 min, 1, 2, 4 h, then every 6 h
		for range 100 {          // an agent that binds and binds
			if o.want("a.example.com", false) == nil {
				t.Fatal("no error for a name that failed")
			}
		}
		expect(time.Second, 12)
		expect(rebindPause+tick, 13)
		if told.Load() != attempts.Load() {
			t.Errorf("told of %d failures", told.Load())
		}

		fails.Store(false)
		_ = o.want("a.example.com", false)
		expect(rebindPause+tick, 14)
		if err := o.want("a.example.com", false); err != nil {
			t.Errorf("after success: %v", err)
		}
		needed.Store(false)
		expect(keepFor-time.Hour, 14)
		if dropped.Load() != nil {
			t.Error("given up too soon")
		}
		expect(2*time.Hour, 14)
		if dropped.Load() != "a.example.com" || len(o.states()) != 0 {
			t.Error("not given up")
		}
	})
}

// TestOrdersWait: visitors wait for the first attempt, each no longer than until
// waitForFirst after its beginning, and not for later ones.
func TestOrdersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrders(slog.New(slog.DiscardHandler))
		release := make(chan struct{})
		o.attempt = func(ctx context.Context, _ string) error {
			select {
			case <-release:
			case <-ctx.Done():
			}
			return errors.New("slow")
		}
		o.failed, o.drop = func(string, error) {}, func(string) {}
		o.needed = func(string) bool { return true }
		ctx, cancel := context.WithCancel(t.Context())
		var tasks sync.WaitGroup
		tasks.Go(func() { o.run(ctx) })
		defer tasks.Wait()
		defer cancel()
		begun := time.Now()
		waited := func() time.Duration {
			o.wait(t.Context(), "a.example.com") // nobody wanted it: it begins now
			return time.Since(begun)
		}
		tasks.Go(func() {
			time.Sleep(15 * time.Second) //nolint:forbidigo // the bubble's clock
			if d := waited(); d != waitForFirst {
				t.Errorf("a late visitor waited until %v", d)
			}
		})
		if d := waited(); d != waitForFirst {
			t.Errorf("the first visitor waited %v", d)
		}
		close(release)
		synctest.Wait()
		begun = time.Now()
		if d := waited(); d != 0 {
			t.Errorf("a visitor after the first attempt waited %v", d)
		}
	})
}

// TestOrderNotNeeded: an agent that left before its order began gets it at once when
// it is back.
func TestOrderNotNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrders(slog.New(slog.DiscardHandler))
		var needed atomic.Bool
		var orders atomic.Int64
		o.attempt = func(context.Context, string) error {
			if !needed.Load() {
				return errNotNeeded
			}
			orders.Add(1)
			return nil
		}
		o.failed = func(string, error) { t.Error("told of a name that nobody needs") }
		o.needed, o.drop = func(string) bool { return needed.Load() }, func(string) {}
		ctx, cancel := context.WithCancel(t.Context())
		var task sync.WaitGroup
		task.Go(func() { o.run(ctx) })
		defer task.Wait()
		defer cancel()
		_ = o.want("a.example.com", false)
		synctest.Wait()
		needed.Store(true)
		if err := o.want("a.example.com", false); err != nil {
			t.Errorf("%v", err)
		}
		synctest.Wait()
		if orders.Load() != 1 {
			t.Errorf("%d orders", orders.Load())
		}
	})
}
