// Package api is the agent's local API and the inspector's page: what runs on the
// agent's machine and the person in front of it use. It shows what packages agent and
// inspect know and keeps nothing itself.
//
// The address is on loopback, which pages of the web can reach too, through the
// browser of who sits there. guard.go says what keeps them out.
package api

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/agent/inspect"
	"github.com/culvert-tunnel/culvert/web"
)

// Config of a Server. Agent and Logger must be set.
type Config struct {
	Agent     *agent.Agent
	Inspector *inspect.Inspector // nil: requests are not inspected
	Metrics   *Metrics           // nil: only those of the agent and of the process
	Version   string
	Logger    *slog.Logger
}

// Server answers on the local address.
type Server struct {
	cfg    Config
	secret string // of this run
}

// New makes a Server.
func New(cfg Config) *Server { return &Server{cfg: cfg, secret: rand.Text()} }

// Listen opens the address of the local API, or the next free port of the
// twenty after it.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	host, p, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	for try := range min(20, 65536-port) {
		l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(host, strconv.FormatUint(port+try, 10)))
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) || port == 0 {
			return l, err
		}
	}
	return nil, syscall.EADDRINUSE
}

// Serve serves on l until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: writeTimeout, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// writeTimeout bounds an answer, and each piece of one that goes on.
const writeTimeout = 30 * time.Second

// Handler returns the API and the page, guarded.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/endpoints", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.cfg.Agent.Status()) })
	mux.HandleFunc("GET /api/tunnels", s.tunnels)
	mux.HandleFunc("GET /api/tunnels/{name}", s.tunnel)
	mux.Handle("GET /metrics", s.metrics())
	mux.HandleFunc("POST /api/session", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"secret": s.secret, "version": s.cfg.Version, "inspecting": s.cfg.Inspector != nil})
	})
	mux.HandleFunc("GET /api/", func(w http.ResponseWriter, _ *http.Request) { fail(w, http.StatusNotFound, "there is nothing here") })
	mux.HandleFunc("GET /api/events", s.events)
	if s.cfg.Inspector != nil {
		mux.HandleFunc("GET /api/requests", s.list)
		mux.HandleFunc("DELETE /api/requests", s.changing(s.clear))
		mux.HandleFunc("GET /api/requests/{id}", s.detail)
		mux.HandleFunc("POST /api/requests/{id}/replay", s.changing(s.replay))
		mux.HandleFunc("GET /api/requests/{id}/curl", s.curl)
		mux.HandleFunc("GET /api/requests/{id}/har", s.harOne)
		mux.HandleFunc("GET /api/requests/{id}/{message}/body", s.body)
		mux.HandleFunc("GET /api/har", s.har)
	}
	mux.Handle("GET /", page())
	return guard(mux)
}

// page serves the built files. They are asked for anew each time: an agent of another
// version may be on the same port the next day.
func page() http.Handler {
	files := http.FileServerFS(web.Inspector())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-cache")
		files.ServeHTTP(w, r)
	})
}

// answer sends JSON.
func answer(w http.ResponseWriter, v any) { answerStatus(w, http.StatusOK, v) }

func answerStatus(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v)
}

// fail sends an error as JSON.
func fail(w http.ResponseWriter, status int, message string) {
	answerStatus(w, status, map[string]string{"error": message})
}
