package e2e

import (
	"context"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
)

// TestNothingIsLeft runs server and agent in this process, serves visitors of every
// kind, one of whom stays, stops both, and looks for goroutines.
func TestNothingIsLeft(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) }) // after all other cleanups
	up := newUpstream(t)
	raw := serveTCP(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	log := slog.New(slog.DiscardHandler)
	ready := make(chan server.Ready, 1)
	s, err := server.New(server.Config{
		HTTP: "127.0.0.1:0", HTTPS: "127.0.0.1:0", Admin: "127.0.0.1:0", TCPHost: "127.0.0.1", TCPPorts: registry.PortRange{First: 19900, Last: 19999},
		DataDir: t.TempDir(), Drain: 100 * time.Millisecond, Logger: log, Ready: func(r server.Ready) { ready <- r },
	})
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	r := <-ready

	urls := make(map[string]string)
	online := make(chan [2]string, 2)
	web, err := agent.ParseUpstream(up.port(), agent.UpstreamTLS{})
	check(t, err)
	echo, err := agent.ParseUpstream(raw, agent.UpstreamTLS{})
	check(t, err)
	newAgent := func(generation uint64) *agent.Agent {
		return agent.New(agent.Config{
			Servers: []string{r.HTTPS.String()}, Token: *r.Token, ID: "agent", Generation: generation, Drain: 100 * time.Millisecond, Logger: log,
			Endpoints: []agent.Endpoint{
				{Spec: endpoint.Spec{Kind: endpoint.HTTP, Name: "web", Label: "app"}, Upstream: web},
				{Spec: endpoint.Spec{Kind: endpoint.TCP, Name: "raw"}, Upstream: echo},
			},
			Online: func(name string, u []string) { online <- [2]string{name, u[len(u)-1]} },
		})
	}
	agentEnded := make(chan error, 2)
	agentCtx, stopAgent := context.WithCancel(t.Context())
	defer stopAgent()
	a := newAgent(1)
	go func() { agentEnded <- a.Run(agentCtx) }()
	for range 2 {
		u := <-online
		urls[u[0]] = u[1]
	}
	n := &node{process: &process{t: t}, data: "", http: r.HTTP.String(), https: r.HTTPS.String()}
	if got := n.curlPlain(urls["web"] + "/hello"); got == "" {
		t.Error("no answer")
	}
	// Who leaves takes his stream along; one of the web service waits for the next request.
	leaves := dial(t, tcpAddress(urls["raw"]))
	_, err = leaves.Write([]byte("x"))
	check(t, err)
	_, err = io.ReadFull(leaves, make([]byte, 1))
	check(t, err)
	eventually(t, "one visitor to be there", func() bool {
		st := s.Stats()
		return st.Sessions == 1 && st.Names == 2 && st.Streams >= 1 && st.Visits == 1
	})
	check(t, leaves.Close())
	eventually(t, "the visitor's stream to end", func() bool { st := s.Stats(); return st.Visits == 0 && st.Streams <= 1 })

	// An agent that stops leaves nothing behind in a server that goes on.
	stopAgent()
	check(t, <-agentEnded)
	eventually(t, "nothing to be left of the agent", func() bool { return s.Stats() == server.Stats{} })

	// Neither do those who are cut off with the server.
	ctx2, stopAgent2 := context.WithCancel(t.Context())
	defer stopAgent2()
	a = newAgent(2)
	go func() { agentEnded <- a.Run(ctx2) }()
	for range 2 {
		<-online
	}
	stays := dial(t, tcpAddress(urls["raw"]))
	_, err = stays.Write([]byte("x"))
	check(t, err)
	_, err = io.ReadFull(stays, make([]byte, 1))
	check(t, err)
	silent := dial(t, r.HTTPS.String()) // and never says hello
	cancel()
	stopAgent2()
	check(t, <-ended)
	check(t, <-agentEnded)
	_ = stays.Close()
	_ = silent.Close()
	up.Close()
	if left := s.Stats(); left != (server.Stats{}) {
		t.Errorf("left in the server: %+v", left)
	}
	if st := a.Status(); st.Endpoints[0].State == "online" {
		t.Error("an endpoint is still online")
	}
}
