package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestPrefixes: parts of a host are endpoints of their own, of different agents.
func TestPrefixes(t *testing.T) {
	upstream := func(name string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, name, " ", r.RequestURI) }))
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	n := startServer(t, "--grace", "500ms")
	_, _ = n.publish("http", upstream("root"), "--url", "https://app.localhost")
	api, url := n.publish("http", upstream("api"), "--url", "https://app.localhost/api/")
	_, _ = n.publish("http", upstream("bare"), "--url", "https://app.localhost/api/bare", "--strip-prefix")
	host, ok := strings.CutSuffix(url, "/api")
	if !ok {
		t.Errorf("the URL of a prefix is %q", url)
	}
	get := func(path string) string { return n.curl("--path-as-is", host+path) }
	for path, want := range map[string]string{
		"/": "root /", "/apix?q=1": "root /apix?q=1", "/api": "api /api", "/api/a%2Fb?q=%zz": "api /api/a%2Fb?q=%zz", "/%61pi/x": "api /%61pi/x",
		"/api/bare": "bare /", "/api/bare/x%20y?q=1": "bare /x%20y?q=1", "/api/bare//evil.example": "bare /evil.example",
	} {
		for _, version := range []string{"--http1.1", "--http2"} {
			if got := n.curl("--path-as-is", version, host+path); got != want {
				t.Errorf("%s by %s: %q, want %q", path, version, got, want)
			}
		}
	}
	for _, path := range []string{"/api/../x", "/api/%2e%2e/x", "/api%2Fx", "//api/x"} {
		if got := get(path); !strings.Contains(got, "bad_request") {
			t.Errorf("%s: %q", path, got)
		}
	}
	if code := n.agent(t.TempDir(), "http", "1", "--url", "https://app.localhost/api").exit(); code != 4 {
		t.Errorf("another agent with the same prefix ended with %d", code)
	}
	if code := n.agent(t.TempDir(), "http", "1", "--url", "https://app.localhost/a/../b").exit(); code != 2 {
		t.Errorf("a prefix that is none: exit code %d", code)
	}
	api.kill()
	eventually(t, "the prefix to be offline", func() bool { return strings.Contains(get("/api/x"), "endpoint_offline") })
	if got := get("/x"); got != "root /x" {
		t.Errorf("beside a prefix that is offline: %q", got)
	}
}
