package edge

import (
	"context"
	"crypto/x509"
	"net/http"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// exchange is one request of a visitor and what became of it, whatever version of HTTP
// it came by. It is begun by Edge.begin and ended, once, by Edge.end, which is where
// whoever counts or logs requests learns of it.
type exchange struct {
	visitor endpoint.Visitor // its ID names the exchange, here, at the agent and for others: X-Request-Id
	secure  bool             // came by TLS
	// chains lead from the certificate that the visitor has shown, if he was asked, to CAs of
	// the host's endpoints.
	chains [][]*x509.Certificate
	proto  string // HTTP/1.1, HTTP/2.0 …
	method string
	host   string // as the visitor wrote it
	target string // likewise, query and all
	// webSocket says that it is the extended CONNECT by which WebSocket begins over HTTP/2
	// (RFC 8441, section 5) and HTTP/3 (RFC 9220).
	webSocket bool

	head cookies // of the request

	userAgent, referer string // for the log, if there is one

	route  *registry.Route   // where it led; nil: nowhere
	tried  []*registry.Route // where to it was led in vain before
	answer []byte            // to the challenge of a CA, in place of a route; nil: none
	status int               // of the answer; 0: there was none
	code   tunnel.Code       // of an answer that is the edge's own
	err    error             // why it was not served, or not to the end

	bytesIn  int64     // of the request's body, as content
	bytesOut int64     // of the answer's
	began    time.Time // when its head was there
	sent     time.Time // when it had a stream
	answered time.Time // when the answer's head was there
}

func (e *Edge) begin(x *exchange) {
	e.visits.Enter()
	x.began = time.Now()
}

// take leads the exchange by a route.
func (x *exchange) take(route *registry.Route) {
	x.drop()
	x.route = route
	route.Begin()
}

// drop ends that.
func (x *exchange) drop() {
	if x.route != nil {
		x.route.End()
	}
}

func (e *Edge) end(ctx context.Context, x *exchange) {
	x.drop()
	e.visits.Leave()
	e.cfg.Served(x.visit())
	e.log(ctx, x)
}

// visit is what is counted of an exchange that has ended.
func (x *exchange) visit() endpoint.Visit {
	v := endpoint.Visit{
		Kind: endpoint.HTTP, Proto: x.proto, Status: x.status, Code: string(x.code), In: x.bytesIn, Out: x.bytesOut,
		Upgraded: x.status == http.StatusSwitchingProtocols || x.webSocket && x.status == http.StatusOK, Took: time.Since(x.began),
	}
	if !x.sent.IsZero() {
		v.Queue = x.sent.Sub(x.began)
		if !x.answered.IsZero() {
			v.Upstream = x.answered.Sub(x.sent)
		}
	}
	return v
}
