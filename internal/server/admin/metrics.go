package admin

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Gauges are what a node holds at one moment, and has counted by then.
type Gauges struct {
	Version                              string
	Ready                                bool
	Sessions, Endpoints, Streams, Visits int
	Flows                                int64 // of udp endpoints
	Nodes                                int
	Relays                               int // visitors of other nodes
	StoreBehind                          time.Duration
	EventsDropped                        int
	Certificates                         []Certificate
	Links                                Links

	// Refused counts who was turned away before there was a visit, by why.
	Refused                    map[string]int64
	FlowsRefused, FlowsEvicted int64
	DatagramsLost              int64
}

// Links are what those of all agents hold, and have done since the node's start.
type Links struct {
	Open, Away    int
	Lost, Resumed int64
	In, Out       int64
	Queued        int
	Kept, Windows int64
}

// Metrics answers /metrics: the gauges, what the given collectors count, and what Go and
// the system know of the process.
func Metrics(now func() Gauges, more ...prometheus.Collector) http.Handler {
	return promhttp.HandlerFor(registry(now, more...), promhttp.HandlerOpts{})
}

func registry(now func() Gauges, more ...prometheus.Collector) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), gauges(now))
	r.MustRegister(more...)
	return r
}

// gauges collects a node's gauges, all as of one moment.
type gauges func() Gauges

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("culvert_"+name, help, labels, nil)
}

var (
	descBuild        = desc("build_info", "1, with the version of the server.", "version")
	descReady        = desc("ready", "1 while visitors and agents should be sent here.")
	descSessions     = desc("sessions", "Agents connected to this node.")
	descEndpoints    = desc("endpoints", "Endpoints that agents connected to this node serve.")
	descStreams      = desc("streams", "Streams to agents, idle ones among them.")
	descVisits       = desc("visits", "Visitors being served: TCP and TLS connections, HTTP requests.")
	descFlows        = desc("udp_flows", "Flows of udp endpoints.")
	descNodes        = desc("nodes", "Nodes in the cluster.")
	descRelays       = desc("peer_relays", "Visitors of other nodes who are carried to agents of this one.")
	descBehind       = desc("store_behind_seconds", "For how long the cluster's state has been out of reach.")
	descDropped      = desc("events_dropped_total", "Events that were not kept: there were too many, or the store was away.")
	descLinks        = desc("links", "Links of agents: connected, or waiting to be resumed (away).", "state")
	descLost         = desc("links_lost_total", "How often a link lost its connection.")
	descResumed      = desc("links_resumed_total", "How often a link got another one in time.")
	descLinkBytes    = desc("link_bytes_total", "Bytes from (in) and to (out) agents, heads of frames included.", "direction")
	descQueued       = desc("link_queue_bytes", "Bytes that wait to be sent to agents.")
	descKept         = desc("link_kept_bytes", "Bytes sent to agents that are kept until they have arrived.")
	descWindows      = desc("link_window_bytes", "Bytes by which agents may be ahead of visitors, beyond the first window of each stream.")
	descCertificates = desc("certificates", "Certificates that visitors are shown, but those of the node's own CA.", "source", "state")
	descExpiry       = desc("certificate_next_expiry_timestamp_seconds", "When the first of those ends; absent if there is none.")
	descRefused      = desc("visitors_refused_total", "Connections that were turned away before there was a visit, by why.", "reason")
	descFlowsRefused = desc("udp_flows_refused_total", "Datagrams of new visitors who found no room.")
	descFlowsEvicted = desc("udp_flows_evicted_total", "Flows ended early to make room.")
	descLostDatagram = desc("udp_datagrams_lost_total", "Datagrams lost by flows that are over: queue full, over the bandwidth limit, or not to be sent.")
)

// Describe implements prometheus.Collector.
func (g gauges) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(g, ch) }

// Collect implements prometheus.Collector.
func (g gauges) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, n int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	now := g()
	ready := 0.0
	if now.Ready {
		ready = 1
	}
	gauge(descBuild, 1, now.Version)
	gauge(descReady, ready)
	gauge(descSessions, float64(now.Sessions))
	gauge(descEndpoints, float64(now.Endpoints))
	gauge(descStreams, float64(now.Streams))
	gauge(descVisits, float64(now.Visits))
	gauge(descFlows, float64(now.Flows))
	gauge(descNodes, float64(now.Nodes))
	gauge(descRelays, float64(now.Relays))
	gauge(descBehind, now.StoreBehind.Seconds())
	count(descDropped, int64(now.EventsDropped))
	gauge(descLinks, float64(now.Links.Open-now.Links.Away), "connected")
	gauge(descLinks, float64(now.Links.Away), "away")
	count(descLost, now.Links.Lost)
	count(descResumed, now.Links.Resumed)
	count(descLinkBytes, now.Links.In, "in")
	count(descLinkBytes, now.Links.Out, "out")
	gauge(descQueued, float64(now.Links.Queued))
	gauge(descKept, float64(now.Links.Kept))
	gauge(descWindows, float64(now.Links.Windows))
	for reason, n := range now.Refused {
		count(descRefused, n, reason)
	}
	count(descFlowsRefused, now.FlowsRefused)
	count(descFlowsEvicted, now.FlowsEvicted)
	count(descLostDatagram, now.DatagramsLost)
	now.collectCertificates(gauge)
}

// collectCertificates sums them up: each host as a label would be a series for each name
// that agents bind.
func (now *Gauges) collectCertificates(gauge func(*prometheus.Desc, float64, ...string)) {
	var first time.Time
	n := make(map[[2]string]int)
	for _, source := range []string{"file", "acme"} {
		n[[2]string{source, "ready"}] = 0
	}
	for _, c := range now.Certificates {
		n[[2]string{c.Source, c.State}]++
		if !c.Expires.IsZero() && (first.IsZero() || c.Expires.Before(first)) {
			first = c.Expires
		}
	}
	for of, n := range n {
		gauge(descCertificates, float64(n), of[0], of[1])
	}
	if !first.IsZero() {
		gauge(descExpiry, float64(first.Unix()))
	}
}

// Counters count what happens with agents and endpoints. It is a prometheus.Collector.
type Counters struct{ *prometheus.CounterVec }

// NewCounters makes counters at zero.
func NewCounters() *Counters {
	return &Counters{prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "culvert_agent_events_total", Help: "Agents connected, disconnected, refused; endpoints bound, released, refused. A refusal has its code.",
	}, []string{"event", "code"})}
}

// Event counts an event; code is that of a refusal. Both come from tables of the server's, so
// that nobody outside can make series.
func (c *Counters) Event(kind, code string) { c.WithLabelValues(kind, code).Inc() }
