package crew

import (
	"bytes"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// workers is how many goroutines of crews there are. runtime.NumGoroutine counts others too.
func workers() int {
	stacks := make([]byte, 64<<10)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return bytes.Count(stacks, []byte("crew.(*Crew).work("))
}

// inBubble runs a test of a crew, which it ends.
func inBubble(t *testing.T, test func(t *testing.T, c *Crew)) {
	synctest.Test(t, func(t *testing.T) {
		var c Crew
		defer c.End()
		test(t, &c)
	})
}

// TestGo runs tasks that start tasks, many at once, each once.
func TestGo(t *testing.T) {
	inBubble(t, func(t *testing.T, c *Crew) {
		var tasks sync.WaitGroup
		var ran atomic.Int64
		for range 50 {
			tasks.Add(1)
			c.Go(func() {
				defer tasks.Done()
				for range 50 {
					tasks.Add(1)
					c.Go(func() {
						defer tasks.Done()
						ran.Add(1)
					})
				}
			})
		}
		tasks.Wait()
		if n := ran.Load(); n != 50*50 {
			t.Errorf("%d tasks of %d ran", n, 50*50)
		}
	})
}

// TestKept: a goroutine that has done its task does the next, and is let go when there is none.
func TestKept(t *testing.T) {
	inBubble(t, func(t *testing.T, c *Crew) {
		for range 20 {
			c.Go(func() {})
			synctest.Wait()
			if n := workers(); n != 1 {
				t.Fatalf("%d goroutines for one task at a time", n)
			}
		}
	})
}

// TestIdle: who is not needed for two ticks is let go, whoever was in between stays.
func TestIdle(t *testing.T) {
	inBubble(t, func(t *testing.T, c *Crew) {
		gate := make(chan struct{})
		for range 10 {
			c.Go(func() { <-gate })
		}
		close(gate)
		synctest.Wait()
		if n := workers(); n != 10 {
			t.Fatalf("%d goroutines wait for the next task", n)
		}
		for range 5 {
			<-time.After(tick)
			c.Go(func() {})
			synctest.Wait()
		}
		if n := workers(); n != 1 {
			t.Errorf("%d goroutines for one task at a time", n)
		}
		<-time.After(2 * tick)
		synctest.Wait()
		if n := workers(); n != 0 {
			t.Errorf("%d goroutines are left", n)
		}
	})
}

// TestEndAtTick: a tick that came as the end did finds nobody.
func TestEndAtTick(t *testing.T) {
	inBubble(t, func(t *testing.T, c *Crew) {
		for range 2 {
			c.Go(func() { <-time.After(time.Millisecond) })
		}
		<-time.After(tick + tick/2) // both were idle at the first tick after their tasks
		c.End()
		c.look()
		synctest.Wait()
		if n := workers(); n != 0 {
			t.Errorf("%d goroutines are left", n)
		}
	})
}

// TestEnd: nobody stays, neither who waits nor who is at work.
func TestEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, c *Crew) {
		gate := make(chan struct{})
		for range 2 {
			c.Go(func() { <-gate })
		}
		c.Go(func() {})
		synctest.Wait()
		c.End()
		synctest.Wait()
		if n := workers(); n != 2 {
			t.Errorf("%d goroutines, of which two are at work", n)
		}
		c.Go(func() {}) // late
		close(gate)
		synctest.Wait()
		if n := workers(); n != 0 {
			t.Errorf("%d goroutines are left", n)
		}
	})
}
