package api

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/culvert-tunnel/culvert/internal/agent/inspect"
)

// Metrics counts inspected requests.
type Metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	of       map[string]*counters // by endpoint, for Observe: looking them up by labels takes long
}

// counters are those of one endpoint.
type counters struct {
	requests [10]prometheus.Counter // by the first digit of the status
	seconds  prometheus.Observer
}

// NewMetrics makes counters that stand at nothing.
func NewMetrics() *Metrics {
	return &Metrics{
		of: make(map[string]*counters),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "culvert_requests_total", Help: "Requests that were answered, by endpoint and class of status.",
		}, []string{"endpoint", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "culvert_request_duration_seconds", Help: "From a request's first byte to its answer's last.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"endpoint"}),
	}
}

// Observe counts an exchange. It is not to be called twice at a time.
func (m *Metrics) Observe(x *inspect.Exchange) {
	c := m.of[x.Endpoint]
	if c == nil {
		c = &counters{seconds: m.seconds.WithLabelValues(x.Endpoint)}
		m.of[x.Endpoint] = c
	}
	class := x.Status / 100
	if c.requests[class] == nil {
		c.requests[class] = m.requests.WithLabelValues(x.Endpoint, strconv.Itoa(class)+"xx")
	}
	c.requests[class].Inc()
	c.seconds.Observe(x.End.Sub(x.Start).Seconds())
}

// metrics serves all of them in Prometheus' form.
func (s *Server) metrics() http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), newStatus(s))
	if m := s.cfg.Metrics; m != nil {
		reg.MustRegister(m.requests, m.seconds)
	}
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
}

// status collects what the agent and the inspector know at the moment of asking.
type status struct {
	s                                           *Server
	connected, latency                          *prometheus.Desc
	online, healthy, visits, bytesIn, bytesOut  *prometheus.Desc
	kept, keptBytes, captured, dropped, unknown *prometheus.Desc
}

func newStatus(s *Server) *status {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("culvert_"+name, help, labels, nil)
	}
	return &status{
		s:         s,
		connected: d("connected", "1 while there is a link to the server."),
		latency:   d("link_latency_seconds", "Round trip to the server and back."),
		online:    d("endpoint_online", "1 while visitors reach the endpoint.", "endpoint"),
		healthy:   d("endpoint_upstream_healthy", "1 unless the last connection to the upstream failed.", "endpoint"),
		visits:    d("endpoint_streams_total", "Streams that the server opened.", "endpoint"),
		bytesIn:   d("endpoint_bytes_in_total", "Bytes to the upstream, of streams that have ended.", "endpoint"),
		bytesOut:  d("endpoint_bytes_out_total", "Bytes from the upstream, of streams that have ended.", "endpoint"),
		kept:      d("inspector_requests", "Requests that the inspector keeps."),
		keptBytes: d("inspector_bytes", "Memory that they take."),
		captured:  d("inspector_captured_total", "Requests that were captured."),
		dropped:   d("inspector_dropped_total", "Requests that made room for newer ones."),
		unknown:   d("inspector_missed_bytes_total", "Bytes that passed faster than they could be captured."),
	}
}

// Describe implements prometheus.Collector.
func (c *status) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c *status) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	st := c.s.cfg.Agent.Status()
	gauge(c.connected, truth(st.Connected))
	gauge(c.latency, st.LatencyMS/1000)
	for _, e := range st.Endpoints {
		gauge(c.online, truth(e.State == "online"), e.Name)
		gauge(c.healthy, truth(e.Healthy), e.Name)
		count(c.visits, float64(e.Visits), e.Name)
		count(c.bytesIn, float64(e.BytesIn), e.Name)
		count(c.bytesOut, float64(e.BytesOut), e.Name)
	}
	if in := c.s.cfg.Inspector; in != nil {
		s := in.Stats()
		gauge(c.kept, float64(s.Exchanges))
		gauge(c.keptBytes, float64(s.Bytes))
		count(c.captured, float64(s.Captured))
		count(c.dropped, float64(s.Dropped))
		count(c.unknown, float64(s.Missed))
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
