package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// served is an endpoint at work, over all links of a run.
type served struct {
	name    string
	asked   endpoint.Spec // by the user
	request uint64        // of its Binds
	late    bool          // came while the agent ran: its refusal is not the agent's end
	log     *slog.Logger
	// listener has the visitors, instead of an upstream; nil: the upstream.
	listener *Listener

	bytesIn, bytesOut, visits atomic.Int64
	open                      atomic.Int64 // visits that go on
	lost                      atomic.Int64 // datagrams, in flows that have ended
	down                      atomic.Bool  // the last dial of the upstream failed
	check                     check

	mu struct {
		sync.Mutex
		upstream Upstream
		spec     endpoint.Spec // asks for what it once got
		urls     []string
		had      bool              // was online in this run
		gone     bool              // given up, by the user or for the error err
		err      *tunnel.BindError // nil: none

		upstreamError string // of the last dial; empty: it succeeded
	}
}

func newServed(e Endpoint, log *slog.Logger) *served {
	s := &served{name: e.Spec.Name, asked: e.Spec, log: log, listener: e.Listener}
	s.mu.spec, s.mu.upstream = e.Spec, e.Upstream
	if e.Upstream.TLS != nil && e.Upstream.TLS.InsecureSkipVerify {
		log.Warn("the certificate of this upstream is not verified: whoever is between can read and change all", "name", e.Spec.Name, "upstream", e.Upstream.String())
	}
	return s
}

// spec is what to ask for.
func (e *served) spec() endpoint.Spec {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mu.spec
}

// wanted reports whether the endpoint is still to be served.
func (e *served) wanted() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.mu.gone
}

func (e *served) upstream() Upstream {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mu.upstream
}

// move lets new visitors go to another upstream, and reports whether the user would
// call it another.
func (e *served) move(to Upstream) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	other := e.mu.upstream.text != to.text
	e.mu.upstream = to // in any case: its CA may have been renewed
	return other
}

// had reports whether the endpoint was online in this run.
func (e *served) had() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mu.had
}

// giveUp ends the endpoint, for an error or by the user's wish.
func (e *served) giveUp(err *tunnel.BindError) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.gone, e.mu.err = true, err
}

// online notes the answer to a Bind, and reports whether the endpoint's URLs are others now.
// A port or name that the node picked is asked for by itself from then on, so that also
// another node gives the same.
func (e *served) online(m *tunnel.Bound) (urls []string, changed bool) {
	urls = []string{tunnel.Clean(m.GetUrl())}
	for _, u := range m.GetMoreUrls() {
		urls = append(urls, tunnel.Clean(u))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	changed = !slices.Equal(urls, e.mu.urls)
	e.mu.urls, e.mu.had = urls, true
	if p := m.GetPort(); p > 0 && p < 1<<16 {
		e.mu.spec.Port = uint16(p)
	}
	return urls, changed
}

// dial connects to the upstream for a visitor.
func (e *served) dial(ctx context.Context, v endpoint.Visitor) (net.Conn, string, error) {
	e.visits.Add(1)
	c, alpn, err := e.upstream().Dial(ctx, v)
	switch {
	case err != nil && ctx.Err() != nil:
	case err != nil, e.asked.Kind != endpoint.UDP: // a socket for datagrams has reached nobody yet
		e.note(err)
	}
	return c, alpn, err
}

// note says once when the upstream begins or ceases to fail.
func (e *served) note(err error) {
	up := e.upstream()
	switch was := e.down.Load(); {
	case err != nil:
		e.failing(err.Error())
	case was:
		e.failing("")
	}
	switch {
	case err != nil && !e.down.Swap(true):
		e.log.Warn("upstream is down: visitors get an error until it is back", "name", e.name, "upstream", up.String(), "error", err)
	case err == nil && e.down.Swap(false):
		e.log.Info("upstream is back", "name", e.name, "upstream", up.String())
	}
}

func (e *served) failing(why string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.upstreamError = why
}

func (e *served) count(in, out int64) {
	e.bytesIn.Add(in)
	e.bytesOut.Add(out)
}

// await finds the endpoint of a stream, which may have overtaken the Bound of its endpoint: the
// two travel on different streams, and a visitor may be waiting for the name.
func (s *session) await(ctx context.Context, id string) *served {
	a := s.agent
	timeout := time.NewTimer(headerTimeout)
	defer timeout.Stop()
	for {
		a.mu.Lock()
		bound := a.mu.bound
		a.mu.Unlock()
		if e := a.endpoints.byID(s, id); e != nil || !a.endpoints.awaits(s) {
			return e
		}
		select {
		case <-bound:
		case <-timeout.C:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// announce wakes the streams that wait for an endpoint to come online.
func (a *Agent) announce() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.mu.bound)
	a.mu.bound = make(chan struct{})
}

// lost handles an endpoint that the node took away. What a node takes that was left is
// served elsewhere by then.
func (s *session) lost(m *tunnel.Unbound) error {
	a := s.agent
	e := a.endpoints.byID(s, m.GetEndpointId())
	if e == nil || s.left.Load() {
		return nil
	}
	err := &tunnel.BindError{Code: tunnel.Code(m.GetCode()), Message: m.GetMessage()}
	e.giveUp(err)
	a.cfg.Logger.Warn("endpoint lost", "name", e.name, "code", err.Code, "error", err)
	a.tellLost(e, err)
	return a.leftEndpoints(err)
}

// leftEndpoints is an error once no endpoint is left.
func (a *Agent) leftEndpoints(last error) error {
	for _, e := range a.endpoints.list() {
		if e.wanted() {
			return nil
		}
	}
	return fmt.Errorf("%w: %w", ErrNoEndpoints, last)
}

func (a *Agent) tellLost(e *served, err *tunnel.BindError) {
	if a.cfg.Lost != nil {
		a.cfg.Lost(e.name, err)
	}
}

func (s *seat) pong(m *tunnel.Pong) {
	d := time.Since(time.Unix(0, m.GetSentUnixNs()))
	if d < 0 || d > time.Hour {
		return // the clock was set meanwhile
	}
	s.agent.mu.Lock()
	defer s.agent.mu.Unlock()
	s.latency = d
}

// codeOf classifies an error of dialling an upstream.
func codeOf(err error) tunnel.Code {
	var timeout net.Error
	switch {
	case isRefused(err), errors.Is(err, errNotListened):
		return tunnel.CodeUpstreamRefused
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded), errors.Is(err, errNotAccepted):
		return tunnel.CodeUpstreamTimeout
	case errors.Is(err, errTLS):
		return tunnel.CodeUpstreamTLS
	}
	return tunnel.CodeUpstreamUnreachable
}
