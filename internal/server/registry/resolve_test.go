package registry

import (
	"errors"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

func below(path string) endpoint.Spec {
	return endpoint.Spec{Kind: endpoint.HTTP, Host: "app.example.com", Path: path, Name: "web"}
}

func TestResolve(t *testing.T) {
	r := New(Config{Domain: "example.com", Grace: time.Hour})
	defer r.Close()
	bind(t, r, below(""), owner("a", 1))
	bind(t, r, below("/api"), owner("b", 1))
	bind(t, r, below("/api/v2"), owner("c", 1))
	bind(t, r, endpoint.Spec{Kind: endpoint.HTTP, Host: "only.example.com", Path: "/api", Name: "web"}, owner("a", 1))
	const ambiguous = "ambiguous"
	for target, want := range map[string]string{
		"/": "", "/x": "", "/ap": "", "/apix": "", "/api.html": "", "/API": "", "*": "", "": "", "/x/api": "", "/x?/api": "",
		"/api": "/api", "/api?x": "/api", "/api/": "/api", "/api/x": "/api", "/api/v": "/api", "/api/v22": "/api", "/%61pi/x": "/api",
		"/api/x/./y": "/api", "/api/x/../y": "/api", "/api//x": "/api", "/api/%2e": "/api", "/api/x%2Fy": "/api", "/api/x;a=b": "/api",
		"/api/v2": "/api/v2", "/api/v2/x": "/api/v2", "/api/v2/../v2/x": "/api/v2",
		// What one server takes for one name's and another for another's is nobody's.
		"/api/..": ambiguous, "/api/../x": ambiguous, "/api/%2e%2e/x": ambiguous, "/api/.%2E/x": ambiguous, "/api/%252e%252e/x": ambiguous,
		"/api%2Fx": ambiguous, "/api%5Cx": ambiguous, "/api\\x": ambiguous, "/api/..%2fx": ambiguous, "/api/..;/x": ambiguous, "/api;x/y": ambiguous,
		"//api": ambiguous, "//api/x": ambiguous, "/./api": ambiguous, "/x/../api": ambiguous, "/x/%2e%2e/api": ambiguous,
		"/api//v2": ambiguous, "/api/v2/..": ambiguous, "/api/v2/%2e%2e/x": ambiguous, "/api/./v2": ambiguous,
	} {
		name, err := r.Resolve("app.example.com", target)
		got := name.Path
		if errors.Is(err, ErrAmbiguous) {
			got = ambiguous
		}
		if got != want {
			t.Errorf("%q goes to %q, want %q", target, got, want)
		}
	}
	for target, want := range map[string]error{"/api/x": nil, "/x": ErrNotFound, "/api/../x": ErrAmbiguous} {
		name, err := r.Resolve("only.example.com", target)
		if err == nil {
			_, err = r.Lookup(t.Context(), to(name))
		}
		if !errors.Is(err, want) {
			t.Errorf("%q of a host with one prefix: %v, want %v", target, err, want)
		}
	}
	if name, err := r.Resolve("plain.example.com", "/api/../x"); err != nil || name.Path != "" {
		t.Errorf("a host without prefixes: %v, %v", name, err)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = r.Resolve("app.example.com", "/api/v2/x?y=%20") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestPrefixOwnership: each prefix is a name of its own.
func TestPrefixOwnership(t *testing.T) {
	r := New(Config{Domain: "example.com", Grace: time.Hour, Remember: 1})
	defer r.Close()
	bind(t, r, below(""), owner("a", 1))
	api := bind(t, r, below("/api"), owner("b", 1))
	if _, err := r.Bind(t.Context(), Request{Spec: below("/api"), Owner: owner("a", 1)}); code(err) != tunnel.CodeNameTaken {
		t.Errorf("the prefix of another agent: %v", err)
	}
	if _, err := r.Bind(t.Context(), Request{Spec: endpoint.Spec{Kind: endpoint.TLS, Host: "app.example.com"}, Owner: owner("c", 1)}); code(err) != tunnel.CodeNameTaken {
		t.Errorf("the host as tls: %v", err)
	}
	next := bind(t, r, below("/api"), owner("b", 2))
	if next == api {
		t.Error("a newer run did not take its prefix over")
	}
	r.Lose(next)
	r.expire(next.Name, next)
	name, err := r.Resolve("app.example.com", "/api/x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Lookup(t.Context(), to(name)); !errors.Is(err, ErrOffline) {
		t.Errorf("a prefix whose agent is gone: %v", err)
	}
	other := bind(t, r, below("/other"), owner("b", 2))
	r.Lose(other)
	r.expire(other.Name, other) // of which there is one too many to remember
	if name, err := r.Resolve("app.example.com", "/api/x"); err != nil || name.Path != "" {
		t.Errorf("a prefix that is forgotten goes to %v, %v", name, err)
	}
	if n := len(r.mu.paths["app.example.com"]); n != 1 {
		t.Errorf("%d prefixes are counted", n)
	}
}
