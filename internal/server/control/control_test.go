package control

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/server/auth"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// bench is a Control with agents made of bare messages.
type bench struct {
	t       *testing.T
	control *Control
	names   *registry.Registry
	tasks   sync.WaitGroup
	ctx     context.Context //nolint:containedctx // the test's own

	mu     sync.Mutex
	tokens map[string]bool
}

// run runs f with a Control on a fake clock, and then waits for all links to end.
func run(t *testing.T, f func(t *testing.T, b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b := &bench{t: t, ctx: ctx, tokens: map[string]bool{"good": true, "other": true}}
		b.names = registry.New(registry.Config{Domain: "example.com"})
		b.control = New(Config{
			Authenticate: func(credential string) (auth.Grant, error) {
				b.mu.Lock()
				defer b.mu.Unlock()
				if !b.tokens[credential] {
					return auth.Grant{}, auth.ErrDenied
				}
				return auth.Grant{TokenID: credential}, nil
			},
			Registry: b.names, URLs: func(n endpoint.Name, _ endpoint.Spec) []string { return []string{n.String()} },
			Node: "n", Others: func() []string { return []string{"other:443"} }, MaxSessions: 10, MaxEndpoints: 2, MaxPending: 3, Logger: slog.New(slog.DiscardHandler),
		})
		f(t, b)
		cancel()
		b.tasks.Wait()
		_ = b.names.Close()
		if n := len(b.control.mu.sessions); n != 0 {
			t.Errorf("%d sessions are left", n)
		}
	})
}

// conn gives the Control a connection and returns the other end of it.
func (b *bench) conn() net.Conn {
	agent, node := net.Pipe()
	b.tasks.Go(func() { _ = b.control.Serve(b.ctx, node) })
	b.t.Cleanup(func() { _ = agent.Close() })
	return agent
}

func hello() *tunnel.Hello {
	return &tunnel.Hello{Version: tunnel.Version, Token: "good", AgentId: "agent", Generation: 1}
}

// greet says Hello and returns the answer.
func (b *bench) greet(c net.Conn, h *tunnel.Hello) *tunnel.HelloReply {
	b.t.Helper()
	var reply tunnel.HelloReply
	if err := tunnel.Write(c, h, tunnel.MaxHandshake); err != nil {
		b.t.Fatal(err)
	}
	if err := tunnel.Read(c, &reply, tunnel.MaxHandshake); err != nil {
		b.t.Fatal(err)
	}
	return &reply
}

// peer is an agent.
type peer struct {
	*bench
	link *link.Link
	ctl  link.Stream
}

func (b *bench) agent(h *tunnel.Hello) *peer {
	b.t.Helper()
	c := b.conn()
	w := b.greet(c, h).GetWelcome()
	if len(w.GetSessionId()) != 16 || w.GetNode() != "n" || w.GetHeartbeatMs() != 5000 || w.GetLimits().GetEndpoints() != 2 || len(w.GetLinkId()) != 16 || len(w.GetResumeKey()) != 0 || len(w.GetServers()) != 1 {
		b.t.Fatalf("welcome %v", w)
	}
	l := link.Client(c, link.Config{})
	go func() { _ = l.Run(b.t.Context()) }()
	ctl, err := l.Open(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = l.Close() })
	return &peer{bench: b, link: l, ctl: ctl}
}

func (p *peer) send(m *tunnel.Control) {
	p.t.Helper()
	if err := tunnel.Write(p.ctl, m, tunnel.MaxControl); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) read() *tunnel.Control {
	p.t.Helper()
	m := &tunnel.Control{}
	if err := tunnel.Read(p.ctl, m, tunnel.MaxControl); err != nil {
		p.t.Fatal(err)
	}
	return m
}

// alive asks for a Pong.
func (p *peer) alive() {
	p.t.Helper()
	p.send(&tunnel.Control{Message: &tunnel.Control_Ping{Ping: &tunnel.Ping{Id: 5, SentUnixNs: 6}}})
	if m := p.read(); m.GetPong().GetId() != 5 || m.GetPong().GetSentUnixNs() != 6 {
		p.t.Errorf("pong %v", m)
	}
}

