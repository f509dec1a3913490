package admin

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

func ask(h http.Handler, method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w
}

func TestTokensAPI(t *testing.T) {
	tokens, err := store.OpenTokens(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	revoked := ""
	h := API(Config{Tokens: tokens, Fingerprint: func() string { return "" }, Revoked: func(id string) { revoked = id }})
	w := ask(h, "POST", "/api/v1/tokens", `{"label": "l", "allow": ["tcp:*"]}`)
	var made CreatedToken
	if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil || w.Code != http.StatusCreated {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	token, err := tunnel.ParseToken(made.Token)
	if err != nil || token.ID != made.ID {
		t.Errorf("%+v: %v", made, err)
	}
	w = ask(h, "GET", "/api/v1/tokens", "")
	if body := w.Body.String(); w.Code != 200 || !strings.Contains(body, made.ID) || strings.Contains(body, token.Secret) || strings.Contains(body, "hash") {
		t.Errorf("%d %s", w.Code, body)
	}
	for body, code := range map[string]string{
		``: "bad_request", `{`: "bad_request", `{"lable": ""}`: "bad_request", `{"allow": ["ftp://x"]}`: "bad_rule",
		`{"label": "` + strings.Repeat("x", 129) + `"}`: "bad_request", `{"label": "` + strings.Repeat("x", 1<<20) + `"}`: "bad_request",
		`{"label": "a\u001b[31mb"}`: "bad_request",
	} {
		w := ask(h, "POST", "/api/v1/tokens", body)
		var e Error
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || w.Code != 400 || e.Code != code || e.Message == "" {
			t.Errorf("%.40s: %d %s", body, w.Code, w.Body)
		}
	}
	if w := ask(h, "DELETE", "/api/v1/tokens/nope", ""); w.Code != 404 || revoked != "" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := ask(h, "DELETE", "/api/v1/tokens/"+made.ID, ""); w.Code != 204 || revoked != made.ID {
		t.Errorf("%d %s, %q", w.Code, w.Body, revoked)
	}
}

func TestHealth(t *testing.T) {
	var ready error
	h := Health(Config{Ready: func() error { return ready }})
	for _, want := range []int{200, 503, 200} {
		if ready = nil; want != 200 {
			ready = errors.New("not yet")
		}
		if alive, got := ask(h, "GET", "/healthz", "").Code, ask(h, "GET", "/readyz", "").Code; alive != 200 || got != want {
			t.Errorf("%d %d", alive, got)
		}
	}
	if w := ask(h, "GET", "/api/v1/tokens", ""); w.Code != 404 {
		t.Errorf("tokens on the admin address: %d", w.Code)
	}
}
