package cli

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"
)

//go:embed sample.html
var samplePage string

var sampleTemplate = template.Must(template.New("sample").Parse(samplePage))

// sampleService is what the demo publishes: a page, the request as JSON, and a
// stream of events.
func sampleService() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept"), "text/html") {
			_, _ = fmt.Fprintf(w, "Hello from behind the tunnel. You asked for %s as %s.\n", r.Host, sampleVisitor(r))
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_ = sampleTemplate.Execute(w, map[string]any{"Host": r.Host, "Visitor": sampleVisitor(r), "Proto": r.Header.Get("X-Forwarded-Proto")})
	})
	mux.HandleFunc("GET /headers", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(map[string]any{"method": r.Method, "host": r.Host, "path": r.URL.Path, "headers": r.Header})
	})
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "no-store")
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for n := 1; ; n++ {
			_, _ = fmt.Fprintf(w, "data: event %d\n\n", n)
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-ticker.C:
			case <-r.Context().Done():
				return
			}
		}
	})
	return mux
}

// sampleVisitor is the visitor's address as the edge says it; tcp and tls endpoints
// pass bytes and say nothing.
func sampleVisitor(r *http.Request) string {
	if ip := r.Header.Get("X-Real-Ip"); ip != "" {
		return "visitor " + ip
	}
	return "a visitor of unknown address"
}