func (p *peer) bind(host string) *tunnel.Control {
	p.t.Helper()
	p.send(&tunnel.Control{Message: &tunnel.Control_Bind{Bind: &tunnel.Bind{Request: 3, Spec: &tunnel.EndpointSpec{Kind: "http", Name: "web", Host: host}}}})
	return p.read()
}

func (b *bench) serves(host string) bool {
	_, ok := b.names.Find(endpoint.Name{Kind: endpoint.HTTP, Host: host})
	return ok
}

func TestHandshakeIsJudged(t *testing.T) {
	for name, tc := range map[string]struct {
		change    func(*tunnel.Hello)
		code      tunnel.Code
		retryable bool
	}{
		"version":       {func(h *tunnel.Hello) { h.Version = 2 }, tunnel.CodeVersionUnsupported, false},
		"no version":    {func(h *tunnel.Hello) { h.Version = 0 }, tunnel.CodeVersionUnsupported, false},
		"no agent id":   {func(h *tunnel.Hello) { h.AgentId = "" }, tunnel.CodeBadHello, false},
		"long agent id": {func(h *tunnel.Hello) { h.AgentId = strings.Repeat("x", 65) }, tunnel.CodeBadHello, false},
		"seat":          {func(h *tunnel.Hello) { h.Seat = maxSeats }, tunnel.CodeBadHello, false},
		"token":         {func(h *tunnel.Hello) { h.Token = "bad" }, tunnel.CodeTokenInvalid, false},
		"no token":      {func(h *tunnel.Hello) { h.Token = "" }, tunnel.CodeTokenInvalid, false},
		"join":          {func(h *tunnel.Hello) { h.Mode = tunnel.LinkMode_LINK_MODE_JOIN }, tunnel.CodeModeUnsupported, true},
		"resume":        {func(h *tunnel.Hello) { h.Mode = tunnel.LinkMode_LINK_MODE_RESUME }, tunnel.CodeModeUnsupported, true},
		"unknown mode":  {func(h *tunnel.Hello) { h.Mode = 9 }, tunnel.CodeModeUnsupported, true},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				h := hello()
				tc.change(h)
				r := b.greet(b.conn(), h).GetRefusal()
				if r.GetCode() != string(tc.code) || r.GetRetryable() != tc.retryable || r.GetMessage() == "" || len(r.GetVersions()) != 1 || r.GetVersions()[0] != tunnel.Version {
					t.Errorf("%v", r)
				}
			})
		})
	}
}

func TestHostileHello(t *testing.T) {
	for name, in := range map[string][]byte{
		"oversized": {0xff, 0xff, 0xff, 0x7f},
		"endless":   {0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"malformed": {3, 0xff, 0xff, 0xff},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				c := b.conn()
				go func() { _, _ = c.Write(in) }()
				var reply tunnel.HelloReply
				if err := tunnel.Read(c, &reply, tunnel.MaxHandshake); err != nil || reply.GetRefusal().GetCode() != string(tunnel.CodeBadHello) {
					t.Errorf("%v, %v", &reply, err)
				}
			})
		})
	}
	for name, in := range map[string][]byte{"silent": nil, "slow": append([]byte{0x7f}, make([]byte, 0x7f)...)} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				c := b.conn()
				began := time.Now()
				b.tasks.Go(func() {
					for i := range in { // a byte each second never comes to an end in time
						if _, err := c.Write(in[i : i+1]); err != nil {
							return
						}
						<-time.After(time.Second)
					}
				})
				_, err := c.Read(make([]byte, 1))
				if took := time.Since(began); !errors.Is(err, io.EOF) || took != handshakeTimeout {
					t.Errorf("ended after %v: %v", took, err)
				}
			})
		})
	}
	t.Run("no control stream", func(t *testing.T) {
		run(t, func(t *testing.T, b *bench) {
			c := b.conn()
			b.greet(c, hello())
			l := link.Client(c, link.Config{})
			began := time.Now()
			_ = l.Run(t.Context())
			if took := time.Since(began); took > 2*handshakeTimeout {
				t.Errorf("ended after %v", took)
			}
		})
	})
}

