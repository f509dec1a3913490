package agent

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// bench is an agent with one endpoint, raw, and the node's end of its session.
type bench struct {
	t     *testing.T
	agent *Agent
	log   *logs
	link  *link.Link
	ctl   link.Stream
	conns chan net.Conn
	lost  []string
	done  chan error
}

// withBench runs test inside a bubble, with raw bound as endpoint e-raw.
func withBench(t *testing.T, test func(*bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, conns: make(chan net.Conn), done: make(chan error, 1)}
		b.agent, b.log = newTestAgent(func(context.Context, string) (net.Conn, error) {
			agent, c := net.Pipe()
			b.conns <- c
			return agent, nil
		})
		b.agent.cfg.Lost = func(name string, err *tunnel.BindError) { b.lost = append(b.lost, name+" "+string(err.Code)) }
		ctx, cancel := context.WithCancel(t.Context())
		go func() { b.done <- b.agent.Run(ctx) }()
		b.link, b.ctl = node(t, <-b.conns, welcome())
		b.bound(0, "e-raw")
		test(b)
		cancel()
		_ = b.link.Close()
		if err := <-b.done; err != nil {
			t.Error(err)
		}
	})
}

func (b *bench) bound(request uint64, id string) {
	b.t.Helper()
	writeControl(b.t, b.ctl, &tunnel.Control{Message: &tunnel.Control_Bound{Bound: &tunnel.Bound{Request: request, EndpointId: id, Url: "tcp://n:1"}}})
	synctest.Wait()
}

func (b *bench) refuse(request uint64, code tunnel.Code) {
	b.t.Helper()
	writeControl(b.t, b.ctl, &tunnel.Control{Message: &tunnel.Control_Refused{Refused: &tunnel.Refused{Request: request, Code: string(code), Message: "no"}}})
	synctest.Wait()
}

// next reads the next Bind or Unbind: "bind 1 web" or "unbind e-raw".
func (b *bench) next() (string, uint64) {
	b.t.Helper()
	m := readControl(b.t, b.ctl, func(m *tunnel.Control) bool { return m.GetBind() != nil || m.GetUnbind() != nil })
	if u := m.GetUnbind(); u != nil {
		return "unbind " + u.GetEndpointId(), 0
	}
	return "bind " + m.GetBind().GetSpec().GetName(), m.GetBind().GetRequest()
}

// expect reads control messages that must be these, and returns the last request.
func (b *bench) expect(want ...string) uint64 {
	b.t.Helper()
	var request uint64
	for _, w := range want {
		var got string
		if got, request = b.next(); got != w {
			b.t.Errorf("got %q, want %q", got, w)
		}
	}
	return request
}

func (b *bench) states() string {
	var out []string
	for _, e := range b.agent.Status().Endpoints {
		out = append(out, e.Name+"="+e.State)
	}
	return strings.Join(out, " ")
}

func tcp(name string, port uint16) Endpoint {
	return Endpoint{Spec: endpoint.Spec{Kind: endpoint.TCP, Name: name, Port: port}, Upstream: Upstream{text: name}}
}

func TestAddAndRemove(t *testing.T) {
	withBench(t, func(b *bench) {
		if err := b.agent.Add(tcp("raw", 1)); !errors.Is(err, ErrDuplicate) {
			t.Error(err)
		}
		if err := b.agent.Add(tcp("web", 2)); err != nil {
			t.Error(err)
		}
		b.bound(b.expect("bind web"), "e-web")
		if got := b.states(); got != "raw=online web=online" {
			t.Error(got)
		}
		if !b.agent.Remove("raw") || b.agent.Remove("raw") {
			t.Error("removed never or twice")
		}
		b.expect("unbind e-raw")

		// A new link binds what is left.
		_ = b.link.Close()
		c := <-b.conns
		b.link, b.ctl = nodeFor(b.t, c, welcome(), "web")
		b.bound(1, "e-web2")
		if got := b.states(); got != "web=online" {
			t.Error(got)
		}
	})
}

