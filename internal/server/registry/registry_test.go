package registry

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

func owner(agent string, generation uint64) Owner {
	return Owner{AgentID: agent, Generation: generation, SessionID: agent + string(rune('0'+generation))}
}

func http(host string) endpoint.Spec {
	return endpoint.Spec{Kind: endpoint.HTTP, Host: host, Name: "web"}
}

// to is a visitor of a name.
func to(name endpoint.Name) *endpoint.Visitor { return &endpoint.Visitor{Name: name} }

func code(err error) tunnel.Code {
	if b, ok := errors.AsType[*tunnel.BindError](err); ok {
		return b.Code
	}
	return ""
}

func bind(t *testing.T, r *Registry, s endpoint.Spec, o Owner) *Route {
	t.Helper()
	route, err := r.Bind(t.Context(), Request{Spec: s, Owner: o})
	if err != nil {
		t.Fatal(err)
	}
	return route
}

func TestOwnership(t *testing.T) {
	r := New(Config{Domain: "example.com", Grace: time.Hour})
	defer r.Close()
	var lost *Route
	first, err := r.Bind(t.Context(), Request{Spec: http("a.example.com"), Owner: owner("a", 1), Lost: func(route *Route, why *tunnel.BindError) {
		if why.Code == tunnel.CodeSuperseded {
			lost = route
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Bind(t.Context(), Request{Spec: http("a.example.com"), Owner: owner("b", 9)}); code(err) != tunnel.CodeNameTaken {
		t.Errorf("another agent: %v", err)
	}
	if _, err := r.Bind(t.Context(), Request{Spec: endpoint.Spec{Kind: endpoint.TLS, Host: "a.example.com"}, Owner: owner("a", 1)}); code(err) != tunnel.CodeNameTaken {
		t.Errorf("the same host as tls: %v", err)
	}
	if _, err := r.Bind(t.Context(), Request{Spec: http("example.com"), Owner: owner("a", 1)}); code(err) != tunnel.CodeNameReserved {
		t.Errorf("the server's own name: %v", err)
	}
	second := bind(t, r, http("a.example.com"), owner("a", 2))
	if lost != first {
		t.Error("the older run was not told")
	}
	if _, err := r.Bind(t.Context(), Request{Spec: http("a.example.com"), Owner: owner("a", 1)}); code(err) != tunnel.CodeSuperseded {
		t.Errorf("the older run again: %v", err)
	}
	r.Lose(first) // late news of the ghost must not touch its heir
	if route, ok := r.Find(second.Name); !ok || route != second {
		t.Error("the ghost took the name with it")
	}
	r.Lose(second)
	if _, err := r.Bind(t.Context(), Request{Spec: http("a.example.com"), Owner: owner("b", 1)}); code(err) != tunnel.CodeNameTaken {
		t.Errorf("another agent in the grace time: %v", err)
	}
	third := bind(t, r, http("a.example.com"), owner("a", 2))
	r.Release(third)
	bind(t, r, http("a.example.com"), owner("b", 1))
}

func TestVisitorsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{Domain: "example.com"})
		defer r.Close()
		name := endpoint.Name{Kind: endpoint.HTTP, Host: "a.example.com"}
		if _, err := r.Lookup(t.Context(), to(name)); !errors.Is(err, ErrNotFound) {
			t.Errorf("unknown name: %v", err)
		}
		r.Lose(bind(t, r, http("a.example.com"), owner("a", 1)))
		found := make(chan *Route, 1)
		go func() {
			route, _ := r.Lookup(t.Context(), to(name))
			found <- route
		}()
		synctest.Wait()
		back := bind(t, r, http("a.example.com"), owner("a", 2))
		if route := <-found; route != back {
			t.Error("who waited did not get the new route")
		}
		r.Lose(back)
		began := time.Now()
		if _, err := r.Lookup(t.Context(), to(name)); !errors.Is(err, ErrOffline) || time.Since(began) != DefaultGrace {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		began = time.Now()
		if _, err := r.Lookup(t.Context(), to(name)); !errors.Is(err, ErrOffline) || time.Since(began) != 0 {
			t.Errorf("after the grace time, after %v: %v", time.Since(began), err)
		}
		bind(t, r, http("a.example.com"), owner("b", 1)) // free for others now
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		route, _ := r.Find(name)
		if _, err := r.lookup(ctx, to(name), []*Route{route}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for another route: %v", err)
		}
	})
}

func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{Domain: "example.com", Remember: 2, MaxWaiting: 1})
		defer r.Close()
		for _, host := range []string{"a.example.com", "b.example.com", "c.example.com"} {
			r.Lose(bind(t, r, http(host), owner("a", 1)))
		}
		name := endpoint.Name{Kind: endpoint.HTTP, Host: "a.example.com"}
		go func() { _, _ = r.Lookup(t.Context(), to(name)) }()
		synctest.Wait()
		if _, err := r.Lookup(t.Context(), to(name)); !errors.Is(err, ErrOffline) {
			t.Errorf("one visitor too many: %v", err)
		}
		<-time.After(DefaultGrace + time.Second) // of the bubble's clock
		synctest.Wait()
		if n := len(r.mu.entries); n != 2 {
			t.Errorf("%d names are remembered", n)
		}
	})
}

