package server

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestSettle: memory is given back once agents have stopped coming or going, and only if
// they were many.
func TestSettle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var times atomic.Int64
		s := newSettler()
		s.giveBack = func() { times.Add(1) }
		agents := 0
		change := func(n, by int, every time.Duration) {
			for range n {
				agents += by
				s.changed(agents)
				<-time.After(every)
			}
		}
		rest := func(want int64, what string) {
			t.Helper()
			<-time.After(time.Minute)
			synctest.Wait()
			if n := times.Load(); n != want {
				t.Errorf("%s: memory was given back %d times, want %d", what, n, want)
			}
		}
		change(settleLeast-1, 1, 0)
		rest(0, "few agents came")
		change(2_000, 1, settlePause/2)
		synctest.Wait()
		if times.Load() != 0 {
			t.Error("memory was given back while agents came")
		}
		rest(1, "many agents came")
		change(settleLeast, -1, 0)
		change(settleLeast, 1, 0)
		rest(1, "few of many agents went and came")
		change(1_000, -1, 0)
		rest(2, "many agents went")
	})
}
