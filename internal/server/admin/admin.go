// Package admin is a node's own door: health and metrics for everyone who reaches the
// admin address, administration for who has an admin token there, or may open the unix
// socket in the data directory.
package admin

import (
	"context"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/culvert-tunnel/culvert/internal/server/auth"
	"github.com/culvert-tunnel/culvert/internal/server/store"
)

// SocketFile is the unix socket's name in the data directory.
const SocketFile = "admin.sock"

// Config of the handlers. All fields must be set.
type Config struct {
	Store       *store.Store
	Domain      string // below which names without a dot are
	Fingerprint func() string
	// JoinFingerprint is what tokens carry with which servers join; its error says why none can.
	JoinFingerprint func() (string, error)
	Ready           func() error
	Status          func(context.Context) Status
	Sessions        func() []Session
	Metrics         http.Handler
	// Backup writes what is to be kept of the state.
	Backup func(context.Context, io.Writer) error
	// Certificates lists the certificates that visitors are shown, but those of the
	// node's own CA.
	Certificates func() []Certificate
}

// Public answers what the admin address offers: /healthz, /readyz and /metrics to all,
// /api/v1 to who has an admin token.
func Public(cfg Config) http.Handler {
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
	mux.Handle("GET /metrics", cfg.Metrics)
	api := Private(cfg)
	mux.HandleFunc("/api/v1/", func(w http.ResponseWriter, r *http.Request) {
		credential, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok || auth.Admin(cfg.Store, credential) != nil {
			w.Header().Set("WWW-Authenticate", `Bearer realm="culvert"`)
			refuse(w)
			return
		}
		api.ServeHTTP(w, r)
	})
	return mux
}

// Private answers /api/v1 to whoever comes: for the unix socket.
func Private(cfg Config) http.Handler {
	mux := http.NewServeMux()
	_ = newAPI(mux, cfg)
	return mux
}

// Document is the API's description (OpenAPI 3.1), as JSON.
func Document() ([]byte, error) {
	return newAPI(http.NewServeMux(), Config{}).OpenAPI().MarshalJSON()
}

func newAPI(mux *http.ServeMux, cfg Config) huma.API {
	c := huma.DefaultConfig("Culvert administration", "1")
	c.Info.Description = "Administration of a Culvert server: on its admin address with a token made by `culvert token create --admin`, on the unix socket in its data directory without one."
	c.OpenAPIPath, c.DocsPath, c.SchemasPath = "/api/v1/openapi", "", "" // a page of documentation would load scripts from elsewhere
	c.CreateHooks = nil
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"admin": {Type: "http", Scheme: "bearer"}}
	c.Security = []map[string][]string{{"admin": {}}}
	api := humago.New(mux, c)
	cfg.addTokens(api)
	cfg.addNames(api)
	cfg.addViews(api)
	cfg.addMembers(api)
	cfg.addBackup(api)
	return api
}

// operation is an operation of the API.
func operation(id, method, path, summary string, status int) huma.Operation {
	return huma.Operation{
		OperationID: id, Method: method, Path: "/api/v1" + path, Summary: summary, DefaultStatus: status,
		MaxBodyBytes: 64 << 10, BodyReadTimeout: 10 * time.Second,
	}
}

// body is an answer.
type body[T any] struct{ Body T }
