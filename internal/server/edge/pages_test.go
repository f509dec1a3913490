package edge

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

func pagesIn(t *testing.T, files map[string]string) (*Pages, error) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	return LoadPages(dir)
}

// TestPages: the operator's page for a code goes before that for its status, and this
// before the one for all; what visitors wrote is escaped, and who wants no page gets none.
func TestPages(t *testing.T) {
	p, err := pagesIn(t, map[string]string{
		"upstream_refused.html": "code {{.Code}} {{.Host}} {{.RequestID}}", "502.html": "status {{.Status}}", "default.html": "rest {{.Title}}",
	})
	check(t, err)
	for _, c := range []struct {
		pages  *Pages
		code   tunnel.Code
		accept string
		want   string
	}{
		{p, tunnel.CodeUpstreamRefused, "text/html", "code upstream_refused &lt;b&gt; id"},
		{p, tunnel.CodeUpstreamTLS, "text/html", "status 502"},
		{p, tunnel.CodeEndpointOffline, "text/html", "rest The agent behind this address is offline"},
		{p, tunnel.CodeEndpointOffline, "application/json", `"request_id":"id"`},
		{p, tunnel.CodeEndpointOffline, "*/*", "(endpoint_offline, request id)"},
		{nil, tunnel.CodeEndpointOffline, "text/html", "<dd>id</dd>"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host = "<b>"
		r.Header.Set("Accept", c.accept)
		w := httptest.NewRecorder()
		c.pages.writeError(w, r, c.code, "id")
		if !strings.Contains(w.Body.String(), c.want) || w.Code != visitorErrors[c.code].status || w.Header().Get(errorHeader) != string(c.code) {
			t.Errorf("%s as %s: %d %v %s", c.code, c.accept, w.Code, w.Header(), w.Body)
		}
	}
	for what, files := range map[string]map[string]string{
		"none":            {},
		"no code":         {"nonsense.html": "x"},
		"no status of us": {"200.html": "x"},
		"no template":     {"default.html": "{{"},
		"no such field":   {"default.html": "{{.Secret}}"},
		"too large":       {"default.html": strings.Repeat("x", maxPage+1)},
	} {
		if _, err := pagesIn(t, files); !errors.Is(err, ErrBadPages) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := LoadPages(filepath.Join(t.TempDir(), "none")); !errors.Is(err, ErrBadPages) {
		t.Errorf("no directory: %v", err)
	}
}
