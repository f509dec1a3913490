package server

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestSettle: memory is given back after the start and once agents have stopped coming or
// going, and only if they were many.
func TestSettle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		times := 0
		s := newSettler()
		s.giveBack = func() { times++ }
		change := func(n, by int, every time.Duration) {
			for range n {
				s.changed(by)
				<-time.After(every)
			}
		}
		rest := func(want int, what string) {
			t.Helper()
			<-time.After(time.Minute)
			synctest.Wait()
			if times != want {
				t.Errorf("%s: memory was given back %d times, want %d", what, times, want)
			}
		}
		change(settleLeast-1, 1, 0)
		rest(0, "few agents came")
		change(2_000, 1, settlePause/2)
		synctest.Wait()
		if times != 0 {
			t.Error("memory was given back while agents came")
		}
		rest(1, "many agents came")
		change(settleLeast, -1, 0)
		change(settleLeast, 1, 0)
		rest(1, "few of many agents went and came")
		change(1_000, -1, 0)
		rest(2, "many agents went")
		s.started()
		rest(3, "the server has started")
	})
}
