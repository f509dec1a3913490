package registry

import (
	"context"
	"errors"
	"io"
	"strings"
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

func code(err error) tunnel.Code {
	if b, ok := errors.AsType[*tunnel.BindError](err); ok {
		return b.Code
	}
	return ""
}

func bind(t *testing.T, r *Registry, s endpoint.Spec, o Owner) *Route {
	t.Helper()
	route, err := r.Bind(Request{Spec: s, Owner: o})
	if err != nil {
		t.Fatal(err)
	}
	return route
}

func TestOwnership(t *testing.T) {
	r := New(Config{Domain: "example.com", Grace: time.Hour})
	defer r.Close()
	var lost *Route
	first, err := r.Bind(Request{Spec: http("a.example.com"), Owner: owner("a", 1), Lost: func(route *Route, why *tunnel.BindError) {
		if why.Code == tunnel.CodeSuperseded {
			lost = route
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Bind(Request{Spec: http("a.example.com"), Owner: owner("b", 9)}); code(err) != tunnel.CodeNameTaken {
		t.Errorf("another agent: %v", err)
	}
	if _, err := r.Bind(Request{Spec: endpoint.Spec{Kind: endpoint.TLS, Host: "a.example.com"}, Owner: owner("a", 1)}); code(err) != tunnel.CodeNameTaken {
		t.Errorf("the same host as tls: %v", err)
	}
	if _, err := r.Bind(Request{Spec: http("example.com"), Owner: owner("a", 1)}); code(err) != tunnel.CodeNameReserved {
		t.Errorf("the server's own name: %v", err)
	}
	second := bind(t, r, http("a.example.com"), owner("a", 2))
	if lost != first {
		t.Error("the older run was not told")
	}
	if _, err := r.Bind(Request{Spec: http("a.example.com"), Owner: owner("a", 1)}); code(err) != tunnel.CodeSuperseded {
		t.Errorf("the older run again: %v", err)
	}
	r.Lose(first) // late news of the ghost must not touch its heir
	if route, ok := r.Find(second.Name); !ok || route != second {
		t.Error("the ghost took the name with it")
	}
	r.Lose(second)
	if _, err := r.Bind(Request{Spec: http("a.example.com"), Owner: owner("b", 1)}); code(err) != tunnel.CodeNameTaken {
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
		if _, err := r.Lookup(t.Context(), name); !errors.Is(err, ErrNotFound) {
			t.Errorf("unknown name: %v", err)
		}
		r.Lose(bind(t, r, http("a.example.com"), owner("a", 1)))
		found := make(chan *Route, 1)
		go func() {
			route, _ := r.Lookup(t.Context(), name)
			found <- route
		}()
		synctest.Wait()
		back := bind(t, r, http("a.example.com"), owner("a", 2))
		if route := <-found; route != back {
			t.Error("who waited did not get the new route")
		}
		r.Lose(back)
		began := time.Now()
		if _, err := r.Lookup(t.Context(), name); !errors.Is(err, ErrOffline) || time.Since(began) != DefaultGrace {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		began = time.Now()
		if _, err := r.Lookup(t.Context(), name); !errors.Is(err, ErrOffline) || time.Since(began) != 0 {
			t.Errorf("after the grace time, after %v: %v", time.Since(began), err)
		}
		bind(t, r, http("a.example.com"), owner("b", 1)) // free for others now
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		route, _ := r.Find(name)
		if _, err := r.lookup(ctx, name, route); !errors.Is(err, context.DeadlineExceeded) {
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
		go func() { _, _ = r.Lookup(t.Context(), name) }()
		synctest.Wait()
		if _, err := r.Lookup(t.Context(), name); !errors.Is(err, ErrOffline) {
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
	r := New(Config{Domain: "example.com", Grace: time.Hour, TCPPorts: PortRange{First: 1000, Last: 1002}, Listen: func(port uint16) (io.Closer, error) {
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
		if _, err := r.Bind(Request{Spec: s, Owner: owner("b", 1)}); code(err) != want {
			t.Errorf("want %s, got %v", want, err)
		}
	}
	none := func(endpoint.Name) bool { return false }
	if _, err := r.Bind(Request{Spec: tcp("z", 0), Owner: owner("b", 1), Allow: none}); code(err) != tunnel.CodeNotAllowed {
		t.Errorf("a token without ports: %v", err)
	}
	if err := r.Close(); err != nil || !closed[1000] || !closed[1002] {
		t.Errorf("closed %v: %v", closed, err)
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

func BenchmarkFind(b *testing.B) {
	r := New(Config{Domain: "example.com"})
	defer r.Close()
	route, err := r.Bind(Request{Spec: http("a.example.com"), Owner: owner("a", 1)})
	if err != nil {
		b.Fatal(err)
	}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := r.Lookup(context.Background(), route.Name); err != nil {
				b.Fatal(err)
			}
		}
	})
}
