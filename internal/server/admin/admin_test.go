package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/server/store/storetest"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

var update = flag.Bool("update", false, "write docs/admin.openapi.json")

// TestDocument: the description of the API that is checked in is the code's.
func TestDocument(t *testing.T) {
	const path = "../../../docs/admin.openapi.json"
	doc, err := Document()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, doc, "", "  "); err != nil {
		t.Fatal(err)
	}
	b.WriteByte('\n')
	if *update {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil { //nolint:gosec // a document
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil || string(have) != b.String() {
		t.Errorf("%s is not the code's (%v): run go test ./internal/server/admin -update", path, err)
	}
}

func ask(h http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	h.ServeHTTP(w, r)
	return w
}

func config(t *testing.T) Config {
	return Config{
		Store: storetest.Embedded(t), Domain: "example.com", Fingerprint: func() string { return "" },
		Ready:    func() error { return nil },
		Status:   func(context.Context) Status { return Status{Node: "n", Ready: true} },
		Sessions: func() []Session { return []Session{{ID: "s", Agent: "a"}} },
		Metrics:  Metrics(func() Gauges { return Gauges{Sessions: 3, StoreBehind: 1500 * time.Millisecond} }),
	}
}

func read[T any](t *testing.T, w *httptest.ResponseRecorder, status int) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || w.Code != status {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	return v
}

func TestTokensAPI(t *testing.T) {
	cfg := config(t)
	h := Private(cfg)
	made := read[CreatedToken](t, ask(h, "POST", "/api/v1/tokens", `{"label": "l", "allow": ["tcp:*"], "max_endpoints": 5, "expires": "2100-01-01T00:00:00Z"}`), 201)
	token, err := tunnel.ParseToken(made.Token)
	if err != nil || token.ID != made.ID {
		t.Errorf("%+v: %v", made, err)
	}
	if kept, err := cfg.Store.VerifyToken(token); err != nil || kept.MaxEndpoints != 5 || kept.Expires.Year() != 2100 {
		t.Errorf("%+v: %v", kept, err)
	}
	w := ask(h, "GET", "/api/v1/tokens", "")
	if list := read[[]Token](t, w, 200); len(list) != 1 || list[0].ID != made.ID || list[0].Label != "l" {
		t.Errorf("%+v", list)
	}
	if body := w.Body.String(); strings.Contains(body, token.Secret) || strings.Contains(body, "hash") {
		t.Errorf("%s", body)
	}
	for body, want := range map[string]int{
		``: 400, `{`: 400, `{"lable": ""}`: 422, `{"allow": ["ftp://x"]}`: 400, `{"max_endpoints": -1}`: 422, `{"max_sessions": "x"}`: 422,
		`{"label": "` + strings.Repeat("x", 129) + `"}`: 422, `{"label": "` + strings.Repeat("x", 1<<20) + `"}`: 413,
		`{"label": "a\u001b[31mb"}`: 400, `{"expires": "2001-01-01T00:00:00Z"}`: 400, `{"expires": "soon"}`: 422, `{"admin": true, "allow": ["tcp:*"]}`: 400,
	} {
		if p := read[ProblemError](t, ask(h, "POST", "/api/v1/tokens", body), want); p.Detail == "" {
			t.Errorf("%.40s: %+v", body, p)
		}
	}
	if p := read[ProblemError](t, ask(h, "DELETE", "/api/v1/tokens/nope", ""), 404); p.Code != "token_not_found" {
		t.Errorf("%+v", p)
	}
	if w := ask(h, "DELETE", "/api/v1/tokens/"+made.ID, ""); w.Code != 204 || w.Body.Len() != 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if _, err := cfg.Store.VerifyToken(token); !errors.Is(err, store.ErrNoToken) {
		t.Errorf("revoked: %v", err)
	}
}

func TestNamesAPI(t *testing.T) {
	cfg := config(t)
	h := Private(cfg)
	var ids []string
	for range 2 {
		token, err := cfg.Store.CreateToken(t.Context(), "", store.Rights{})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, token.ID)
	}
	reserve := func(name, token string) *httptest.ResponseRecorder {
		b, _ := json.Marshal(NewName{Name: name, Token: token})
		return ask(h, "POST", "/api/v1/names", string(b))
	}
	for name, want := range map[string]string{
		"https://APP.example.com": "http://app.example.com", "word": "http://word.example.com", "tls://db.example.com": "tls://db.example.com", "tcp://:20022": "tcp://:20022",
	} {
		if n := read[Name](t, reserve(name, ids[0]), 201); n.Name != want || !n.Kept {
			t.Errorf("%s: %+v", name, n)
		}
		if p := read[ProblemError](t, reserve(name, ids[1]), 409); p.Code != "name_reserved" || !strings.Contains(p.Detail, ids[0]) {
			t.Errorf("%s: %+v", name, p)
		}
	}
	for name, want := range map[string]int{"": 400, "https://": 400, "tcp://": 400, "a b": 400, "https://x/path?query": 400, strings.Repeat("x", 301): 422} {
		if p := read[ProblemError](t, reserve(name, ids[0]), want); p.Detail == "" {
			t.Errorf("%q: %+v", name, p)
		}
	}
	if p := read[ProblemError](t, reserve("other", "nobody"), 404); p.Code != "token_not_found" {
		t.Errorf("%+v", p)
	}
	if list := read[[]Name](t, ask(h, "GET", "/api/v1/names", ""), 200); len(list) != 4 {
		t.Errorf("%+v", list)
	}
	if w := ask(h, "DELETE", "/api/v1/names/https:%2F%2Fapp.example.com", ""); w.Code != 204 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if p := read[ProblemError](t, ask(h, "DELETE", "/api/v1/names/app", ""), 404); p.Code != "name_not_found" {
		t.Errorf("%+v", p)
	}
}

