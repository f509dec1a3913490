package agent

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// Status of an agent, as its local API shows it.
type Status struct {
	Server    string           `json:"server"`
	Connected bool             `json:"connected"`
	Also      []string         `json:"also,omitempty"` // servers besides that the agent has sessions at
	Node      string           `json:"node,omitempty"`
	Region    string           `json:"region,omitempty"`
	Transport string           `json:"transport,omitempty"`
	Since     time.Time        `json:"since,omitzero"`    // connected, or not connected any more
	NextTry   time.Time        `json:"next_try,omitzero"` // to connect, while not connected
	Draining  bool             `json:"draining,omitempty"`
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
	// UpstreamError is why the last connection to the upstream failed; empty once one
	// has succeeded.
	UpstreamError string `json:"upstream_error,omitempty"`
	Open          int64  `json:"open"` // visits that go on
	Visits        int64  `json:"visits"`
	BytesIn       int64  `json:"bytes_in"`                 // of visits that have ended
	BytesOut      int64  `json:"bytes_out"`                // likewise
	Lost          int64  `json:"datagrams_lost,omitempty"` // likewise
	// CertSHA256 is the fingerprint of the certificate that visitors are shown by the
	// agent itself; empty where TLS ends elsewhere, or nobody came yet.
	CertSHA256 string `json:"certificate_sha256,omitempty"`
	Error      string `json:"error,omitempty"`
}

// Status returns a snapshot.
func (a *Agent) Status() Status {
	a.mu.Lock()
	s := a.seats[0]
	for _, other := range a.seats {
		if other.connected && !s.connected {
			s = other
		}
	}
	st := Status{
		Server: s.server, Connected: s.connected, Node: s.node, Error: s.lastError,
		Region: s.region, Since: s.since, Draining: a.mu.draining,
		LatencyMS: float64(s.latency.Microseconds()) / 1000,
	}
	if st.Connected {
		st.Transport = string(s.transport)
	} else {
		st.NextTry = s.retry
	}
	for _, other := range a.seats {
		if other != s && other.connected {
			st.Also = append(st.Also, other.server)
		}
	}
	a.mu.Unlock()
	online := a.endpoints.online()
	for _, e := range a.endpoints.list() {
		e.mu.Lock()
		es := EndpointStatus{
			Name: e.name, Kind: string(e.mu.spec.Kind), State: "offline", URLs: e.mu.urls, Upstream: e.mu.upstream.String(),
			Healthy: !e.down.Load(), UpstreamError: e.mu.upstreamError, Open: e.open.Load(), Visits: e.visits.Load(), BytesIn: e.bytesIn.Load(), BytesOut: e.bytesOut.Load(), Lost: e.lost.Load(),
			CertSHA256: e.mu.upstream.Terminate.Fingerprint(),
		}
		if len(e.mu.urls) > 0 {
			es.URL = e.mu.urls[0]
		}
		if online[e] {
			es.State = "online"
		}
		if e.mu.err != nil {
			es.State, es.Error = "lost", e.mu.err.Error()
		}
		e.mu.Unlock()
		st.Endpoints = append(st.Endpoints, es)
	}
	return st
}

// DialUpstream connects to the upstream of an endpoint. h2 says that it is to be spoken
// to in HTTP/2.
func (a *Agent) DialUpstream(ctx context.Context, name string) (conn net.Conn, h2 bool, err error) {
	for _, e := range a.endpoints.list() {
		if e.name == name {
			up := e.upstream()
			conn, alpn, err := up.Dial(ctx, endpoint.Visitor{Protocol: endpoint.AnyProtocol})
			return conn, up.Protocol == endpoint.H2C || alpn == http2, err
		}
	}
	return nil, false, fmt.Errorf("dial upstream: no endpoint is named %q", name)
}
