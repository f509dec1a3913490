package session

import (
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/link/linktest"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// lines gives f a session of n links, each over a line of its own, whose agent answers by
// the endpoint: bulk is sent for ever, sink is thrown away, and anything else comes back.
// opened counts the streams on each link.
func lines(t *testing.T, n int, f func(t *testing.T, s *Session, opened []int)) {
	synctest.Test(t, func(t *testing.T) {
		s := &Session{ID: "s", Grace: time.Second}
		opened := make([]int, n)
		for i := range n {
			a, b := linktest.Line{Rate: 2_500_000, Delay: 10 * time.Millisecond}.New()
			node, agent := link.Server(a, link.Config{Resume: &link.Resume{}}), link.Client(b, link.Config{Resume: &link.Resume{}})
			go func() { _ = node.Run(t.Context()) }()
			go func() { _ = agent.Run(t.Context()) }()
			go func() {
				for {
					st, err := agent.Accept(t.Context())
					if err != nil {
						return
					}
					opened[i]++
					go answer(st)
				}
			}()
			s.Add(node)
			defer agent.Close()
			defer node.Close()
		}
		f(t, s, opened)
	})
}

func answer(st link.Stream) {
	defer st.Reset()
	var h tunnel.StreamHeader
	if tunnel.Read(st, &h, tunnel.MaxHeader) != nil || tunnel.Write(st, &tunnel.StreamReply{}, tunnel.MaxHeader) != nil {
		return
	}
	switch h.GetEndpointId() {
	case "bulk":
		for buf := make([]byte, 64<<10); ; {
			if _, err := st.Write(buf); err != nil {
				return
			}
		}
	case "sink":
		_, _ = io.Copy(io.Discard, st)
	default:
		_, _ = io.Copy(st, st)
	}
}

// visit opens a stream to an endpoint of the agent.
func visit(t *testing.T, s *Session, id string) net.Conn {
	t.Helper()
	c, err := s.Open(t.Context(), id, endpoint.Visitor{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// bulk moves as much as there is room for, in a direction.
func bulk(t *testing.T, s *Session, id string) {
	t.Helper()
	c := visit(t, s, id)
	if id == "bulk" {
		go func() { _, _ = io.Copy(io.Discard, c) }()
		return
	}
	go func() {
		for buf := make([]byte, 64<<10); ; {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}()
}

// pings returns how long so many messages took there and back, the shortest first.
func pings(t *testing.T, s *Session, n int) []time.Duration {
	t.Helper()
	c := visit(t, s, "echo")
	defer c.Close()
	var took []time.Duration
	for range n {
		began := time.Now()
		if _, err := c.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took
}

// TestSpread: new streams go to links that have little to do, be it sending or receiving, and
// bulk on some makes no message on the others wait. On one link it would, which shows that
// there is something to be seen.
func TestSpread(t *testing.T) {
	var idle []time.Duration
	lines(t, 4, func(t *testing.T, s *Session, opened []int) {
		idle = pings(t, s, 200)
		<-time.After(time.Second)
		for range 40 {
			visit(t, s, "echo")
			synctest.Wait()
		}
		<-time.After(time.Second)
		if slices.Min(opened) < 4 {
			t.Errorf("streams on idle links: %v", opened)
		}
	})
	for _, id := range []string{"bulk", "sink"} {
		for _, links := range []int{1, 4} {
			lines(t, links, func(t *testing.T, s *Session, opened []int) {
				for range links - links/2 { // 1 of 1, 2 of 4
					bulk(t, s, id)
					<-time.After(time.Second)
				}
				before := slices.Clone(opened)
				var took []time.Duration
				for range 10 {
					took = append(took, pings(t, s, 6)...)
				}
				slices.Sort(took)
				p50, p99 := took[len(took)/2], took[len(took)*99/100]
				t.Logf("%s on %d links: streams %v before, %v after; p50 %v, p99 %v; idle p50 %v, p99 %v",
					id, links, before, opened, p50, p99, idle[len(idle)/2], idle[len(idle)*99/100])
				if apart := p99 <= idle[len(idle)/2]*11/10; apart != (links > 1) {
					t.Errorf("%s on %d links: p99 is %v, idle %v", id, links, p99, idle[len(idle)/2])
				}
			})
		}
	}
}