func TestLateRefusalLeavesTheRest(t *testing.T) {
	withBench(t, func(b *bench) {
		if err := b.agent.Add(tcp("web", 2)); err != nil {
			t.Error(err)
		}
		b.refuse(b.expect("bind web"), tunnel.CodeNotAllowed)
		if got := b.states(); got != "raw=online web=lost" || !slices.Equal(b.lost, []string{"web not_allowed"}) {
			t.Error(got, b.lost)
		}
		// The same file again is another try.
		c := b.agent.Apply([]Endpoint{tcp("raw", 0), tcp("web", 2)})
		if !slices.Equal(c.Rebound, []string{"web"}) {
			t.Errorf("%+v", c)
		}
		b.bound(b.expect("bind web"), "e-web")
		if got := b.states(); got != "raw=online web=online" {
			t.Error(got)
		}
	})
}

// TestRemovedWhileBinding: an endpoint that goes before the answer to its Bind is
// given back, and the name it would have had is asked for only then.
func TestRemovedWhileBinding(t *testing.T) {
	for _, refused := range []bool{false, true} {
		withBench(t, func(b *bench) {
			if err := b.agent.Add(tcp("web", 2)); err != nil {
				t.Error(err)
			}
			request := b.expect("bind web")
			c := b.agent.Apply([]Endpoint{tcp("raw", 0), tcp("other", 2)})
			if !slices.Equal(c.Removed, []string{"web"}) || !slices.Equal(c.Added, []string{"other"}) {
				t.Errorf("%+v", c)
			}
			if refused {
				b.refuse(request, tunnel.CodeNameTaken)
			} else {
				b.bound(request, "e-web")
				b.expect("unbind e-web")
			}
			b.bound(b.expect("bind other"), "e-other")
			if got := b.states(); got != "raw=online other=online" || b.lost != nil {
				t.Error(got, b.lost)
			}
		})
	}
}

func TestApply(t *testing.T) {
	withBench(t, func(b *bench) {
		b.agent.Apply([]Endpoint{tcp("raw", 0), tcp("a", 1), tcp("b", 2), tcp("c", 3)})
		b.bound(b.expect("bind a"), "e-a")
		b.bound(b.expect("bind b"), "e-b")
		b.bound(b.expect("bind c"), "e-c")

		moved := tcp("a", 1)
		moved.Upstream.text = "elsewhere"
		c := b.agent.Apply([]Endpoint{tcp("d", 4), tcp("b", 5), moved, tcp("raw", 0)})
		for what, names := range map[string][2][]string{
			"added": {c.Added, {"d"}}, "removed": {c.Removed, {"c"}}, "rebound": {c.Rebound, {"b"}}, "moved": {c.Moved, {"a"}}, "kept": {c.Kept, {"raw"}},
		} {
			if !slices.Equal(names[0], names[1]) {
				t.Errorf("%s %v, want %v", what, names[0], names[1])
			}
		}
		b.expect("unbind e-b", "unbind e-c")
		b.bound(b.expect("bind d"), "e-d")
		b.bound(b.expect("bind b"), "e-b2")
		if got := b.states(); got != "d=online b=online a=online raw=online" {
			t.Error(got)
		}
		if c := b.agent.Apply([]Endpoint{tcp("d", 4), tcp("b", 5), moved, tcp("raw", 0)}); len(c.Kept) != 4 {
			t.Errorf("%+v", c)
		}
	})
}

