package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/server/session"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// echoAgent connects an agent to a session that answers each stream with the visitor's
// address and then with what it says.
func echoAgent(tb testing.TB) *session.Session {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(tb, err)
	defer l.Close()
	theirs, err := net.Dial("tcp", l.Addr().String())
	check(tb, err)
	ours, err := l.Accept()
	check(tb, err)
	node, agent := link.Server(ours, link.Config{}), link.Client(theirs, link.Config{})
	var tasks sync.WaitGroup
	tasks.Go(func() { _ = node.Run(tb.Context()) })
	tasks.Go(func() { _ = agent.Run(tb.Context()) })
	tasks.Go(func() {
		for {
			st, err := agent.Accept(tb.Context())
			if err != nil {
				return
			}
			tasks.Go(func() {
				var h tunnel.StreamHeader
				if tunnel.Read(st, &h, tunnel.MaxHeader) != nil {
					return
				}
				if h.GetEndpointId() == "refusing" {
					_ = tunnel.Write(st, &tunnel.StreamReply{Code: string(tunnel.CodeUpstreamRefused), Message: "no"}, tunnel.MaxHeader)
					_ = st.Close()
					return
				}
				_ = tunnel.Write(st, &tunnel.StreamReply{Alpn: "h2"}, tunnel.MaxHeader)
				_, _ = io.WriteString(st, h.GetVisitor()+"\n")
				_, _ = io.Copy(st, st)
				_ = st.Close()
			})
		}
	})
	s := &session.Session{ID: "s"}
	s.Add(node)
	tb.Cleanup(func() {
		_ = node.Close()
		_ = agent.Close()
		tasks.Wait()
	})
	return s
}

// cluster is two nodes: entry sends visitors to owner.
type cluster struct {
	entry, owner *Peers
	port         net.Listener
	stop         func() // ends the owner
	lost, back   chan string
}

func newCluster(tb testing.TB, s *session.Session) *cluster {
	tb.Helper()
	authority, err := NewAuthority()
	check(tb, err)
	c := &cluster{lost: make(chan string, 10), back: make(chan string, 10)}
	c.port, err = net.Listen("tcp", "127.0.0.1:0")
	check(tb, err)
	reg := registry.New(registry.Config{Domain: "example.com"})
	tb.Cleanup(func() { _ = reg.Close() })
	routes := make(map[string]*registry.Route)
	for id, host := range map[string]string{"echo": "echo.example.com", "refusing": "no.example.com"} {
		open := func(ctx context.Context, _ string, v endpoint.Visitor, first []byte) (net.Conn, error) {
			return s.Open(ctx, id, v, first)
		}
		r, err := reg.Bind(tb.Context(), registry.Request{Spec: endpoint.Spec{Kind: endpoint.HTTP, Host: host}, Owner: registry.Owner{AgentID: "a", SessionID: "s"}, Open: open})
		check(tb, err)
		routes[id] = r
	}
	own := func(_ context.Context, id string) (*registry.Route, bool) { r, ok := routes[id]; return r, ok }
	none := func(context.Context, string) (*registry.Route, bool) { return nil, false }
	address := func(node string) (string, bool) { return c.port.Addr().String(), node == "owner" }
	c.owner, err = New(Config{Node: "owner", Authority: authority, Own: own, Address: address, Logger: quiet})
	check(tb, err)
	c.entry, err = New(Config{
		Node: "entry", Authority: authority, Own: none, Address: address, Logger: quiet,
		Lost: func(n string) { c.lost <- n }, Back: func(n string) { c.back <- n },
	})
	check(tb, err)
	run := func(p *Peers, l net.Listener) func() {
		ctx, cancel := context.WithCancel(tb.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = p.Run(ctx, l)
		}()
		stop := sync.OnceFunc(func() {
			cancel()
			<-done
		})
		tb.Cleanup(stop)
		return stop
	}
	c.stop = run(c.owner, c.port)
	run(c.entry, nil)
	return c
}

var someone = endpoint.Visitor{ID: "v", Remote: netip.MustParseAddrPort("192.0.2.7:4711")}

func TestHop(t *testing.T) {
	c := newCluster(t, echoAgent(t))
	to := c.entry.To("owner")
	st, err := to(t.Context(), "echo", someone, []byte("first,"))
	check(t, err)
	_, err = io.WriteString(st, "second")
	check(t, err)
	check(t, st.(interface{ CloseWrite() error }).CloseWrite())
	if alpn, err := st.(registry.Negotiated).ALPN(); err != nil || alpn != "h2" {
		t.Errorf("%q, %v", alpn, err)
	}
	if b, err := io.ReadAll(st); err != nil || string(b) != "192.0.2.7:4711\nfirst,second" {
		t.Errorf("%q, %v", b, err)
	}
	check(t, st.Close())

	st, err = to(t.Context(), "refusing", someone, nil)
	check(t, err)
	_, err = st.Read(make([]byte, 1))
	if e, ok := errors.AsType[*tunnel.StreamError](err); !ok || e.Code != tunnel.CodeUpstreamRefused {
		t.Errorf("a refusing upstream: %v", err)
	}
	check(t, st.Close())

	st, err = to(t.Context(), "elsewhere", someone, nil)
	check(t, err)
	if _, err = st.Read(make([]byte, 1)); !errors.Is(err, registry.ErrSessionGone) {
		t.Errorf("an endpoint that is not there: %v", err)
	}
	check(t, st.Close())
	check(t, c.owner.Shutdown(t.Context()))
}

