package store

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Load is what a node's members of pools have to do, told now and then. It hangs on the
// node's lease.
type Load struct {
	Visitors map[string]int64 `json:"visitors"` // by Route.Endpoint; what is left out has none to speak of
}

func (s *Store) loadTable() table[Load] { return table[Load]{s, "loads/"} }

// TellLoad replaces what this node has told.
func (p *Presence) TellLoad(ctx context.Context, l Load) error {
	lease := p.lease()
	if lease == 0 {
		return ErrUnavailable
	}
	text, err := encode(l)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	_, err = p.s.client.Put(ctx, p.s.loadTable().path(p.node.ID), text, clientv3.WithLease(lease))
	return fault(err)
}

// FollowLoads tells the sink of what nodes have told, under their ids, and of each change,
// until ctx ends.
func (p *Presence) FollowLoads(ctx context.Context, sink Sink[Load]) {
	p.s.loadTable().Follow(ctx, sink)
}
