package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Node is a running server, as the others see it.
type Node struct {
	ID      string    `json:"id"` // persistent
	Name    string    `json:"name"`
	Region  string    `json:"region,omitempty"`
	Version string    `json:"version,omitempty"`
	Since   time.Time `json:"since"`
	Peer    string    `json:"peer,omitempty"` // host:port for other nodes' visitors
	Link    string    `json:"link,omitempty"` // host:port for agents of other nodes
	Lease   int64     `json:"lease"`          // on which all hangs that goes with the node
}

// The lease of a node. What a dead node leaves behind is gone after its TTL.
const (
	NodeTTL   = 10 * time.Second
	keepAlive = 3 * time.Second
)

func (s *Store) nodeTable() table[Node] { return table[Node]{s, "nodes/"} }

// Nodes returns the nodes that are there, sorted by name.
func (s *Store) Nodes() []Node {
	var list []Node
	for _, r := range s.nodes.All() {
		list = append(list, r.Value)
	}
	slices.SortFunc(list, func(a, b Node) int { return strings.Compare(a.Name+a.ID, b.Name+b.ID) })
	return list
}

// Node returns the node with an id, if it is there.
func (s *Store) Node(id string) (Node, bool) {
	r, ok := s.nodes.Get(id)
	return r.Value, ok
}

// Authority is the CA by which the nodes of a cluster know each other. Its key is the
// cluster's: who may read the store may be a node.
type Authority struct {
	Cert []byte `json:"cert"` // DER
	Key  []byte `json:"key"`  // PKCS #8
}

// Authority returns the cluster's CA. The first node makes it.
func (s *Store) Authority(ctx context.Context, create func() (Authority, error)) (Authority, error) {
	t := table[Authority]{s, "cluster/"}
	rec, err := t.get(ctx, "ca")
	if !errors.Is(err, ErrNotFound) {
		return rec.Value, err
	}
	a, err := create()
	if err != nil {
		return a, err
	}
	_, err = t.put(ctx, "ca", 0, a)
	if errors.Is(err, ErrExists) {
		rec, err = t.get(ctx, "ca")
		a = rec.Value
	}
	return a, err
}

// Presence is this node's own record and lease. All live keys of a node hang on the one
// lease, so that the cost of being there grows with nodes, not with endpoints.
type Presence struct {
	s    *Store
	ttl  time.Duration
	node Node

	mu struct {
		sync.Mutex
		lease   clientv3.LeaseID // 0: none at the moment
		renewed time.Time        // when the lease was last known to live
	}
}

// Join says that the node is there. What an earlier life of the same node left is gone by
// then: a server that was killed and comes back at once finds none of its own ghosts.
func (s *Store) Join(ctx context.Context, node Node) (*Presence, error) {
	p := &Presence{s: s, ttl: NodeTTL, node: node}
	old, err := s.nodeTable().get(ctx, node.ID)
	if err == nil && old.Value.Lease != 0 {
		err = s.revoke(ctx, clientv3.LeaseID(old.Value.Lease))
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("join: %w", err)
	}
	if err := p.grant(ctx); err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	return p, nil
}

func (s *Store) revoke(ctx context.Context, lease clientv3.LeaseID) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	_, err := s.client.Revoke(ctx, lease)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return fault(err)
}

// grant gets a lease and writes the node's record on it.
func (p *Presence) grant(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	l, err := p.s.client.Grant(short, int64(p.ttl/time.Second))
	if err != nil {
		return fault(err)
	}
	node := p.node
	node.Lease = int64(l.ID)
	text, err := encode(node)
	if err != nil {
		return err
	}
	if _, err := p.s.client.Put(short, p.s.nodeTable().path(node.ID), text, clientv3.WithLease(l.ID)); err != nil {
		return fault(err)
	}
	p.mu.Lock()
	p.mu.lease, p.mu.renewed = l.ID, time.Now()
	p.mu.Unlock()
	return nil
}

// Run keeps the lease alive until ctx ends. Each time it has been lost, and another one
// is there, regained is called: what hung on the old one is gone and must be written again.
func (p *Presence) Run(ctx context.Context, regained func()) error {
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if p.renew(ctx) {
			continue
		}
		if err := p.grant(ctx); err == nil {
			regained()
		}
	}
}

// renew reports whether the lease lives, as far as can be known.
func (p *Presence) renew(ctx context.Context) bool {
	lease := p.lease()
	if lease == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	_, err := p.s.client.KeepAliveOnce(ctx, lease)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil:
		p.mu.renewed = time.Now()
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		p.mu.lease = 0
		return false
	}
	return true // not known: the lease may live, and etcd lengthens it after its own troubles
}

func (p *Presence) lease() clientv3.LeaseID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.lease
}

// FollowRoutes is the store's.
func (p *Presence) FollowRoutes(ctx context.Context, sink Sink[Route]) { p.s.FollowRoutes(ctx, sink) }

// Node is this node's id.
func (p *Presence) Node() string { return p.node.ID }

// Silent is for how long the lease could not be renewed beyond the usual.
func (p *Presence) Silent() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(0, time.Since(p.mu.renewed)-keepAlive-Patience)
}

// Leave says at once what the others would notice after the lease's TTL.
func (p *Presence) Leave(ctx context.Context) error {
	p.mu.Lock()
	lease := p.mu.lease
	p.mu.lease = 0
	p.mu.Unlock()
	if lease == 0 {
		return nil
	}
	return p.s.revoke(ctx, lease)
}
