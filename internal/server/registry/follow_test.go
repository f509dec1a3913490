package registry

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/server/store/storetest"
)

// toNode is a Config.Peer whose streams fail with the node's id.
func toNode(node string) OpenFunc {
	return func(context.Context, string, endpoint.Visitor, []byte) (net.Conn, error) {
		return nil, errors.New(node)
	}
}

// TestOthersRoutes: what an agent binds at one node is found at another, with its spec, and
// goes with the node that has it.
func TestOthersRoutes(t *testing.T) {
	s := storetest.Embedded(t)
	one := join(t, s, Config{Peer: toNode, Grace: time.Minute})
	two := join(t, s, Config{Peer: toNode, Grace: time.Minute})
	spec := endpoint.Spec{Kind: endpoint.HTTP, Host: "app.alice.org", Path: "/api", StripPrefix: true, HostHeader: "x", ClientCA: clientCA(t)}
	name := endpoint.Name{Kind: endpoint.HTTP, Host: spec.Host, Path: spec.Path}
	owner := Owner{AgentID: uuid.NewString(), Generation: 1, SessionID: "s1"}
	bound, err := one.Bind(t.Context(), Request{Spec: spec, Owner: owner, Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "known at the other", func() bool { _, ok := two.Find(name); return ok })
	route, err := two.Lookup(t.Context(), to(name))
	if err != nil || route.ID != bound.ID || route.Spec != spec || route.Owner != owner {
		t.Fatalf("%+v, %v", route, err)
	}
	if pool, all := two.ClientCAs(spec.Host); pool == nil || !all || !pool.Equal(mustPool(one.ClientCAs(spec.Host))) || route.ClientCAs == nil {
		t.Error("visitors are not asked for a certificate at the other")
	}
	if _, err := route.Open(t.Context(), endpoint.Visitor{}, nil); err == nil || err.Error() != one.presence.Node() {
		t.Errorf("leads to %v", err)
	}
	if got, err := two.Resolve(spec.Host, "/api/x"); err != nil || got != name {
		t.Errorf("%v, %v", got, err)
	}
	if _, ok := two.Own(t.Context(), bound.ID); ok || two.Live() != 0 || one.Live() != 1 {
		t.Error("a second hop")
	}

	two.Unreachable(one.presence.Node())
	if _, ok := two.Find(name); ok {
		t.Error("a dead node's route")
	}
	waited := make(chan *Route, 1)
	go func() {
		r, _ := two.Lookup(t.Context(), to(name))
		waited <- r
	}()
	eventually(t, "a visitor waits", func() bool {
		two.mu.Lock()
		defer two.mu.Unlock()
		return two.mu.entries[name].waiting == 1
	})
	two.Reachable(one.presence.Node())
	if r := <-waited; r == nil || r == route || r.ID != bound.ID {
		t.Errorf("%+v", r)
	}

	// The agent comes in here: it is this node's now, and the other's visitors come here.
	owner.SessionID, owner.Generation = "s2", 2
	if _, err := two.Bind(t.Context(), Request{Spec: spec, Owner: owner, Token: "t"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other follows", func() bool { r, ok := one.Find(name); return ok && r.node == two.presence.Node() })
	if two.Live() != 1 || one.Live() != 0 {
		t.Errorf("%d here, %d there", two.Live(), one.Live())
	}
	two.Release(mustFind(t, two, name))
	eventually(t, "released everywhere", func() bool { _, ok := one.Find(name); return !ok })
}

// TestOwnSettles: other nodes hear of a claim before its route is entered here. Who comes for
// it meanwhile waits until it is, or is given up.
func TestOwnSettles(t *testing.T) {
	r := join(t, storetest.Embedded(t), Config{Grace: time.Minute})
	name := endpoint.Name{Kind: endpoint.HTTP, Host: "app.alice.org"}
	owner := Owner{AgentID: uuid.NewString(), Generation: 1, SessionID: "s1"}
	req := Request{Spec: endpoint.Spec{Kind: endpoint.HTTP, Host: name.Host}, Owner: owner, Token: "t"}
	claim := func() *Route {
		route, err := r.newRoute(req, []endpoint.Name{name})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.secure(t.Context(), req, route, route.names); err != nil {
			t.Fatal(err)
		}
		return route
	}
	enter := func(route *Route) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.enteredLocked(route)
	}
	for what, settle := range map[string]func(*Route){"entered": enter, "given up": r.abandon} {
		route := claim()
		short, cancel := context.WithCancel(t.Context())
		cancel()
		if _, ok := r.Own(short, route.ID); ok {
			t.Error("here before it is")
		}
		got := make(chan bool)
		go func() {
			own, ok := r.Own(t.Context(), route.ID)
			got <- ok && own == route
		}()
		select {
		case <-got:
			t.Error("nobody waited")
		case <-time.After(20 * time.Millisecond):
		}
		settle(route)
		if found := <-got; found != (what == "entered") {
			t.Errorf("%s: %v", what, found)
		}
		if _, ok := r.Own(t.Context(), route.ID); ok != (what == "entered") {
			t.Errorf("%s: %v afterwards", what, ok)
		}
		r.abandon(route)
	}
}

func mustPool(pool *x509.CertPool, _ bool) *x509.CertPool { return pool }

// clientCA is a certificate in PEM.
func clientCA(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// TestClientCAs: a host asks for a certificate while one of its endpoints does, its agent
// there or not, and lets nobody in without one when all do.
func TestClientCAs(t *testing.T) {
	r := New(Config{Domain: "localhost"})
	defer r.Close()
	owner := Owner{AgentID: "a", SessionID: "s"}
	bind := func(path, ca string) *Route {
		route, err := r.Bind(t.Context(), Request{Spec: endpoint.Spec{Kind: endpoint.HTTP, Host: "app.localhost", Path: path, ClientCA: ca}, Owner: owner})
		if err != nil {
			t.Fatal(err)
		}
		return route
	}
	expect := func(what string, asks, all bool) {
		t.Helper()
		if pool, everywhere := r.ClientCAs("app.localhost"); (pool != nil) != asks || (asks && everywhere != all) {
			t.Errorf("%s: asks %v, all %v", what, pool != nil, everywhere)
		}
	}
	expect("no endpoint", false, false)
	root := bind("", "")
	expect("one that asks for none", false, false)
	a, b := clientCA(t), clientCA(t)
	inner := bind("/a", a)
	expect("one of two", true, false)
	r.Lose(root, inner)
	expect("while the agent is away", true, false)
	owner.SessionID, owner.Generation = "s2", 2
	bind("", b)
	expect("both", true, true)
	if pool, _ := r.ClientCAs("app.localhost"); len(pool.Subjects()) != 2 { //nolint:staticcheck // no system's pool
		t.Error("not the CAs of both")
	}
	if _, err := r.Bind(t.Context(), Request{Spec: endpoint.Spec{Kind: endpoint.HTTP, Host: "b.localhost", ClientCA: "?"}, Owner: owner}); err == nil {
		t.Error("bound with a CA that can't be read")
	}
	if o := newOther("", store.Route{Name: "http://b.localhost", Spec: []byte(`{"Kind":"http","ClientCA":"?"}`)}); o.name.Kind != "" {
		t.Error("another node's endpoint is served whose CA can't be read")
	}
}

// TestSynced: a node that has just come knows all that others have as soon as it says so.
func TestSynced(t *testing.T) {
	s := storetest.Embedded(t)
	one := join(t, s, Config{Peer: toNode})
	var names []endpoint.Name
	for i := range 100 {
		names = append(names, bind(t, one.Registry, http(fmt.Sprint("n", i, ".example.com")), owner("a", 1)).Name)
	}
	two := join(t, s, Config{Peer: toNode})
	select {
	case <-two.Synced():
	case <-time.After(15 * time.Second):
		t.Fatal("not in time")
	}
	for _, name := range names {
		if _, err := two.Lookup(t.Context(), to(name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func mustFind(t *testing.T, n node, name endpoint.Name) *Route {
	t.Helper()
	r, ok := n.Find(name)
	if !ok {
		t.Fatalf("no %s", name)
	}
	return r
}

func TestParseName(t *testing.T) {
	for _, n := range []endpoint.Name{
		{Kind: endpoint.HTTP, Host: "a.b"},
		{Kind: endpoint.HTTP, Host: "a.b", Path: "/c/d"},
		{Kind: endpoint.HTTP, Host: "::1"},
		{Kind: endpoint.TLS, Host: "*.a"},
		{Kind: endpoint.TCP, Port: 1},
		{Kind: endpoint.UDP, Port: 65535},
	} {
		if got := parseName(n.String()); got != n {
			t.Errorf("%v: %v", n, got)
		}
	}
	for _, s := range []string{"", "http://", "tcp://", "tcp://:0", "tcp://:65536", "tcp://x:1", "ftp://a", "tcp://:01"} {
		if got := parseName(s); got != (endpoint.Name{}) {
			t.Errorf("%q: %v", s, got)
		}
	}
}

// BenchmarkBindSeen is the time from Bind at one node until another finds the name.
func BenchmarkBindSeen(b *testing.B) {
	s := storetest.Embedded(b)
	one := join(b, s, Config{Peer: toNode})
	two := join(b, s, Config{Peer: toNode})
	var took []time.Duration
	for b.Loop() {
		label := "n" + uuid.NewString()
		req := Request{Spec: endpoint.Spec{Kind: endpoint.HTTP, Label: label}, Owner: Owner{AgentID: "a", Generation: 1, SessionID: label}, Token: "t"}
		r, err := one.Bind(b.Context(), req)
		if err != nil {
			b.Fatal(err)
		}
		bound := time.Now()
		for {
			if _, ok := two.Find(r.Name); ok {
				break
			}
			runtime.Gosched()
		}
		took = append(took, time.Since(bound))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us/seen")
}
