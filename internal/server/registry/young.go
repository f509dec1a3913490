package registry

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// youth is the time after a node's start in which names that it does not know may
// belong to agents that have not yet found back: visitors wait for them.
type youth struct {
	end  time.Time   // zero: there is none
	past atomic.Bool // it is over, and no clock needs to be asked

	mu struct {
		sync.Mutex
		waiting int
		bound   chan struct{} // closed and replaced when a name is bound
	}
}

func newYouth(d time.Duration) *youth {
	y := &youth{}
	if d > 0 {
		y.end = time.Now().Add(d)
	}
	y.mu.bound = make(chan struct{})
	return y
}

func (y *youth) over() bool {
	if y.past.Load() {
		return true
	}
	if !y.end.IsZero() && time.Now().Before(y.end) {
		return false
	}
	y.past.Store(true)
	return true
}

// announce wakes who waits for a name.
func (y *youth) announce() {
	if y.over() {
		return
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	close(y.mu.bound)
	y.mu.bound = make(chan struct{})
}

// AwaitHost waits, while the node is young, until something that may have this host as its
// TLS server name is known.
func (r *Registry) AwaitHost(ctx context.Context, host string) {
	if host == "" || host == r.cfg.Domain || r.youth.over() {
		return
	}
	_, parent, _ := strings.Cut(host, ".")
	r.await(ctx,
		endpoint.Name{Kind: endpoint.HTTP, Host: host}, endpoint.Name{Kind: endpoint.TLS, Host: host},
		endpoint.Name{Kind: endpoint.TLS, Host: "*." + parent})
}

// await waits, while the node is young, until one of these names is known.
func (r *Registry) await(ctx context.Context, names ...endpoint.Name) {
	y := r.youth
	if y.over() {
		return
	}
	ctx, cancel := context.WithDeadline(ctx, y.end)
	defer cancel()
	for !y.over() {
		y.mu.Lock()
		bound := y.mu.bound
		crowded := y.mu.waiting >= r.cfg.MaxWaiting
		if !crowded {
			y.mu.waiting++
		}
		y.mu.Unlock()
		if crowded {
			return
		}
		known := false
		for _, name := range names {
			_, has := r.Spec(name)
			known = known || has
		}
		if !known {
			select {
			case <-bound:
			case <-ctx.Done():
			}
		}
		y.mu.Lock()
		y.mu.waiting--
		y.mu.Unlock()
		if known || ctx.Err() != nil {
			return
		}
	}
}
