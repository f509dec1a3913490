package e2e

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestMetrics: a server counts what visitors of every kind did, and the dashboard asks for
// nothing that it doesn't.
func TestMetrics(t *testing.T) {
	n := startServer(t)
	ready, _ := n.wait(0, "server ready", msg("server ready"))
	metrics := func() map[string]float64 {
		all := make(map[string]float64)
		for line := range strings.Lines(n.curlPlain("http://" + ready.str("admin") + "/metrics")) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			all[name] = v
		}
		return all
	}
	up := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(up.Close)
	_, web := n.publish("http", up.Listener.Addr().String(), "--name", "app")
	echo := serveTCP(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	agent, tcp := n.publish("tcp", echo)
	_, refused := n.publish("http", "127.0.0.1:1", "--name", "refused")

	for range 3 {
		n.curl("--http1.1", web)
	}
	n.curl("--http2", web)
	n.curl("-o", "/dev/null", refused)
	n.curl("-o", "/dev/null", "-k", "--http1.1", "-H", "Host: nobody.localhost", n.plainURL(web))
	c := dial(t, tcpAddress(tcp))
	_, err := c.Write([]byte("hello"))
	check(t, err)
	check(t, c.CloseWrite())
	_, err = io.ReadAll(c)
	check(t, err)

	want := map[string]float64{
		`culvert_ready`:                    1,
		`culvert_sessions`:                 3,
		`culvert_endpoints`:                3,
		`culvert_nodes`:                    1,
		`culvert_links{state="connected"}`: 3,
		`culvert_http_requests_total{status="200",version="1.1"}`:     3,
		`culvert_http_requests_total{status="200",version="2"}`:       1,
		`culvert_http_requests_total{status="404",version="1.1"}`:     1,
		`culvert_http_request_duration_seconds_count`:                 6,
		`culvert_visit_errors_total{code="upstream_refused"}`:         1,
		`culvert_visit_errors_total{code="endpoint_not_found"}`:       1,
		`culvert_visits_total{kind="tcp"}`:                            1,
		`culvert_visit_bytes_total{direction="in",kind="tcp"}`:        5,
		`culvert_visit_bytes_total{direction="out",kind="tcp"}`:       5,
		`culvert_connection_duration_seconds_count{kind="tcp"}`:       1,
		`culvert_agent_events_total{code="",event="agent_connected"}`: 3,
		`culvert_agent_events_total{code="",event="endpoint_bound"}`:  3,
		`culvert_store_behind_seconds`:                                0,
	}
	var got map[string]float64
	t.Cleanup(func() {
		for name, v := range want {
			if t.Failed() && got[name] != v {
				t.Logf("%s was %v, not %v", name, got[name], v)
			}
		}
	})
	eventually(t, "all to be counted", func() bool {
		got = metrics()
		for name, v := range want {
			if have, ok := got[name]; !ok || have != v && name != `culvert_store_behind_seconds` {
				return false
			}
		}
		return true
	})
	if got[`culvert_link_bytes_total{direction="in"}`] < 100 || got[`culvert_http_upstream_duration_seconds_sum`] <= 0 {
		t.Errorf("%v", got)
	}
	before := got[`culvert_link_bytes_total{direction="out"}`]
	agent.kill()
	eventually(t, "a link that waits", func() bool { return metrics()[`culvert_links{state="away"}`] == 1 })
	got = metrics()
	if got[`culvert_links_lost_total`] != 1 || got[`culvert_link_bytes_total{direction="out"}`] < before {
		t.Errorf("%v links lost, %v bytes after %v", got[`culvert_links_lost_total`], got[`culvert_link_bytes_total{direction="out"}`], before)
	}
	testDashboard(t, got)
	testDocumented(t, got)
}

var metricName = regexp.MustCompile(`\b(culvert|go|process)_[a-z_]+`)

// testDashboard: each metric that the dashboard asks for is there.
func testDashboard(t *testing.T, have map[string]float64) {
	file, err := os.ReadFile("../../deploy/grafana/culvert.json")
	check(t, err)
	var dashboard struct {
		Panels []struct {
			Title   string
			Type    string
			Targets []struct{ Expr string }
		}
	}
	check(t, json.Unmarshal(file, &dashboard))
	names := make(map[string]bool)
	for name := range have {
		name, _, _ = strings.Cut(name, "{")
		names[name] = true
	}
	asked := make(map[string]bool)
	for _, p := range dashboard.Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%q asks for nothing", p.Title)
		}
		for _, target := range p.Targets {
			for _, name := range metricName.FindAllString(target.Expr, -1) {
				asked[name] = true
				// Without a certificate there is no end of one.
				if !names[name] && name != "culvert_certificate_next_expiry_timestamp_seconds" {
					t.Errorf("%q asks for %s, which is not there", p.Title, name)
				}
			}
		}
	}
	for name := range names {
		if base := strings.NewReplacer("_count", "_bucket", "_sum", "_bucket").Replace(name); strings.HasPrefix(name, "culvert_") && !asked[name] && !asked[base] {
			t.Errorf("the dashboard does not show %s", name)
		}
	}
}

// testDocumented: each metric stands in docs/operations.md.
func testDocumented(t *testing.T, have map[string]float64) {
	docs, err := os.ReadFile("../../docs/operations.md")
	check(t, err)
	for name := range have {
		name, _, _ = strings.Cut(name, "{")
		for _, suffix := range []string{"_bucket", "_count", "_sum"} {
			name = strings.TrimSuffix(name, suffix)
		}
		if strings.HasPrefix(name, "culvert_") && !strings.Contains(string(docs), "`"+name+"`") {
			t.Errorf("docs/operations.md does not name %s", name)
		}
	}
}
