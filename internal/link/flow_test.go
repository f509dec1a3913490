package link

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-tunnel/culvert/internal/link/linktest"
)

// pathRate is 500 Mbit/s.
const pathRate = 500_000_000 / 8

// TestFlow: over a path of 100 ms and 500 Mbit/s, one stream uses at least 80 % of it, both
// ways, without being told of it, and what it may have under way stays within the budget. A
// budget that is too small for the path makes it slow, not large.
func TestFlow(t *testing.T) {
	for _, resumable := range []bool{false, true} {
		for _, download := range []bool{false, true} {
			for budget, least := range map[int64]float64{1 << 30: 0.8, 1 << 20: 0} {
				t.Run(fmt.Sprintf("resumable=%v,download=%v,budget=%d", resumable, download, budget), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						cfg := Config{Budget: NewBudget(budget)}
						if resumable {
							cfg.Resume = &Resume{}
						}
						flow(t, cfg, download, budget, least)
					})
				})
			}
		}
	}
}

func flow(t *testing.T, cfg Config, download bool, budget int64, least float64) {
	a, b := linktest.Line{Rate: pathRate, Delay: 50 * time.Millisecond}.New()
	from, to := Client(a, cfg), Server(b, Config{Resume: cfg.Resume, Budget: NewBudget(budget)})
	go func() { _ = from.Run(t.Context()) }()
	go func() { _ = to.Run(t.Context()) }()
	defer to.Close()
	defer from.Close()
	sender, receiver := pair(t, from, to)
	receives := to
	if download {
		sender, receiver, receives = receiver, sender, from
	}
	go func() {
		for buf := make([]byte, 64<<10); ; {
			if _, err := sender.Write(buf); err != nil {
				return
			}
		}
	}()
	read := func(d time.Duration) int {
		n := 0
		for buf, end := make([]byte, 64<<10), time.Now().Add(d); time.Now().Before(end); {
			m, err := receiver.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			n += m
		}
		return n
	}
	read(1500 * time.Millisecond) // windows grow
	got := float64(read(500*time.Millisecond)) / (pathRate / 2)
	if got < least || got > 1.01 {
		t.Errorf("%.2f of the path", got)
	}
	if used := receives.carrier.(multiplexed).Stats().Window; used > budget {
		t.Errorf("%d bytes of windows", used)
	}
	t.Logf("%.2f of the path", got)
}

// pair opens a stream and returns both of its ends.
func pair(t *testing.T, from, to *Link) (opened, accepted Stream) {
	t.Helper()
	opened, err := from.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := opened.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if accepted, err = to.Accept(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := accepted.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return opened, accepted
}