// TestLostAndBack: a node that is gone is told of at once, and again when it returns.
func TestLostAndBack(t *testing.T) {
	c := newCluster(t, echoAgent(t))
	to := c.entry.To("owner")
	st, err := to(t.Context(), "echo", someone, nil)
	check(t, err)
	check(t, st.Close())
	address := c.port.Addr().String()
	c.stop()
	if n := <-c.lost; n != "owner" {
		t.Errorf("lost %q", n)
	}
	if _, err := to(t.Context(), "echo", someone, nil); !errors.Is(err, registry.ErrSessionGone) {
		t.Errorf("a node that is gone: %v", err)
	}
	l, err := net.Listen("tcp", address)
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.owner.Run(ctx, l)
	}()
	defer func() {
		cancel()
		<-done
	}()
	if n := <-c.back; n != "owner" {
		t.Errorf("back %q", n)
	}
	st, err = to(t.Context(), "echo", someone, nil)
	check(t, err)
	check(t, st.Close())
	// Nobody dials what is not in the cluster more than once.
	if _, err := c.entry.To("nobody")(t.Context(), "echo", someone, nil); !errors.Is(err, registry.ErrSessionGone) {
		t.Errorf("no such node: %v", err)
	}
}

// TestStrangers: each side refuses who has no certificate of the cluster's, and one that
// is another node's.
func TestStrangers(t *testing.T) {
	c := newCluster(t, echoAgent(t))
	foreign, err := NewAuthority()
	check(t, err)
	own := c.entry.self
	stranger, err := newIdentity("entry", foreign, "")
	check(t, err)
	stranger.roots = own.roots // so that it is the other side that says no
	wrong := own.dials("another", ALPN)
	none := own.dials("owner", ALPN)
	none.GetClientCertificate = nil
	for what, cfg := range map[string]*tls.Config{"foreign": stranger.dials("owner", ALPN), "another node": wrong, "none": none} {
		conn, err := link.DialPeer(t.Context(), c.port.Addr().String(), cfg)
		if err != nil {
			continue // TLS 1.3 lets a client learn of it only when it reads
		}
		check(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", what, err)
		}
		check(t, conn.Close())
	}
	if _, err := newIdentity("x", store.Authority{}, ""); err == nil {
		t.Error("no CA")
	}
}

// BenchmarkHop is a visitor's round trip to an agent who is here, and to one at another
// node, by turns: ns/here and ns/peer are the medians, and x/hop is their ratio.
func BenchmarkHop(b *testing.B) {
	s := echoAgent(b)
	c := newCluster(b, s)
	ways := [2]registry.OpenFunc{s.Open, c.entry.To("owner")}
	greeting := make([]byte, len("192.0.2.7:4711\n"))
	b.Run("message", func(b *testing.B) {
		var streams [2]net.Conn
		for i, open := range ways {
			st, err := open(b.Context(), "echo", someone, nil)
			check(b, err)
			_, err = io.ReadFull(st, greeting)
			check(b, err)
			streams[i] = st
		}
		byTurns(b, func(way int) {
			_, err := streams[way].Write([]byte("x"))
			check(b, err)
			_, err = io.ReadFull(streams[way], greeting[:1])
			check(b, err)
		})
		for _, st := range streams {
			check(b, st.Close())
		}
	})
	b.Run("visit", func(b *testing.B) {
		byTurns(b, func(way int) {
			st, err := ways[way](b.Context(), "echo", someone, nil)
			check(b, err)
			_, err = io.ReadFull(st, greeting[:1])
			check(b, err)
			check(b, st.(interface{ Reset() error }).Reset())
		})
	})
}

func byTurns(b *testing.B, do func(way int)) {
	var took [2][]time.Duration
	for b.Loop() {
		for way := range took {
			began := time.Now()
			do(way)
			took[way] = append(took[way], time.Since(began))
		}
	}
	var median [2]float64
	for way := range took {
		slices.Sort(took[way])
		median[way] = float64(took[way][len(took[way])/2])
	}
	b.ReportMetric(median[0], "ns/here")
	b.ReportMetric(median[1], "ns/peer")
	b.ReportMetric(median[1]/median[0], "x/hop")
}
