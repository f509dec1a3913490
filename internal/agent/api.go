package agent

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

// Status of an agent, as its local API shows it.
type Status struct {
	Server    string           `json:"server"`
	Connected bool             `json:"connected"`
	Node      string           `json:"node,omitempty"`
	LatencyMS float64          `json:"latency_ms,omitempty"`
	Error     string           `json:"error,omitempty"`
	Endpoints []EndpointStatus `json:"endpoints"`
}

// EndpointStatus is one endpoint in a Status.
type EndpointStatus struct {
	Name     string   `json:"name"`
	Kind     string   `json:"kind"`
	State    string   `json:"state"` // online, offline, lost
	URL      string   `json:"url,omitempty"`
	URLs     []string `json:"urls,omitempty"`
	Upstream string   `json:"upstream"`
	Healthy  bool     `json:"upstream_healthy"` // the last connection to the upstream succeeded, or none was tried
	Visits   int64    `json:"visits"`
	BytesIn  int64    `json:"bytes_in"`  // of visits that have ended
	BytesOut int64    `json:"bytes_out"` // likewise
	Error    string   `json:"error,omitempty"`
}

// Status returns a snapshot.
func (a *Agent) Status() Status {
	a.mu.Lock()
	st := Status{
		Server: a.cfg.Server, Connected: a.mu.connected, Node: a.mu.node, Error: a.mu.lastError,
		LatencyMS: float64(a.mu.latency.Microseconds()) / 1000,
	}
	a.mu.Unlock()
	for _, e := range a.endpoints {
		e.mu.Lock()
		es := EndpointStatus{
			Name: e.name, Kind: string(e.mu.spec.Kind), State: "offline", URLs: e.mu.urls, Upstream: e.upstream.String(),
			Healthy: !e.down.Load(), Visits: e.visits.Load(), BytesIn: e.bytesIn.Load(), BytesOut: e.bytesOut.Load(),
		}
		if len(e.mu.urls) > 0 {
			es.URL = e.mu.urls[0]
		}
		if e.mu.id != "" {
			es.State = "online"
		}
		if e.mu.gone != nil {
			es.State, es.Error = "lost", e.mu.gone.Error()
		}
		e.mu.Unlock()
		st.Endpoints = append(st.Endpoints, es)
	}
	return st
}

// ListenAPI opens the address of the local API, or the next free port of the
// twenty after it.
func ListenAPI(ctx context.Context, address string) (net.Listener, error) {
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

// ServeAPI serves the local API on l until ctx ends.
func (a *Agent) ServeAPI(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/endpoints", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(a.Status())
	})
	srv := &http.Server{
		Handler: localOnly(mux), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(a.cfg.Logger.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// localOnly refuses requests under a foreign host name: a page elsewhere whose
// name was made to resolve to this machine (DNS rebinding) must not read the API.
func localOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			http.Error(w, "this API answers to localhost and loopback addresses only", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
