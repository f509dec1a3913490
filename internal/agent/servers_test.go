package agent

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

func TestTold(t *testing.T) {
	s := servers{given: []string{"a:443"}}
	s.tell([]string{"a:443", "", "b", "b:", "b:0", "b:65536", "b:x", "c d:1", "b\x1b[31m:1", ":443", "B.example.:443", "b.example:443", "[2001:DB8::1]:443"})
	if got := strings.Join(s.allLocked(), " "); got != "a:443 b.example:443 [2001:db8::1]:443" {
		t.Error(got)
	}
	many := make([]string, 1000)
	for i := range many {
		many[i] = fmt.Sprintf("n%d:443", i)
	}
	s.tell(many)
	if n := len(s.allLocked()); n != 1+maxTold {
		t.Errorf("%d servers", n)
	}
	s.tell(nil)
	s.mu.used = map[uint32]string{0: "n3:443"} // which nobody tells of any more
	if next, again := s.after(0); next != "a:443" || again {
		t.Error(next, again)
	}
	if next, again := s.after(0); next != "a:443" || !again {
		t.Error(next, again)
	}
}

// place is a server of a net.
type place struct {
	refuses bool
	silent  bool
	link    *link.Link
	conn    net.Conn // its present one
}

// network has servers by their addresses, and tells who was said Hello to, and how.
type network struct {
	t *testing.T

	mu     sync.Mutex
	places map[string]*place
	told   []string // in each Welcome
	said   chan string
}

func newNetwork(t *testing.T, names ...string) *network {
	n := &network{t: t, places: make(map[string]*place), said: make(chan string, 100)}
	for _, name := range names {
		n.places[name] = &place{}
	}
	return n
}

// be changes a server, and ends its agent's connection with that.
func (n *network) be(name string, refuses, silent bool) {
	n.mu.Lock()
	p := n.places[name]
	p.refuses, p.silent = refuses, silent
	c := p.conn
	n.mu.Unlock()
	if c != nil {
		_ = c.Close()
	}
}

func (n *network) dial(ctx context.Context, name string) (net.Conn, error) {
	n.mu.Lock()
	p := n.places[name]
	refuses, silent := p == nil || p.refuses, p != nil && p.silent
	n.mu.Unlock()
	if refuses {
		return nil, refused()
	}
	if silent {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	agent, c := net.Pipe()
	go n.serve(name, p, c)
	return agent, nil
}

func (n *network) serve(name string, p *place, c net.Conn) {
	var hello tunnel.Hello
	if tunnel.Read(c, &hello, tunnel.MaxHandshake) != nil {
		return // only to see whether somebody is there
	}
	w := &tunnel.Welcome{
		SessionId: make([]byte, 16), LinkId: make([]byte, 16), ResumeKey: make([]byte, 32), Node: name,
		ResumeWindowMs: 30_000, Servers: n.told,
	}
	var r *link.Resuming
	if hello.GetMode() == tunnel.LinkMode_LINK_MODE_RESUME {
		var err error
		if r, err = p.link.Resume(); err != nil {
			n.t.Errorf("%v at %v", err, time.Now())
			return
		}
		w.Received = r.Received
	}
	if tunnel.Write(c, &tunnel.HelloReply{Reply: &tunnel.HelloReply_Welcome{Welcome: w}}, tunnel.MaxHandshake) != nil {
		return
	}
	n.mu.Lock()
	p.conn = c
	if r == nil {
		p.link = link.Server(c, link.Config{Resume: &link.Resume{}})
		go func() { _ = p.link.Run(context.WithoutCancel(n.t.Context())) }()
	}
	n.mu.Unlock()
	if r != nil && r.With(c, hello.GetReceived()) != nil {
		n.t.Error("not resumed")
	}
	n.said <- name + " " + strings.ToLower(strings.TrimPrefix(hello.GetMode().String(), "LINK_MODE_"))
}

func (n *network) close() {
	for _, p := range n.places {
		if p.link != nil {
			_ = p.link.Close()
		}
	}
}

// TestFailOver: when an agent leaves a server for another, and when it waits instead.
func TestFailOver(t *testing.T) {
	for name, tc := range map[string]struct {
		servers []string
		told    []string
		lose    func(n *network)
		heal    func(n *network) // 1.5 s later
		then    string           // the next Hello that is answered
		within  time.Duration
	}{
		"a process that is gone": {
			servers: []string{"a:1", "b:1", "c:1"}, lose: func(n *network) { n.be("a:1", true, false) },
			then: "c:1 new", within: 100 * time.Millisecond,
		},
		"the first of the others is gone too": {
			servers: []string{"a:1", "b:1", "c:1", "d:1"}, lose: func(n *network) { n.be("c:1", true, false); n.be("a:1", true, false) },
			then: "d:1 new", within: 100 * time.Millisecond,
		},
		"the first of the others is silent": {
			servers: []string{"a:1", "b:1", "c:1", "d:1"}, lose: func(n *network) { n.be("c:1", false, true); n.be("a:1", true, false) },
			then: "d:1 new", within: 500 * time.Millisecond,
		},
		"a machine that is gone": {
			servers: []string{"a:1", "b:1", "c:1"}, lose: func(n *network) { n.be("a:1", false, true) },
			then: "c:1 new", within: 2100 * time.Millisecond,
		},
		"a connection that is gone": {
			servers: []string{"a:1", "b:1", "c:1"}, lose: func(n *network) { n.be("a:1", false, false) },
			then: "a:1 resume", within: 100 * time.Millisecond,
		},
		"nobody else can be reached": {
			servers: []string{"a:1", "b:1", "c:1"},
			lose:    func(n *network) { n.be("c:1", false, true); n.be("a:1", true, false) },
			heal:    func(n *network) { n.be("a:1", false, false) },
			then:    "a:1 resume", within: 3 * time.Second,
		},
		"one of two is gone for a while": {
			servers: []string{"a:1", "b:1"}, lose: func(n *network) { n.be("a:1", true, false) },
			heal: func(n *network) { n.be("a:1", false, false) },
			then: "a:1 resume", within: 2 * time.Second,
		},
		"the only server is gone for a while": {
			servers: []string{"a:1"}, lose: func(n *network) { n.be("a:1", true, false) },
			heal: func(n *network) { n.be("a:1", false, false) },
			then: "a:1 resume", within: 2 * time.Second,
		},
		"one that the server told of": {
			servers: []string{"a:1"}, told: []string{"b:1"}, lose: func(n *network) { n.be("a:1", true, false) },
			then: "b:1 new", within: 100 * time.Millisecond,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t, "a:1", "b:1", "c:1", "d:1")
				n.told = tc.told
				a, out := newTestAgent(n.dial)
				cfg := a.cfg
				cfg.Servers, cfg.Drain = tc.servers, time.Second
				a = New(cfg)
				a.servers.dial = n.dial
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- a.Run(ctx) }()
				var began, want []string // of seats that begin at once
				for i := range a.seats {
					began, want = append(began, <-n.said), append(want, tc.servers[i]+" new")
				}
				if slices.Sort(began); !slices.Equal(began, want) {
					t.Errorf("began with %q instead of %q", began, want)
				}
				<-time.After(10 * time.Second)
				lost := time.Now()
				tc.lose(n)
				if tc.heal != nil {
					time.AfterFunc(1500*time.Millisecond, func() { tc.heal(n) })
				}
				if got := <-n.said; got != tc.then || time.Since(lost) > tc.within {
					t.Errorf("%s after %v\n%s", got, time.Since(lost), out)
				}
				<-time.After(time.Minute)
				if len(n.said) != 0 {
					t.Errorf("then %s\n%s", <-n.said, out)
				}
				if a.seats[0].hasSpare() != "" {
					t.Error("a connection is left over")
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				n.close()
			})
		})
	}
}

