// Package admin is a node's own door: health for everyone who reaches the admin
// address, administration for who may open the unix socket in the data directory.
package admin

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/culvert-tunnel/culvert/internal/server/auth"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// SocketFile is the unix socket's name in the data directory.
const SocketFile = "admin.sock"

// Config of the handlers. All fields must be set.
type Config struct {
	Tokens      *store.Tokens
	Fingerprint func() string
	Revoked     func(tokenID string) // ends the token's sessions
	Ready       func() error
}

// Health answers /healthz and /readyz.
func Health(cfg Config) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := cfg.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	return mux
}

// Token is a token as the API shows it. Secret is there once, after its creation.
type Token struct {
	ID      string    `json:"id"`
	Label   string    `json:"label,omitempty"`
	Allow   []string  `json:"allow,omitempty"`
	Created time.Time `json:"created"`
}

// NewToken asks for a token.
type NewToken struct {
	Label string   `json:"label,omitempty"`
	Allow []string `json:"allow,omitempty"`
}

// CreatedToken answers NewToken.
type CreatedToken struct {
	ID    string `json:"id"`
	Token string `json:"token"` // whole; not to be had again
}

// Error is the body of an answer that is no success.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// API answers what the unix socket offers: /api/v1/tokens.
func API(cfg Config) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/tokens", func(w http.ResponseWriter, _ *http.Request) {
		list := []Token{}
		for _, t := range cfg.Tokens.List() {
			list = append(list, Token{ID: t.ID, Label: t.Label, Allow: t.Allow, Created: t.Created})
		}
		answer(w, http.StatusOK, list)
	})
	mux.HandleFunc("POST /api/v1/tokens", cfg.createToken)
	mux.HandleFunc("DELETE /api/v1/tokens/{id}", func(w http.ResponseWriter, r *http.Request) {
		id := r.PathValue("id")
		switch err := cfg.Tokens.Revoke(id); {
		case errors.Is(err, store.ErrNoToken):
			answer(w, http.StatusNotFound, Error{"token_not_found", "there is no token " + tunnel.Clean(id)})
		case err != nil:
			answer(w, http.StatusInternalServerError, Error{"internal", err.Error()})
		default:
			cfg.Revoked(id)
			w.WriteHeader(http.StatusNoContent)
		}
	})
	return mux
}

func (cfg Config) createToken(w http.ResponseWriter, r *http.Request) {
	var in NewToken
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		answer(w, http.StatusBadRequest, Error{"bad_request", "the body is not a token request: " + err.Error()})
		return
	}
	if len(in.Label) > 128 || tunnel.Clean(in.Label) != in.Label || len(in.Allow) > 100 {
		answer(w, http.StatusBadRequest, Error{"bad_request", "the label has at most 128 bytes, all printable, and there are at most 100 rules"})
		return
	}
	for _, rule := range in.Allow {
		if err := auth.CheckRule(rule); err != nil {
			answer(w, http.StatusBadRequest, Error{"bad_rule", err.Error()})
			return
		}
	}
	token, err := cfg.Tokens.Create(cfg.Fingerprint(), in.Label, in.Allow)
	if err != nil {
		answer(w, http.StatusInternalServerError, Error{"internal", err.Error()})
		return
	}
	answer(w, http.StatusCreated, CreatedToken{ID: token.ID, Token: token.Reveal()})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
