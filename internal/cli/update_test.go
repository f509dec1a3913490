package cli

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestLatestVersion(t *testing.T) {
	answer, code := "", http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = w.Write([]byte(answer))
	}))
	defer srv.Close()
	for text, want := range map[string]string{`{"version": "1.2.3"}`: "1.2.3", `{"tag_name": "v2.0.0-rc.1"}`: "2.0.0-rc.1"} {
		answer = text
		if got, err := latestVersion(t.Context(), srv.URL); got != want || err != nil {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for _, answer = range []string{"", "{}", `{"version": "soon\u001b[2J"}`, "<html>", `{"version": "` + strings.Repeat("1", 2<<20) + `"}`} {
		if got, err := latestVersion(t.Context(), srv.URL); !errors.Is(err, errNoVersion) {
			t.Errorf("%.20s: %q, %v", answer, got, err)
		}
	}
	code = http.StatusNotFound
	if _, err := latestVersion(t.Context(), srv.URL); err == nil || !strings.Contains(err.Error(), "404") {
		t.Error(err)
	}
	var usage usageError
	for _, bad := range []string{"x", "ftp://a", "http://example.com/"} {
		if _, err := latestVersion(t.Context(), bad); !errors.As(err, &usage) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