// TestDrainTellsWhere: an agent whose server drains goes where that says.
func TestDrainTellsWhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, "b:1")
		conns := make(chan net.Conn)
		a, _ := newTestAgent(func(ctx context.Context, server string) (net.Conn, error) {
			if server != "node:443" {
				return n.dial(ctx, server)
			}
			agent, c := net.Pipe()
			conns <- c
			return agent, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		l, ctl := node(t, <-conns, welcome())
		writeControl(t, ctl, &tunnel.Control{Message: &tunnel.Control_Drain{Drain: &tunnel.Drain{DeadlineMs: 1000, Addresses: []string{"b:1"}}}})
		if got := <-n.said; got != "b:1 new" {
			t.Error(got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = l.Close()
		n.close()
	})
}

// TestLeftIsNotLost: while a server that drains is the only one, the agent is connected, and
// says of attempts at others what they are.
func TestLeftIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, "b:1")
		n.be("b:1", true, false)
		conns := make(chan net.Conn, 1)
		first := true
		a, out := newTestAgent(func(ctx context.Context, server string) (net.Conn, error) {
			if server != "node:443" || !first {
				return n.dial(ctx, server)
			}
			first = false
			agent, c := net.Pipe()
			conns <- c
			return agent, nil
		})
		told := make(chan error, 100)
		a.cfg.Connected = func(err error) { told <- err }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		l, ctl := node(t, <-conns, welcome())
		writeControl(t, ctl, &tunnel.Control{Message: &tunnel.Control_Drain{Drain: &tunnel.Drain{DeadlineMs: 600_000, Addresses: []string{"b:1"}}}})
		<-time.After(time.Minute)
		if err := <-told; err != nil || len(told) > 0 {
			t.Errorf("told %v and %d more", err, len(told))
		}
		if s := out.String(); strings.Contains(s, "lost") || !strings.Contains(s, "server not reachable") {
			t.Error(s)
		}
		_ = l.Close() // and now there is none
		if err := <-told; err == nil {
			t.Error("connected without a session")
		}
		n.be("b:1", false, false)
		if got := <-n.said; got != "b:1 new" {
			t.Error(got)
		}
		for <-told != nil { // of each attempt that failed
		}
		if s := out.String(); strings.Contains(s, "lost") {
			t.Error(s)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		n.close()
	})
}
