package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// check looks at an upstream time and again, so that the node can lead visitors to other
// members of a pool.
type check struct {
	mu struct {
		sync.Mutex
		next    time.Time // when to look again
		looking bool
		known   bool // how it is
		down    bool
		against int // results in a row that say otherwise
	}
}

// against is how many results in a row change what is known: one slow answer in between
// should not move all visitors.
const against = 2

// checkTick is how often it is seen which checks are due.
const checkTick = 250 * time.Millisecond

// checkUpstreams checks those that are to be, each in its own time, until ctx ends.
func (a *Agent) checkUpstreams(ctx context.Context) {
	var looks sync.WaitGroup
	defer looks.Wait()
	tick := time.NewTicker(checkTick)
	defer tick.Stop()
	for {
		for _, e := range a.endpoints.list() {
			if c := e.asked.Pool.Check; c.Asked() && e.listener == nil && e.wanted() && e.check.due(c, time.Now()) {
				looks.Go(func() { a.look(ctx, e, c) })
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// due reports whether to look now, and takes note of it.
func (c *check) due(how endpoint.Check, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.looking || now.Before(c.mu.next) {
		return false
	}
	every := how.Every
	if every == 0 {
		every = endpoint.DefaultCheckEvery
	}
	c.mu.looking, c.mu.next = true, now.Add(jitter(every))
	return true
}

// found takes a result and reports whether it changes what is known.
func (c *check) found(down bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.looking = false
	if c.mu.known && c.mu.down == down {
		c.mu.against = 0
		return false
	}
	if c.mu.against++; c.mu.known && c.mu.against < against {
		return false
	}
	changes := c.mu.known || down // until the first one an upstream counts as well
	c.mu.known, c.mu.down, c.mu.against = true, down, 0
	return changes
}

func (c *check) isDown() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.down
}

// look checks an upstream once, and tells the node what has changed.
func (a *Agent) look(ctx context.Context, e *served, how endpoint.Check) {
	timeout := how.Timeout
	if timeout == 0 {
		timeout = endpoint.DefaultCheckTimeout
	}
	short, cancel := context.WithTimeout(ctx, timeout)
	err := e.upstream().look(short, how.Path, e.asked.HostHeader)
	cancel()
	if ctx.Err() != nil || !e.check.found(err != nil) {
		return
	}
	if err != nil {
		a.cfg.Logger.Warn("upstream is not well: visitors go to other members of the pool", "name", e.name, "upstream", e.upstream().String(), "error", err)
	} else {
		a.cfg.Logger.Info("upstream is well again", "name", e.name, "upstream", e.upstream().String())
	}
	a.endpoints.tellHealth(e)
}

// tellHealth tells the nodes that an endpoint is bound at how its upstream is.
func (t *table) tellHealth(e *served) {
	t.mu.Lock()
	var at []given
	for _, s := range t.sessions {
		if b := s.binds.of[e]; b != nil && b.phase == online {
			at = append(at, given{s, b.id})
		}
	}
	t.mu.Unlock()
	for _, g := range at {
		_ = g.session.send(&tunnel.Control{Message: &tunnel.Control_Health{Health: &tunnel.Health{EndpointId: g.id, Down: e.check.isDown()}}})
	}
}

var errStatus = errors.New("it answered")

// maxCheckBody bounds what is read of the answer to a check.
const maxCheckBody = 64 << 10

// look connects to the upstream and, if there is a path, asks for it.
func (u Upstream) look(ctx context.Context, path, host string) error {
	v := endpoint.Visitor{}
	if path == "" {
		c, _, err := u.Dial(ctx, v)
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, _, err := u.Dial(ctx, v)
			return c, err
		},
		Protocols: new(http.Protocols), DisableKeepAlives: true, MaxResponseHeaderBytes: maxCheckBody,
	}
	transport.Protocols.SetHTTP1(u.Protocol != endpoint.H2C)
	transport.Protocols.SetUnencryptedHTTP2(u.Protocol == endpoint.H2C)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://upstream"+path, nil)
	if err != nil {
		return err
	}
	if r.Host = host; host == "" {
		r.Host = u.Address
	}
	if u.Network != "tcp" && host == "" {
		r.Host = "localhost" // the path of a socket is no host
	}
	r.Header.Set("User-Agent", "culvert-check")
	res, err := transport.RoundTrip(r)
	if err != nil {
		return err
	}
	_, _ = io.CopyN(io.Discard, res.Body, maxCheckBody)
	_ = res.Body.Close()
	transport.CloseIdleConnections()
	if res.StatusCode < 200 || res.StatusCode > 399 {
		return fmt.Errorf("%w %s", errStatus, res.Status)
	}
	return nil
}