func TestViews(t *testing.T) {
	cfg := config(t)
	h := Private(cfg)
	if s := read[Status](t, ask(h, "GET", "/api/v1/status", ""), 200); s.Node != "n" || !s.Ready {
		t.Errorf("%+v", s)
	}
	if list := read[[]Session](t, ask(h, "GET", "/api/v1/sessions", ""), 200); len(list) != 1 {
		t.Errorf("%+v", list)
	}
	p, err := cfg.Store.Join(t.Context(), store.Node{ID: "id", Name: "n"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Claim(t.Context(), store.Claim{Route: store.Route{Name: "http://a.example.com", Agent: "a"}}); err != nil {
		t.Fatal(err)
	}
	if list := read[[]Endpoint](t, ask(h, "GET", "/api/v1/endpoints", ""), 200); len(list) != 1 || list[0].Node != "id" {
		t.Errorf("%+v", list)
	}
	if list := read[[]store.Event](t, ask(h, "GET", "/api/v1/events?limit=5", ""), 200); len(list) != 0 {
		t.Errorf("%+v", list)
	}
	if w := ask(h, "GET", "/api/v1/events?limit=0", ""); w.Code != 422 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := ask(h, "GET", "/api/v1/openapi.json", ""); w.Code != 200 || !strings.Contains(w.Body.String(), "list-endpoints") {
		t.Errorf("%d %.100s", w.Code, w.Body)
	}
}

func TestPublic(t *testing.T) {
	cfg := config(t)
	var ready error
	cfg.Ready = func() error { return ready }
	h := Public(cfg)
	for _, want := range []int{200, 503, 200} {
		if ready = nil; want != 200 {
			ready = errors.New("not yet")
		}
		if alive, got := ask(h, "GET", "/healthz", "").Code, ask(h, "GET", "/readyz", "").Code; alive != 200 || got != want {
			t.Errorf("%d %d", alive, got)
		}
	}
	if w := ask(h, "GET", "/metrics", ""); w.Code != 200 || !strings.Contains(w.Body.String(), "\nculvert_sessions 3\n") || !strings.Contains(w.Body.String(), "culvert_store_behind_seconds 1.5") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	tokens := map[string]int{"": 401, "nonsense": 401}
	for _, rights := range []store.Rights{{}, {Admin: true}, {Admin: true, Expires: time.Now()}} {
		token, err := cfg.Store.CreateToken(t.Context(), "", rights)
		if err != nil {
			t.Fatal(err)
		}
		tokens[token.Credential()] = 401
		if rights.Admin && rights.Expires.IsZero() {
			tokens[token.Credential()] = 200
		}
	}
	for token, want := range tokens {
		for _, path := range []string{"/api/v1/tokens", "/api/v1/status", "/api/v1/openapi.json"} {
			if w := ask(h, "GET", path, "", "Authorization", "Bearer "+token); w.Code != want {
				t.Errorf("%.20q %s: %d %s", token, path, w.Code, w.Body)
			}
		}
	}
	if w := ask(h, "GET", "/api/v1/tokens", ""); w.Code != 401 || w.Header().Get("WWW-Authenticate") == "" {
		t.Errorf("without a token: %d", w.Code)
	}
}
