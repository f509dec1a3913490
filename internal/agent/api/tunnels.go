package api

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/culvert-tunnel/culvert/internal/agent"
)

// The types of ngrok's agent API, as far as scripts use it:
// https://ngrok.com/docs/agent/api.
type (
	ngrokTunnel struct {
		Name      string       `json:"name"`
		ID        string       `json:"ID"`
		URI       string       `json:"uri"`
		PublicURL string       `json:"public_url"`
		Proto     string       `json:"proto"`
		Config    ngrokConfig  `json:"config"`
		Metrics   ngrokMetrics `json:"metrics"`
	}
	ngrokConfig struct {
		Addr    string `json:"addr"`
		Inspect bool   `json:"inspect"`
	}
	ngrokMetrics struct {
		Conns ngrokCount `json:"conns"`
		HTTP  ngrokCount `json:"http"`
	}
	ngrokCount struct {
		Count  int64   `json:"count"`
		Gauge  int64   `json:"gauge"`
		Rate1  float64 `json:"rate1"`
		Rate5  float64 `json:"rate5"`
		Rate15 float64 `json:"rate15"`
		P50    float64 `json:"p50"`
		P90    float64 `json:"p90"`
		P95    float64 `json:"p95"`
		P99    float64 `json:"p99"`
	}
)

// tunnelsNow lists the endpoints that are online, as ngrok would.
func (s *Server) tunnelsNow() []ngrokTunnel {
	list := []ngrokTunnel{}
	for _, e := range s.cfg.Agent.Status().Endpoints {
		if e.State == "online" {
			list = append(list, s.asTunnel(e))
		}
	}
	return list
}

func (s *Server) asTunnel(e agent.EndpointStatus) ngrokTunnel {
	proto, _, _ := strings.Cut(e.URL, "://")
	addr := e.Upstream
	switch {
	case strings.Contains(addr, "://"), strings.HasPrefix(addr, "unix:"):
	case strings.Contains(addr, ":"):
		addr = e.Kind + "://" + addr
	default:
		addr = e.Kind + "://localhost:" + addr
	}
	return ngrokTunnel{
		Name: e.Name, ID: e.Name, URI: "/api/tunnels/" + url.PathEscape(e.Name), PublicURL: e.URL, Proto: proto,
		Config:  ngrokConfig{Addr: addr, Inspect: s.cfg.Inspector != nil && e.Kind == "http"},
		Metrics: ngrokMetrics{Conns: ngrokCount{Count: e.Visits}},
	}
}

func (s *Server) tunnels(w http.ResponseWriter, _ *http.Request) {
	answer(w, map[string]any{"tunnels": s.tunnelsNow(), "uri": "/api/tunnels"})
}

func (s *Server) tunnel(w http.ResponseWriter, r *http.Request) {
	for _, t := range s.tunnelsNow() {
		if t.Name == r.PathValue("name") {
			answer(w, t)
			return
		}
	}
	fail(w, http.StatusNotFound, "no endpoint of that name is online")
}