// TestMalformedControl: nonsense ends its own link and nothing else.
func TestMalformedControl(t *testing.T) {
	for name, in := range map[string][]byte{
		"malformed": {3, 0xff, 0xff, 0xff},
		"oversized": {0xff, 0xff, 0xff, 0x7f},
		"cut":       {100, 1},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				h := hello()
				h.AgentId, h.Token = "bystander", "other"
				bystander := b.agent(h)
				if m := bystander.bind("b.example.com"); m.GetBound() == nil {
					t.Fatalf("%v", m)
				}
				p := b.agent(hello())
				if m := p.bind("a.example.com"); m.GetBound().GetRequest() != 3 || m.GetBound().GetUrl() == "" {
					t.Fatalf("%v", m)
				}
				if _, err := p.ctl.Write(in); err != nil {
					t.Error(err)
				}
				_ = p.ctl.CloseWrite()
				<-p.link.Done()
				synctest.Wait()
				if b.serves("a.example.com") {
					t.Error("the name is still served")
				}
				bystander.alive()
				if !b.serves("b.example.com") {
					t.Error("the bystander lost its name")
				}
			})
		})
	}
}

func TestControlStream(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		p := b.agent(hello())
		p.alive()
		if _, err := p.ctl.Write([]byte{3, 0xfa, 0x06, 0x00}); err != nil { // field 111: of a later version
			t.Error(err)
		}
		p.alive()
		if m := p.bind("no host"); m.GetRefused().GetCode() != string(tunnel.CodeNameInvalid) || m.GetRefused().GetRequest() != 3 {
			t.Errorf("%v", m)
		}
		m := p.bind("a.example.com")
		p.send(&tunnel.Control{Message: &tunnel.Control_Unbind{Unbind: &tunnel.Unbind{EndpointId: "unknown"}}})
		p.alive()
		if !b.serves("a.example.com") {
			t.Error("an Unbind of something else took the name")
		}
		p.send(&tunnel.Control{Message: &tunnel.Control_Unbind{Unbind: &tunnel.Unbind{EndpointId: m.GetBound().GetEndpointId()}}})
		p.alive()
		if b.serves("a.example.com") {
			t.Error("served after its Unbind")
		}
		p.bind("a.example.com")
		p.bind("b.example.com")
		if m := p.bind("c.example.com"); m.GetRefused().GetCode() != string(tunnel.CodeTooManyEndpoints) {
			t.Errorf("%v", m)
		}
		p.send(&tunnel.Control{Message: &tunnel.Control_Drain{Drain: &tunnel.Drain{}}})
		p.alive() // its streams may go on
		if b.serves("a.example.com") || b.serves("b.example.com") {
			t.Error("a draining agent kept its names")
		}
	})
}

// TestTakeOver: a later run takes names over while the earlier one's link is still
// there, and the earlier one doesn't get them back.
func TestTakeOver(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		ghost := b.agent(hello())
		id := ghost.bind("a.example.com").GetBound().GetEndpointId()
		later := hello()
		later.Generation = 2
		heir := b.agent(later)
		if m := heir.bind("a.example.com"); m.GetBound() == nil || m.GetBound().GetEndpointId() == id {
			t.Fatalf("%v", m)
		}
		if m := ghost.read().GetUnbound(); m.GetEndpointId() != id || m.GetCode() != string(tunnel.CodeSuperseded) || m.GetMessage() == "" {
			t.Errorf("%v", m)
		}
		if m := ghost.bind("a.example.com").GetRefused(); m.GetCode() != string(tunnel.CodeSuperseded) || m.GetRetryable() {
			t.Errorf("%v", m)
		}
		again := b.agent(hello()) // the ghost's process dials once more
		if m := again.bind("a.example.com").GetRefused(); m.GetCode() != string(tunnel.CodeSuperseded) {
			t.Errorf("%v", m)
		}
		_ = ghost.link.Close()
		synctest.Wait()
		if !b.serves("a.example.com") {
			t.Error("the ghost's end took the name from its heir")
		}
	})
}