// TestTwoSeats: an agent of two servers serves by both. What one of them refuses the other
// may still give; what both refuse is lost.
func TestTwoSeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := map[string]chan net.Conn{"a:1": make(chan net.Conn), "b:1": make(chan net.Conn)}
		a, _ := newTestAgent(nil)
		cfg := a.cfg
		cfg.Servers = []string{"a:1", "b:1"}
		var told []string
		cfg.Online = func(name string, urls []string) { told = append(told, name+" "+urls[0]) }
		cfg.Lost = func(name string, err *tunnel.BindError) { told = append(told, name+" "+string(err.Code)) }
		a = New(cfg)
		a.servers.dial = func(_ context.Context, server string) (net.Conn, error) {
			agent, c := net.Pipe()
			conns[server] <- c
			return agent, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()

		one := &bench{t: t, agent: a}
		one.link, one.ctl = node(t, <-conns["a:1"], welcome())
		c := <-conns["b:1"]
		asks := make(chan *bench)
		go func() {
			two := &bench{t: t, agent: a}
			two.link, two.ctl = node(t, c, welcome()) // reads a Bind
			asks <- two
		}()
		synctest.Wait()
		select {
		case <-asks:
			t.Error("the second is asked before the first has picked a port")
		default:
		}
		writeControl(t, one.ctl, &tunnel.Control{Message: &tunnel.Control_Bound{Bound: &tunnel.Bound{EndpointId: "a-raw", Url: "tcp://n:7", Port: 7}}})
		two := <-asks
		writeControl(t, two.ctl, &tunnel.Control{Message: &tunnel.Control_Bound{Bound: &tunnel.Bound{EndpointId: "b-raw", Url: "tcp://n:7", Port: 7}}})
		synctest.Wait()
		if p := a.endpoints.list()[0].spec().Port; p != 7 {
			t.Errorf("port %d is asked for", p)
		}

		if err := a.Add(tcp("web", 2)); err != nil {
			t.Error(err)
		}
		first, second := one, two
		synctest.Wait()
		a.endpoints.mu.Lock()
		if s := a.endpoints.sessions[1]; s.binds.of[a.endpoints.all[1]].phase == asked {
			first, second = two, one // whichever was faster
		}
		a.endpoints.mu.Unlock()
		first.refuse(first.expect("bind web"), tunnel.CodeNotAllowed)
		second.bound(second.expect("bind web"), "web")
		if got := one.states(); got != "raw=online web=online" {
			t.Error(got)
		}
		if err := a.Add(tcp("not", 3)); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		a.endpoints.mu.Lock()
		first, second = one, two
		if s := a.endpoints.sessions[1]; s.binds.of[a.endpoints.all[2]].phase == asked {
			first, second = two, one
		}
		a.endpoints.mu.Unlock()
		first.refuse(first.expect("bind not"), tunnel.CodeNotAllowed)
		second.refuse(second.expect("bind not"), tunnel.CodeNotAllowed)
		if got := one.states(); got != "raw=online web=online not=lost" {
			t.Error(got)
		}
		if want := []string{"raw tcp://n:7", "web tcp://n:1", "not not_allowed"}; !slices.Equal(told, want) {
			t.Errorf("told %q", told)
		}

		// The end of one session is no news to users, and given up is what both have.
		go func() { one.link, one.ctl = node(t, <-conns["a:1"], welcome()) }()
		_ = one.link.Close()
		synctest.Wait()
		if st := a.Status(); !st.Connected || st.Endpoints[0].State != "online" {
			t.Errorf("%+v", st)
		}
		writeControl(t, one.ctl, &tunnel.Control{Message: &tunnel.Control_Bound{Bound: &tunnel.Bound{EndpointId: "a-raw2", Url: "tcp://n:7", Port: 7}}})
		synctest.Wait()
		if !a.Remove("raw") {
			t.Error("raw was not there")
		}
		for b, want := range map[*bench]string{one: "unbind a-raw2", two: "unbind b-raw"} {
			for got := ""; got != want; {
				got, _ = b.next()
			}
		}
		cancel()
		for _, b := range []*bench{one, two} {
			readControl(t, b.ctl, func(m *tunnel.Control) bool { return m.GetDrain() != nil })
			_ = b.link.Close()
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