func TestPorts(t *testing.T) {
	closed := make(map[uint16]bool)
	r := New(Config{Domain: "example.com", Grace: time.Hour, TCPPorts: PortRange{First: 1000, Last: 1002}, Listen: func(name endpoint.Name) (io.Closer, error) {
		port := name.Port
		if port == 1001 {
			return nil, syscall.EADDRINUSE // by another program
		}
		return closer(func() { closed[port] = true }), nil
	}})
	tcp := func(name string, port uint16) endpoint.Spec {
		return endpoint.Spec{Kind: endpoint.TCP, Name: name, Port: port}
	}
	a, b := bind(t, r, tcp("x", 0), owner("a", 1)), bind(t, r, tcp("y", 0), owner("a", 1))
	if a.Name.Port == b.Name.Port || a.Name.Port == 1001 || b.Name.Port == 1001 {
		t.Errorf("ports %d and %d", a.Name.Port, b.Name.Port)
	}
	for want, s := range map[tunnel.Code]endpoint.Spec{
		tunnel.CodePortsExhausted: tcp("z", 0), tunnel.CodePortOutsideRange: tcp("z", 999), tunnel.CodePortTaken: tcp("z", 1001),
	} {
		if _, err := r.Bind(t.Context(), Request{Spec: s, Owner: owner("b", 1)}); code(err) != want {
			t.Errorf("want %s, got %v", want, err)
		}
	}
	none := func(endpoint.Name) bool { return false }
	if _, err := r.Bind(t.Context(), Request{Spec: tcp("z", 0), Owner: owner("b", 1), Allow: none}); code(err) != tunnel.CodeNotAllowed {
		t.Errorf("a token without ports: %v", err)
	}
	if err := r.Close(); err != nil || !closed[1000] || !closed[1002] {
		t.Errorf("closed %v: %v", closed, err)
	}
}

