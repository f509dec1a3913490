package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestAccessLog: each request is a line, in whichever version it came; its id is the
// visitor's or ours, and the same for all who see it.
func TestAccessLog(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", "the upstream's")
		fmt.Fprint(w, r.Header.Get("X-Request-Id"))
	}))
	t.Cleanup(up.Close)
	n := startServer(t, "--access-log", "attributes")
	_, url := n.publish("http", up.Listener.Addr().String(), "--name", "app")
	next := 0
	for version, proto := range map[string]string{"--http1.1": "HTTP/1.1", "--http2": "HTTP/2.0"} {
		for id, kept := range map[string]bool{"my-id.1": true, `bad"id`: false, "": false} {
			out := n.curl(version, "-i", "-H", "X-Request-Id: "+id, "-H", "User-Agent: me", "-d", "four", url+"/a?token=secret")
			head, seen, _ := strings.Cut(out, "\r\n\r\n")
			if (seen == id) != kept || seen == "" || strings.Count(strings.ToLower(head), "x-request-id: "+seen) != 1 || strings.Contains(head, "upstream's") {
				t.Errorf("%s, id %q: the upstream saw %q, the visitor\n%s", version, id, seen, head)
			}
			var l logLine
			l, next = n.wait(next, "the request", msg("request served"))
			if l.str("request_id") != seen || l.str("proto") != proto || l.str("method") != "POST" || l.str("target") != "/a" || l.str("name") != "http://app.localhost" ||
				l["status"] != 200.0 || l["bytes_in"] != 4.0 || l["bytes_out"] != float64(len(seen)) || l.str("user_agent") != "me" || l.str("level") != "INFO" ||
				l.str("endpoint") == "" || l.str("session") == "" || l["duration_ms"] == nil || l["queue_ms"] == nil || l["upstream_ms"] == nil {
				t.Errorf("%s, id %q: %v", version, id, l)
			}
		}
	}
	if strings.Contains(n.errors()+n.out(), "token=secret") {
		t.Error("a query is in the log")
	}
	_ = n.curl("-H", "X-Request-Id: missing", strings.Replace(url, "app", "nobody", 1))
	l, _ := n.wait(next, "the request for nobody", msg("request served"))
	if l.str("request_id") != "missing" || l.str("code") != "endpoint_not_found" || l["status"] != 404.0 {
		t.Errorf("a request for nobody: %v", l)
	}
}

// TestAccessLogFile: lines go on in the new file once the old one was moved away.
func TestAccessLogFile(t *testing.T) {
	up := newUpstream(t)
	for format, want := range map[string]string{"combined": `"GET /hello?q=1 HTTP/2.0" 200 `, "attributes": `"target":"/hello?q=1"`} {
		file := filepath.Join(t.TempDir(), "access.log")
		n := startServer(t, "--access-log", format, "--access-log-file", file, "--access-log-query")
		_, url := n.publish("http", up.port(), "--name", "app")
		holds := func(path string, lines int) func() bool {
			return func() bool {
				b, err := os.ReadFile(path)
				return err == nil && strings.Count(string(b), want) == lines && strings.Count(string(b), "\n") == lines
			}
		}
		_ = n.curl("--http2", url+"/hello?q=1")
		eventually(t, "a line in the log", holds(file, 1))
		check(t, os.Rename(file, file+".1"))
		_ = n.curl("--http2", url+"/hello?q=1")
		eventually(t, "the line to go on in the old file", holds(file+".1", 2))
		n.signal(syscall.SIGHUP)
		n.wait(0, "the file to be opened anew", msg("access log opened anew"))
		_ = n.curl("--http2", url+"/hello?q=1")
		eventually(t, "a line in the new file", holds(file, 1))
		if format == "attributes" {
			b, err := os.ReadFile(file)
			check(t, err)
			if !json.Valid(b) {
				t.Errorf("no JSON: %s", b)
			}
		}
	}
}
