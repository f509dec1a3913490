package fault

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// flock is many agents in this process.
type flock struct {
	mu      sync.Mutex
	online  map[string]time.Time // since the last reset, by endpoint
	changed chan struct{}
}

func (f *flock) put(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.online[name] = time.Now()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *flock) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.online, f.changed = make(map[string]time.Time), make(chan struct{})
}

// wait waits until n endpoints are online, and returns when the first and the last were.
func (f *flock) wait(t *testing.T, n int) (first, last time.Time) {
	t.Helper()
	timeout := time.After(patience)
	for {
		f.mu.Lock()
		changed, have := f.changed, len(f.online)
		if have == n {
			for _, at := range f.online {
				if first.IsZero() || at.Before(first) {
					first = at
				}
				if at.After(last) {
					last = at
				}
			}
			f.mu.Unlock()
			return first, last
		}
		f.mu.Unlock()
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("only %d of %d agents", have, n)
		}
	}
}

// run runs n agents, and returns what stops them.
func (f *flock) run(t *testing.T, n int, credential string, servers ...string) (stop func()) {
	t.Helper()
	token, err := tunnel.ParseToken(credential)
	check(t, err)
	up, err := agent.ParseUpstream("127.0.0.1:9", agent.UpstreamTLS{})
	check(t, err)
	f.reset()
	ctx, cancel := context.WithCancel(t.Context())
	var tasks sync.WaitGroup
	for i := range n {
		name := fmt.Sprintf("a%d", i)
		a := agent.New(agent.Config{
			Servers: servers, Token: token, ID: name, Generation: 1, Logger: slog.New(slog.DiscardHandler), Drain: time.Millisecond,
			Endpoints: []agent.Endpoint{{Spec: endpoint.Spec{Kind: endpoint.HTTP, Name: "web", Label: name}, Upstream: up}},
			Online:    func(string, []string) { f.put(name) },
		})
		tasks.Go(func() {
			if err := a.Run(ctx); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	return func() {
		cancel()
		tasks.Wait()
	}
}

// TestStorm: all agents of a server that was killed come back to it at once, and move to
// its successor. None is refused, and the server needs little memory for the crowd.
func TestStorm(t *testing.T) {
	s := startServer(t, nil, "127.0.0.1")
	f := &flock{}
	stop := f.run(t, *agents, s.token, s.https)
	defer stop()
	f.wait(t, *agents)
	s.kill()
	f.reset()
	s.restart()
	began := time.Now()
	first, last := f.wait(t, *agents)
	peak := s.peak()
	t.Logf("%d agents are back, the first after %v, the last after %v; the server took %d MiB at most",
		*agents, first.Sub(began).Round(time.Millisecond), last.Sub(began).Round(time.Millisecond), peak>>20)
	s.admitted()
	// The race detector's memory is not the server's.
	if limit := int64(300<<20 + *agents*150<<10); peak > limit && os.Getenv("CULVERT_TEST_RACE") == "" {
		t.Errorf("the server took %d bytes for %d agents", peak, *agents)
	}
	// The same with a successor, to which the old server sends them.
	f.reset()
	old := s.process
	s.upgrade()
	began = time.Now()
	first, last = f.wait(t, *agents)
	t.Logf("they move to a successor, the first after %v, the last after %v",
		first.Sub(began).Round(time.Millisecond), last.Sub(began).Round(time.Millisecond))
	s.admitted()
	<-old.done
}

// TestNodeDies: all agents of a server that is killed are at another one soon, and go on
// being served by the second that they have meanwhile.
func TestNodeDies(t *testing.T) {
	all := startAlike(t, 3)
	n := min(*agents, 300) // twice as many sessions, and three servers
	f := &flock{}
	stop := f.run(t, n, all[0].token, all[0].https, all[1].https, all[2].https)
	defer stop()
	for _, s := range all[:2] {
		s.bound(n)
	}
	if early := all[2].count("endpoint bound"); early != 0 {
		t.Errorf("%d agents are at a third server as well", early)
	}
	killed := time.Now()
	all[0].kill()
	at := all[2].bound(n)
	p99 := at[len(at)*99/100].Sub(killed)
	t.Logf("%d agents are at another server, half of them after %v, p99 %v, the last after %v", n,
		at[len(at)/2].Sub(killed).Round(time.Millisecond), p99.Round(time.Millisecond), at[len(at)-1].Sub(killed).Round(time.Millisecond))
	if had := all[1].count("agent connected"); had != n {
		t.Errorf("the second server has had %d sessions instead of %d", had, n)
	}
}

// bound waits until n endpoints are bound, and returns when they were, the first one first.
func (s *server) bound(n int) []time.Time {
	s.t.Helper()
	var all []time.Time
	for from := 0; len(all) < n; {
		var l map[string]any
		l, from = s.wait(from, "endpoint bound")
		at, err := time.Parse(time.RFC3339Nano, l["time"].(string))
		check(s.t, err)
		all = append(all, at)
	}
	return all
}

// admitted fails the test if an agent was refused, other than in its attempt to resume a
// link that the server before had.
func (s *server) admitted() {
	s.t.Helper()
	if n := s.Count(func(l map[string]any) bool {
		return l["msg"] == "agent refused" && l["code"] != "mode_unsupported"
	}); n > 0 {
		s.t.Errorf("%d agents were refused", n)
	}
}

// peak is the most memory that the process has had, in bytes.
func (p *process) peak() int64 {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	check(p.t, err)
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(b)
	if m == nil {
		p.t.Fatal("no peak of memory")
	}
	kib, err := strconv.ParseInt(string(m[1]), 10, 64)
	check(p.t, err)
	return kib << 10
}