// TestSeveralPorts: an endpoint has all of its ports or none.
func TestSeveralPorts(t *testing.T) {
	open := make(map[endpoint.Name]bool)
	busy := uint16(1005)
	r := New(Config{Grace: time.Hour, TCPPorts: PortRange{First: 1000, Last: 1009}, UDPPorts: PortRange{First: 1000, Last: 1003}, Listen: func(name endpoint.Name) (io.Closer, error) {
		if name.Port == busy {
			return nil, syscall.EADDRINUSE // by another program
		}
		open[name] = true
		return closer(func() { delete(open, name) }), nil
	}})
	ports := func(kind endpoint.Kind, first uint16, n int) endpoint.Spec {
		return endpoint.Spec{Kind: kind, Name: "r", Port: first, Ports: n}
	}
	if _, err := r.Bind(t.Context(), Request{Spec: ports(endpoint.TCP, 1003, 4), Owner: owner("a", 1)}); code(err) != tunnel.CodePortTaken || len(open) != 0 {
		t.Errorf("over a port in use: %v, with %v open", err, open)
	}
	for _, s := range []endpoint.Spec{ports(endpoint.TCP, 1008, 3), ports(endpoint.UDP, 0, 5)} {
		if _, err := r.Bind(t.Context(), Request{Spec: s, Owner: owner("a", 1)}); code(err) != tunnel.CodePortOutsideRange {
			t.Errorf("%+v: %v", s, err)
		}
	}
	any := bind(t, r, ports(endpoint.TCP, 0, 4), owner("a", 1))
	if len(open) != 4 || any.Spec.Port != any.Name.Port || any.Name.Port > 1006 {
		t.Errorf("%d open, from %d on", len(open), any.Name.Port)
	}
	for _, name := range any.names {
		if route, ok := r.Find(name); !ok || route != any {
			t.Errorf("%s leads to %v", name, route)
		}
	}
	if _, err := r.Bind(t.Context(), Request{Spec: ports(endpoint.TCP, any.Name.Port+1, 1), Owner: owner("b", 1)}); code(err) != tunnel.CodePortTaken {
		t.Errorf("a port of another's range: %v", err)
	}
	// A newer run with fewer ports takes over those, and the others are free.
	var lost []*Route
	any.lost = func(r *Route, _ *tunnel.BindError) { lost = append(lost, r) }
	less := bind(t, r, ports(endpoint.TCP, any.Name.Port, 2), owner("a", 2))
	if len(lost) != 1 || lost[0] != any {
		t.Errorf("lost: %v", lost)
	}
	if _, ok := r.Find(any.names[3]); ok {
		t.Error("a port without route is found")
	}
	bind(t, r, ports(endpoint.TCP, any.Name.Port+2, 2), owner("b", 1))
	bind(t, r, ports(endpoint.UDP, 1000, 4), owner("b", 1))
	if len(open) != 8 {
		t.Errorf("%d are open", len(open))
	}
	r.Release(less)
	if err := r.Close(); err != nil || len(open) != 0 {
		t.Errorf("left open: %v, %v", open, err)
	}
}

// TestPassthrough: exact beats wildcard, and a wildcard takes nothing that others have.
func TestPassthrough(t *testing.T) {
	r := New(Config{Domain: "tunnel.example.com"})
	defer r.Close()
	tls := func(host string) endpoint.Spec { return endpoint.Spec{Kind: endpoint.TLS, Host: host} }
	bind(t, r, tls("*.example.com"), owner("wide", 1))
	bind(t, r, tls("exact.example.com"), owner("b", 1))
	bind(t, r, http("web.example.com"), owner("b", 1))
	deep := bind(t, r, tls("*.db.example.com"), owner("b", 1))
	for host, want := range map[string]string{
		"any.example.com": "*.example.com", "exact.example.com": "exact.example.com", "a.db.example.com": "*.db.example.com",
		"db.example.com": "*.example.com", "web.example.com": "", "tunnel.example.com": "", "a.b.db.example.com": "", "example.com": "", "": "", "com": "",
	} {
		name, ok := r.Passthrough(host)
		if ok != (want != "") || ok && name.Host != want {
			t.Errorf("%q leads to %s (%v), want %q", host, name, ok, want)
		}
	}
	for want, host := range map[tunnel.Code]string{tunnel.CodeNameTaken: "*.db.example.com", tunnel.CodeNameReserved: "*.tunnel.example.com"} {
		if _, err := r.Bind(t.Context(), Request{Spec: tls(host), Owner: owner("c", 1)}); code(err) != want {
			t.Errorf("%s: %v, want %s", host, err, want)
		}
	}
	var lost *Route
	deep.lost = func(r *Route, _ *tunnel.BindError) { lost = r }
	if bind(t, r, tls("*.db.example.com"), owner("b", 2)); lost != deep {
		t.Error("a newer run did not take the wildcard over")
	}
}