// TestSeats: the sessions of one run share its names, those in one seat take over from each
// other, and a later run takes all.
func TestSeats(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		sit := func(seat uint32, generation uint64) *peer {
			h := hello()
			h.Seat, h.Generation = seat, generation
			return b.agent(h)
		}
		superseded := func(p *peer) {
			t.Helper()
			if m := p.read().GetUnbound(); m.GetCode() != string(tunnel.CodeSuperseded) {
				t.Errorf("%v", m)
			}
		}
		peers := []*peer{sit(0, 1), sit(1, 1)}
		for _, p := range peers {
			if m := p.bind("a.example.com"); m.GetBound() == nil {
				t.Fatalf("%v", m)
			}
		}
		peers[0].alive() // nothing was taken from it
		heir := sit(1, 1)
		if m := heir.bind("a.example.com"); m.GetBound() == nil {
			t.Fatalf("%v", m)
		}
		superseded(peers[1])
		peers[0].alive()
		_ = heir.link.Close()
		synctest.Wait()
		if !b.serves("a.example.com") {
			t.Error("the end of one session took the name from the other")
		}
		if m := sit(5, 2).bind("a.example.com"); m.GetBound() == nil {
			t.Fatalf("%v", m)
		}
		superseded(peers[0])
	})
}

func TestRevoke(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		p := b.agent(hello())
		p.bind("a.example.com")
		h := hello()
		h.AgentId, h.Token = "bystander", "other"
		bystander := b.agent(h)
		b.mu.Lock()
		delete(b.tokens, "good")
		b.mu.Unlock()
		began := time.Now()
		b.control.Revoke("good")
		<-p.link.Done()
		if took := time.Since(began); took > time.Second {
			t.Errorf("ended after %v", took)
		}
		if m := bystander.bind("a.example.com"); m.GetBound() == nil {
			t.Errorf("the name is not free: %v", m)
		}
		if r := b.greet(b.conn(), hello()).GetRefusal(); r.GetCode() != string(tunnel.CodeTokenInvalid) {
			t.Errorf("%v", r)
		}
	})
}

func TestDrainIsTold(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		p := b.agent(hello())
		p.alive()
		b.control.Drain(t.Context(), "upkeep", 30*time.Second, true)
		if m := p.read().GetDrain(); m.GetReason() != "upkeep" || m.GetDeadlineMs() != 30_000 || !m.GetSuccessor() || len(m.GetAddresses()) != 1 {
			t.Errorf("%v", m)
		}
		r := b.greet(b.conn(), hello()).GetRefusal()
		if r.GetCode() != string(tunnel.CodeDraining) || !r.GetRetryable() || r.GetRetryAfterMs() == 0 {
			t.Errorf("%v", r)
		}
		p.alive()
	})
}

// TestPending: links that say nothing take no place from each other for ever, nor
// more than theirs.
func TestPending(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		for range 3 {
			b.conn()
		}
		synctest.Wait()
		if _, err := b.conn().Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("one too many: %v", err)
		}
		<-time.After(handshakeTimeout + time.Second)
		b.agent(hello()).alive()
	})
}

func TestBounds(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		for range 10 {
			b.agent(hello())
		}
		if r := b.greet(b.conn(), hello()).GetRefusal(); r.GetCode() != string(tunnel.CodeTooManySessions) || !r.GetRetryable() {
			t.Errorf("%v", r)
		}
	})
}

// TestBrokenRule: what the operator broke is not the agent's fault, and must not end it
// for good.
func TestBrokenRule(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.control.cfg.Authenticate = func(string) (auth.Grant, error) { return auth.Grant{}, errors.New("bad rule in tokens.json") }
		if r := b.greet(b.conn(), hello()).GetRefusal(); r.GetCode() != string(tunnel.CodeInternal) || !r.GetRetryable() || strings.Contains(r.GetMessage(), "tokens.json") {
			t.Errorf("%v", r)
		}
	})
}
