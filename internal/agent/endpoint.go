package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// served is an endpoint at work, over all links of a run.
type served struct {
	name     string
	upstream Upstream
	log      *slog.Logger

	bytesIn, bytesOut, visits atomic.Int64
	down                      atomic.Bool // the last dial of the upstream failed

	mu struct {
		sync.Mutex
		spec  endpoint.Spec // asks for what it once got
		id    string        // while online
		urls  []string
		had   bool // was online in this run
		tries int  // of Binds refused since
		gone  *tunnel.BindError
	}
}

func newServed(e Endpoint, log *slog.Logger) *served {
	s := &served{name: e.Spec.Name, upstream: e.Upstream, log: log}
	s.mu.spec = e.Spec
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
	return e.mu.gone == nil
}

// online notes the answer to a Bind. A port or name that the node picked is asked
// for by itself from then on, so that also another node gives the same.
func (e *served) online(m *tunnel.Bound) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.id = m.GetEndpointId()
	e.mu.urls = []string{tunnel.Clean(m.GetUrl())}
	for _, u := range m.GetMoreUrls() {
		e.mu.urls = append(e.mu.urls, tunnel.Clean(u))
	}
	e.mu.had = true
	e.mu.tries = 0
	if p := m.GetPort(); p > 0 && p < 1<<16 {
		e.mu.spec.Port = uint16(p)
	}
	return e.mu.urls
}

func (e *served) offline() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.id = ""
}

// refused notes that a Bind was refused and says whether and when to ask again.
func (e *served) refused(err *tunnel.BindError) (again bool, wait time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.id = ""
	if err.Code == tunnel.CodeSuperseded || (!err.Retryable && !e.mu.had) {
		e.mu.gone = err
		return false, 0
	}
	wait = min(rebindMin<<min(e.mu.tries, 10), rebindMax)
	e.mu.tries++
	return true, jitter(wait)
}

// dial connects to the upstream and says once when that begins or ceases to fail.
func (e *served) dial(ctx context.Context) (net.Conn, error) {
	e.visits.Add(1)
	c, err := e.upstream.Dial(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
	case err != nil && !e.down.Swap(true):
		e.log.Warn("upstream is down: visitors get an error until it is back", "name", e.name, "upstream", e.upstream.String(), "error", err)
	case err == nil && e.down.Swap(false):
		e.log.Info("upstream is back", "name", e.name, "upstream", e.upstream.String())
	}
	return c, err
}

func (e *served) count(in, out int64) {
	e.bytesIn.Add(in)
	e.bytesOut.Add(out)
}

// byRequest finds an endpoint by the request number of its Bind.
func (a *Agent) byRequest(n uint64) *served {
	if n >= uint64(len(a.endpoints)) {
		return nil
	}
	return a.endpoints[n]
}

// byID finds an endpoint by the id the node gave it. An agent has few endpoints.
func (a *Agent) byID(id string) *served {
	if id == "" {
		return nil
	}
	for _, e := range a.endpoints {
		e.mu.Lock()
		found := e.mu.id == id
		e.mu.Unlock()
		if found {
			return e
		}
	}
	return nil
}

// await is byID for a stream that may have overtaken the Bound of its endpoint: the
// two travel on different streams, and a visitor may be waiting for the name.
func (a *Agent) await(ctx context.Context, id string) *served {
	timeout := time.NewTimer(headerTimeout)
	defer timeout.Stop()
	for {
		a.mu.Lock()
		bound := a.mu.bound
		a.mu.Unlock()
		if e := a.byID(id); e != nil || !a.binding() {
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

// binding reports whether an answer to a Bind is still to come.
func (a *Agent) binding() bool {
	for _, e := range a.endpoints {
		e.mu.Lock()
		waits := e.mu.id == "" && e.mu.gone == nil
		e.mu.Unlock()
		if waits {
			return true
		}
	}
	return false
}

// announce wakes the streams that wait for an endpoint to come online.
func (a *Agent) announce() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.mu.bound)
	a.mu.bound = make(chan struct{})
}

// lost handles an endpoint that the node took away.
func (a *Agent) lost(m *tunnel.Unbound) error {
	e := a.byID(m.GetEndpointId())
	if e == nil {
		return nil
	}
	err := &tunnel.BindError{Code: tunnel.Code(m.GetCode()), Message: m.GetMessage()}
	e.mu.Lock()
	e.mu.id, e.mu.gone = "", err
	e.mu.Unlock()
	a.cfg.Logger.Warn("endpoint lost", "name", e.name, "code", err.Code, "error", err)
	return a.leftEndpoints(err)
}

// leftEndpoints is an error once no endpoint is left.
func (a *Agent) leftEndpoints(last error) error {
	for _, e := range a.endpoints {
		if e.wanted() {
			return nil
		}
	}
	return fmt.Errorf("%w: %w", ErrNoEndpoints, last)
}

func (a *Agent) pong(m *tunnel.Pong) {
	d := time.Since(time.Unix(0, m.GetSentUnixNs()))
	if d < 0 || d > time.Hour {
		return // the clock was set meanwhile
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.latency = d
}

// codeOf classifies an error of dialling an upstream.
func codeOf(err error) tunnel.Code {
	var timeout net.Error
	switch {
	case isRefused(err):
		return tunnel.CodeUpstreamRefused
	case isTLS(err):
		return tunnel.CodeUpstreamTLS
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return tunnel.CodeUpstreamTimeout
	}
	return tunnel.CodeUpstreamUnreachable
}