// TestGateStays: visitors who are in by an endpoint's limits count on when its agent
// comes again, and not for anybody else.
func TestGateStays(t *testing.T) {
	r := New(Config{Domain: "example.com"})
	defer r.Close()
	limited := func(n uint32) endpoint.Spec {
		return endpoint.Spec{Kind: endpoint.TLS, Host: "a.example.com", Limits: endpoint.Limits{Connections: n}}
	}
	first := bind(t, r, limited(1), owner("a", 1))
	if again := bind(t, r, limited(1), owner("a", 2)); again.Gate != first.Gate || again.Gate == nil {
		t.Error("the gate was lost")
	}
	if other := bind(t, r, limited(2), owner("a", 3)); other.Gate == first.Gate {
		t.Error("the gate stayed though the limits changed")
	}
}

type closer func()

func (c closer) Close() error {
	c()
	return nil
}

func TestRandomNames(t *testing.T) {
	get := func(agent, name string) string {
		r := New(Config{Domain: "example.com"})
		defer r.Close()
		return bind(t, r, endpoint.Spec{Kind: endpoint.HTTP, Name: name}, owner(agent, 1)).Name.Host
	}
	same, again := get("a", "web"), get("a", "web")
	if same != again || same == get("b", "web") || same == get("a", "api") || !strings.HasSuffix(same, ".example.com") {
		t.Errorf("%s, then %s", same, again)
	}
	r := New(Config{Domain: "example.com"})
	defer r.Close()
	bind(t, r, http(same), owner("squatter", 1))
	if other := bind(t, r, endpoint.Spec{Kind: endpoint.HTTP, Name: "web"}, owner("a", 1)).Name.Host; other == same {
		t.Error("a taken random name was given")
	}
}

// BenchmarkLookup looks names up among a million, as they come out of requests, while a
// thousand others a second come and go. It reports lookups per second of one core. Visitors
// ask for some names much more often than for others (Zipf); if for each as often, no cache
// helps.
func BenchmarkLookup(b *testing.B) {
	r := New(Config{Domain: "example.com"})
	defer r.Close()
	const names = 1 << 20
	for i := range names {
		if _, err := r.Bind(b.Context(), Request{Spec: http(strconv.Itoa(i) + ".example.com"), Owner: owner("a", 1)}); err != nil {
			b.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for n := range 1 << 30 {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			host := "churn-" + strconv.Itoa(n%1000) + ".example.com"
			if route, err := r.Bind(ctx, Request{Spec: http(host), Owner: owner("b", uint64(n))}); err == nil { //nolint:gosec // no overflow
				r.Release(route)
			}
		}
	}()
	drawn := make([]uint32, 1<<20) // in advance, as drawing costs more than a lookup
	measure := func(distribution string, draw func() uint64) {
		for i := range drawn {
			drawn[i] = uint32(draw()) //nolint:gosec // fewer
		}
		var start atomic.Uint32
		b.Run(distribution, func(b *testing.B) {
			ctx, before := b.Context(), cpuTime(b)
			b.RunParallel(func(pb *testing.PB) {
				v := endpoint.Visitor{Name: endpoint.Name{Kind: endpoint.HTTP}}
				var host []byte
				for i := start.Add(1 << 18); pb.Next(); i++ {
					host = append(strconv.AppendUint(host[:0], uint64(drawn[i%uint32(len(drawn))]), 10), ".example.com"...) //nolint:gosec // a million
					v.Name.Host = string(host)
					if _, err := r.Lookup(ctx, &v); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/(cpuTime(b)-before), "lookups/cpu-s")
		})
	}
	seeded := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // to be repeated
	measure("each name as often", func() uint64 { return seeded.Uint64N(names) })
	measure("Zipf 1.1", rand.NewZipf(seeded, 1.1, 1, names-1).Uint64)
}

// cpuTime is what the process has used, in seconds: what others do on the machine does not
// count, collecting garbage and the names that come and go do.
func cpuTime(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
