package admin

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// full are gauges of which none is missing.
func full() Gauges {
	return Gauges{
		Version: "1.2.3", Sessions: 1, Refused: map[string]int64{"offline": 2},
		Certificates: []Certificate{
			{Source: "file", State: "ready", Expires: time.Unix(2_000_000_000, 0)},
			{Source: "acme", State: "ready", Expires: time.Unix(1_900_000_000, 0)},
			{Source: "acme", State: "failed"},
		},
		Links: Links{Open: 5, Away: 2, In: 7},
	}
}

// TestMetricNames: names, units and helps are as Prometheus' conventions want them.
func TestMetricNames(t *testing.T) {
	visits, counters := NewVisits("endpoint_offline"), NewCounters()
	counters.Event("agent_refused", "token_invalid")
	families, err := registry(full, visits, counters).Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestGauges(t *testing.T) {
	got := series(t, registry(full))
	for name, want := range map[string]float64{
		`culvert_build_info{version="1.2.3"}`:                  1,
		`culvert_ready`:                                        0,
		`culvert_links{state="away"}`:                          2,
		`culvert_links{state="connected"}`:                     3,
		`culvert_link_bytes_total{direction="in"}`:             7,
		`culvert_visitors_refused_total{reason="offline"}`:     2,
		`culvert_certificates{source="acme",state="failed"}`:   1,
		`culvert_certificates{source="acme",state="ready"}`:    1,
		`culvert_certificate_next_expiry_timestamp_seconds`:    1.9e9,
		`culvert_certificates{source="file",state="ready"}`:    1,
		`culvert_agent_events_total{code="x",event="unheard"}`: 0,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}

// series are all counters and gauges, and the counts of histograms.
func series(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := ""
			for _, l := range m.GetLabel() {
				labels += fmt.Sprintf(",%s=%q", l.GetName(), l.GetValue())
			}
			if labels != "" {
				labels = "{" + labels[1:] + "}"
			}
			all[f.GetName()+labels] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return all
}

func TestVisits(t *testing.T) {
	v := NewVisits("endpoint_offline", "upstream_refused")
	request := endpoint.Visit{Kind: endpoint.HTTP, Proto: "HTTP/1.1", Status: 200, In: 3, Out: 5, Queue: time.Millisecond, Upstream: time.Millisecond, Took: time.Second}
	v.Observe(request)
	v.Observe(request)
	v.Observe(endpoint.Visit{Kind: endpoint.HTTP, Proto: "HTTP/2.0", Status: 502, Code: "upstream_refused", Queue: time.Millisecond})
	v.Observe(endpoint.Visit{Kind: endpoint.HTTP, Proto: "HTTP/1.1", Status: 101, Upgraded: true, Took: time.Hour})
	v.Observe(endpoint.Visit{Kind: endpoint.HTTP, Proto: "HTTP/3.0"})
	v.Observe(endpoint.Visit{Kind: endpoint.TCP, In: 10, Out: 20, Took: time.Minute})
	v.Observe(endpoint.Visit{Kind: endpoint.TLS, Code: "endpoint_offline"})
	v.Observe(endpoint.Visit{Kind: endpoint.UDP, Code: "made_up"})
	r := prometheus.NewRegistry()
	r.MustRegister(v)
	got := series(t, r)
	for name, want := range map[string]float64{
		`culvert_http_requests_total{status="200",version="1.1"}`: 2,
		`culvert_http_requests_total{status="502",version="2"}`:   1,
		`culvert_http_requests_total{status="101",version="1.1"}`: 1,
		`culvert_http_requests_total{status="none",version="3"}`:  1,
		`culvert_http_requests_total{status="200",version="3"}`:   0,
		`culvert_http_request_duration_seconds`:                   4,
		`culvert_http_queue_duration_seconds`:                     3,
		`culvert_http_upstream_duration_seconds`:                  2,
		`culvert_connection_duration_seconds{kind="upgraded"}`:    1,
		`culvert_connection_duration_seconds{kind="tcp"}`:         1,
		`culvert_visits_total{kind="http"}`:                       4,
		`culvert_visits_total{kind="upgraded"}`:                   1,
		`culvert_visit_bytes_total{direction="in",kind="http"}`:   6,
		`culvert_visit_bytes_total{direction="out",kind="tcp"}`:   20,
		`culvert_visit_errors_total{code="upstream_refused"}`:     1,
		`culvert_visit_errors_total{code="endpoint_offline"}`:     1,
		`culvert_visit_errors_total{code="other"}`:                1,
	} {
		if have, ok := got[name]; !ok || have != want {
			t.Errorf("%s is %v (%v), want %v", name, have, ok, want)
		}
	}
}

// TestSeriesAreBounded: whatever visitors and upstreams say, there is no series for it.
func TestSeriesAreBounded(t *testing.T) {
	v := NewVisits("endpoint_offline")
	for i := range 100_000 {
		v.Observe(endpoint.Visit{Kind: endpoint.Kind(fmt.Sprint("kind", i)), Proto: fmt.Sprint("HTTP/1.", i), Status: i - 1000, Code: fmt.Sprint("code", i)})
	}
	for _, proto := range protocols {
		for i := range 1000 {
			v.Observe(endpoint.Visit{Kind: endpoint.HTTP, Proto: proto, Status: i})
		}
	}
	r := prometheus.NewRegistry()
	r.MustRegister(v)
	if n := len(series(t, r)); n > 450 {
		t.Errorf("%d series", n)
	} else {
		t.Logf("%d series", n)
	}
}

func TestObserveAllocatesNothing(t *testing.T) {
	v := NewVisits("endpoint_offline")
	if n := testing.AllocsPerRun(1000, func() {
		v.Observe(endpoint.Visit{Kind: endpoint.HTTP, Proto: "HTTP/1.1", Status: 200, Code: "endpoint_offline", Queue: 1, Upstream: 1, Took: 1})
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkObserve(b *testing.B) {
	v := NewVisits("endpoint_offline")
	is := endpoint.Visit{Kind: endpoint.HTTP, Proto: "HTTP/1.1", Status: 200, In: 100, Out: 1000, Queue: time.Millisecond, Upstream: 3 * time.Millisecond, Took: 5 * time.Millisecond}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			v.Observe(is)
		}
	})
}
