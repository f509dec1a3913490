package edge

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/internal/datagram"
	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
)

// udpEdge is an edge with the port of a udp endpoint, whose agent echoes.
type udpEdge struct {
	edge    *Edge
	address string
	port    io.Closer
	open    atomic.Int64 // streams at the agent
}

func runUDP(t *testing.T, cfg Config, limits endpoint.Limits) *udpEdge {
	t.Helper()
	cfg.TCPHost = "127.0.0.1"
	u := &udpEdge{}
	r := run(t, cfg)
	u.edge = r.edge
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	free, err := net.ListenPacket("udp", "127.0.0.1:0")
	check(t, err)
	u.address = free.LocalAddr().String()
	port := addrPort(free.LocalAddr()).Port()
	check(t, free.Close())
	reg := registry.New(registry.Config{
		UDPPorts: registry.PortRange{First: port, Last: port},
		Listen: func(n endpoint.Name) (io.Closer, error) {
			var err error
			u.port, err = r.edge.Listen(ctx, n)
			return u.port, err
		},
	})
	u.edge.cfg.Registry = reg
	_, err = reg.Bind(t.Context(), registry.Request{
		Spec:  endpoint.Spec{Kind: endpoint.UDP, Limits: limits},
		Owner: registry.Owner{AgentID: "a", Generation: 1, SessionID: "s"},
		Open: func(context.Context, string, endpoint.Visitor, []byte) (net.Conn, error) {
			near, far := net.Pipe()
			u.open.Add(1)
			go func() {
				defer u.open.Add(-1)
				_, _ = io.Copy(&datagram.Decoder{Each: func(p []byte) { _, _ = far.Write(datagram.Append(nil, p)) }}, far)
				_ = far.Close()
			}()
			return near, nil
		},
	})
	check(t, err)
	t.Cleanup(func() {
		check(t, reg.Close())
		cancel()
		check(t, u.edge.Shutdown(context.WithoutCancel(ctx)))
		eventually(t, "no stream to be left", func() bool { return u.open.Load() == 0 && u.edge.flows.Load() == 0 })
	})
	return u
}

func (u *udpEdge) visitor(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("udp", u.address)
	check(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// flow returns the visitor's.
func (u *udpEdge) flow(c net.Conn) *flow {
	p := u.port.(*udpPort)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.flows[flowKey{addrPort(c.LocalAddr()), addrPort(c.RemoteAddr()).Addr()}]
}

// asks reports whether an answer comes within a time.
func asks(t *testing.T, c net.Conn, text string, within time.Duration) bool {
	t.Helper()
	_, err := c.Write([]byte(text))
	check(t, err)
	check(t, c.SetReadDeadline(time.Now().Add(within)))
	buf := make([]byte, 2048)
	n, err := c.Read(buf)
	return err == nil && string(buf[:n]) == text
}

// TestFlood: many sources that don't hear the answers cost no more than the table, and
// do not drive out a visitor who does.
func TestFlood(t *testing.T) {
	const room = 8
	u := runUDP(t, Config{MaxEndpointFlows: room}, endpoint.Limits{})
	known := u.visitor(t)
	eventually(t, "an answer", func() bool { return asks(t, known, "hello", time.Second) })
	eventually(t, "another answer", func() bool { return asks(t, known, "thanks", time.Second) })
	its := u.flow(known)
	for i := range 200 {
		_, err := u.visitor(t).Write(fmt.Append(nil, i))
		check(t, err)
		if n := u.edge.flows.Load(); n > 2*room {
			t.Fatalf("%d flows", n)
		}
	}
	eventually(t, "flows to be driven out", func() bool { return u.edge.Counters().FlowsEvicted > 0 })
	if u.flow(known) != its || its.ctx.Err() != nil {
		t.Error("the visitor lost its flow")
	}
	eventually(t, "the visitor to be served", func() bool { return asks(t, known, "still here", time.Second) })
	eventually(t, "new visitors to be served", func() bool { return asks(t, u.visitor(t), "new", time.Second) })
}

func TestNodeFlows(t *testing.T) {
	u := runUDP(t, Config{MaxFlows: 2}, endpoint.Limits{})
	for range 2 {
		c := u.visitor(t)
		eventually(t, "an answer", func() bool { return asks(t, c, "x", time.Second) })
	}
	if asks(t, u.visitor(t), "one too many", 50*time.Millisecond) || u.edge.Counters().FlowsRefused != 1 {
		t.Errorf("a third flow was made: %+v", u.edge.Counters())
	}
}

func TestFlowLimits(t *testing.T) {
	u := runUDP(t, Config{}, endpoint.Limits{Connections: 1})
	first := u.visitor(t)
	eventually(t, "an answer", func() bool { return asks(t, first, "x", time.Second) })
	if asks(t, u.visitor(t), "y", 50*time.Millisecond) {
		t.Error("a second flow was served")
	}
	eventually(t, "the refusal to be counted", func() bool { return u.edge.Counters().OverLimit == 1 })

	slow := runUDP(t, Config{}, endpoint.Limits{Bandwidth: 10_000})
	c := slow.visitor(t)
	eventually(t, "an answer", func() bool { return asks(t, c, "x", time.Second) })
	for range 100 {
		_, err := c.Write(make([]byte, 1000))
		check(t, err)
	}
	// The flow's end counts what it lost.
	check(t, slow.port.Close())
	eventually(t, "loss to be counted", func() bool { return slow.edge.Counters().DatagramsLost > 50 })
}
