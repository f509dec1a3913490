package admin

import (
	"net/http"
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// Visits counts what became of visitors. It is a prometheus.Collector. Its labels come from
// tables: a visitor, or an upstream, can make no series by what he sends.
type Visits struct {
	requests [len(protocols) + 1][maxStatus + 1]atomic.Int64 // the last ones are all others'
	errors   map[string]*atomic.Int64                        // by code
	others   atomic.Int64                                    // errors with a code of no table
	kinds    [len(kinds)]struct {
		visits  atomic.Int64
		in, out atomic.Int64
		took    prometheus.Histogram // nil: it is requests that take time
	}
	took, queue, upstream prometheus.Histogram
}

var (
	protocols = [...]string{"HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "HTTP/3.0"}
	versions  = [...]string{"1.0", "1.1", "2", "3", "other"}
)

// maxStatus is the greatest status that HTTP has.
const maxStatus = 599

// The kinds of visits, as a label says them.
var kinds = [...]string{"http", "upgraded", "tcp", "tls", "udp"}

const (
	kindHTTP = iota
	kindUpgraded
	kindTCP
	kindTLS
	kindUDP
)

var (
	descRequests = prometheus.NewDesc("culvert_http_requests_total", "Requests that are over, by version of HTTP and status of the answer; none if the visitor had left.", []string{"version", "status"}, nil)
	descErrors   = prometheus.NewDesc("culvert_visit_errors_total", "Visits that were not served, by the code that docs/operations.md lists.", []string{"code"}, nil)
	descEnded    = prometheus.NewDesc("culvert_visits_total", "Visits that are over, by kind: requests, what they were upgraded to, connections, flows of datagrams.", []string{"kind"}, nil)
	descBytes    = prometheus.NewDesc("culvert_visit_bytes_total", "Bytes from (in) and to (out) visitors whose visit is over; of requests, those of the bodies.", []string{"kind", "direction"}, nil)
)

// NewVisits makes counters at zero. The codes are those that visits may have.
func NewVisits(codes ...string) *Visits {
	brief := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	long := []float64{.01, .1, 1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600}
	histogram := func(name, help string, buckets []float64, labels prometheus.Labels) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets, ConstLabels: labels})
	}
	v := &Visits{
		errors:   make(map[string]*atomic.Int64),
		took:     histogram("culvert_http_request_duration_seconds", "From a request's head to the end of its answer; requests that became connections are not in it.", brief, nil),
		queue:    histogram("culvert_http_queue_duration_seconds", "From a request's head until it had a stream to the agent.", brief, nil),
		upstream: histogram("culvert_http_upstream_duration_seconds", "From there to the head of the answer.", brief, nil),
	}
	for i, kind := range kinds {
		if i != kindHTTP {
			v.kinds[i].took = histogram("culvert_connection_duration_seconds", "How long connections and flows lasted, by kind.", long, prometheus.Labels{"kind": kind})
		}
	}
	for _, code := range codes {
		v.errors[code] = new(atomic.Int64)
	}
	return v
}

// Observe counts a visit. It may be called by many at once, and allocates nothing.
func (v *Visits) Observe(is endpoint.Visit) {
	kind := kindHTTP
	switch {
	case is.Upgraded:
		kind = kindUpgraded
	case is.Kind == endpoint.TCP:
		kind = kindTCP
	case is.Kind == endpoint.TLS:
		kind = kindTLS
	case is.Kind == endpoint.UDP:
		kind = kindUDP
	}
	if kind <= kindUpgraded {
		v.requests[protocol(is.Proto)][status(is.Status)].Add(1)
		if is.Queue > 0 {
			v.queue.Observe(is.Queue.Seconds())
		}
		if is.Upstream > 0 {
			v.upstream.Observe(is.Upstream.Seconds())
		}
	}
	if is.Code != "" {
		if n := v.errors[is.Code]; n != nil {
			n.Add(1)
		} else {
			v.others.Add(1)
		}
	}
	k := &v.kinds[kind]
	k.visits.Add(1)
	k.in.Add(is.In)
	k.out.Add(is.Out)
	if k.took != nil {
		k.took.Observe(is.Took.Seconds())
	} else {
		v.took.Observe(is.Took.Seconds())
	}
}

// protocol is the place of a version of HTTP.
func protocol(proto string) int {
	for i, p := range protocols {
		if p == proto {
			return i
		}
	}
	return len(protocols)
}

// status is the place of a status: an upstream may make up its own, which are counted by
// their class.
func status(code int) int {
	switch {
	case code == 0 || http.StatusText(code) != "" && code <= maxStatus:
		return code
	case code >= 100 && code <= maxStatus:
		return code / 100
	}
	return 9
}

// statusLabel says what is counted at a place.
func statusLabel(place int) string {
	switch {
	case place == 0:
		return "none"
	case place == 9:
		return "other"
	case place < 9:
		return strconv.Itoa(place) + "xx"
	}
	return strconv.Itoa(place)
}

// Describe implements prometheus.Collector.
func (v *Visits) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(v, ch) }

// Collect implements prometheus.Collector.
func (v *Visits) Collect(ch chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, n int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	for p := range v.requests {
		for s := range v.requests[p] {
			// The commonest is there from the start, so that rates have where to begin.
			if n := v.requests[p][s].Load(); n > 0 || s == http.StatusOK && p < len(protocols) {
				count(descRequests, n, versions[p], statusLabel(s))
			}
		}
	}
	for code, n := range v.errors {
		count(descErrors, n.Load(), code)
	}
	count(descErrors, v.others.Load(), "other")
	for i := range v.kinds {
		k := &v.kinds[i]
		count(descEnded, k.visits.Load(), kinds[i])
		count(descBytes, k.in.Load(), kinds[i], "in")
		count(descBytes, k.out.Load(), kinds[i], "out")
		if k.took != nil {
			k.took.Collect(ch)
		}
	}
	v.took.Collect(ch)
	v.queue.Collect(ch)
	v.upstream.Collect(ch)
}
