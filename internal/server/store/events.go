package store

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Event is something an operator may want to know afterwards: who connected, bound, was
// refused. It holds no secret.
type Event struct {
	At     time.Time `json:"at"`
	Node   string    `json:"node"`
	Kind   string    `json:"kind" enum:"agent_connected,agent_disconnected,agent_refused,endpoint_bound,endpoint_released,endpoint_refused"`
	Agent  string    `json:"agent,omitempty"`
	Token  string    `json:"token,omitempty"`
	Name   string    `json:"name,omitempty"`
	Code   string    `json:"code,omitempty"`
	Remote string    `json:"remote,omitempty"`
}

// Bounds of events.
const (
	eventTTL    = 24 * time.Hour
	eventLease  = time.Hour   // a lease takes the events of so long
	eventFlush  = time.Second // events are written together
	eventsAtOne = 100         // at most so many at once; more in a second are counted, not kept
	maxEvents   = 1000        // that are read
)

// Events takes what happens on this node. The zero value can't be used; see Store.Events.
type Events struct {
	s *Store

	mu struct {
		sync.Mutex
		pending []Event
		dropped int
	}
	lease   clientv3.LeaseID
	granted time.Time
	number  int // makes keys of one flush differ
}

func (s *Store) eventTable() table[Event] { return table[Event]{s, "events/"} }

// NewEvents makes a writer of events. Its Run writes them.
func (s *Store) NewEvents() *Events { return &Events{s: s} }

// Add keeps an event. It never waits: more than a hundred in a second are dropped.
func (e *Events) Add(ev Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.mu.pending) >= eventsAtOne {
		e.mu.dropped++
		return
	}
	e.mu.pending = append(e.mu.pending, ev)
}

// Dropped is how many events were not kept.
func (e *Events) Dropped() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mu.dropped
}

// Run writes events until ctx ends.
func (e *Events) Run(ctx context.Context) error {
	tick := time.NewTicker(eventFlush)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		e.mu.Lock()
		list := e.mu.pending
		e.mu.pending = nil
		e.mu.Unlock()
		if len(list) == 0 {
			continue
		}
		if err := e.flush(ctx, list); err != nil {
			e.s.log.Debug("events not written", "count", len(list), "error", err)
			e.mu.Lock()
			e.mu.dropped += len(list)
			e.mu.Unlock()
		}
	}
}

// flush writes events on a lease that takes them away a day later.
func (e *Events) flush(ctx context.Context, list []Event) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	if e.lease == 0 || time.Since(e.granted) > eventLease {
		l, err := e.s.client.Grant(ctx, int64((eventTTL+eventLease)/time.Second))
		if err != nil {
			return fault(err)
		}
		e.lease, e.granted = l.ID, time.Now()
	}
	ops := make([]clientv3.Op, 0, len(list))
	for _, ev := range list {
		text, err := encode(ev)
		if err != nil {
			return err
		}
		e.number++
		key := fmt.Sprintf("%020d-%s-%d", ev.At.UnixNano(), ev.Node, e.number)
		ops = append(ops, clientv3.OpPut(e.s.eventTable().path(key), text, clientv3.WithLease(e.lease)))
	}
	_, err := e.s.client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		e.lease = 0 // it may be the lease that is gone
	}
	return fault(err)
}

// Events reads the last events, the newest first, at most limit and 1,000.
func (s *Store) Events(ctx context.Context, limit int) ([]Event, error) {
	if limit <= 0 || limit > maxEvents {
		limit = maxEvents
	}
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	t := s.eventTable()
	r, err := s.client.Get(ctx, t.prefix(), clientv3.WithPrefix(), clientv3.WithLimit(int64(limit)),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	if err != nil {
		return nil, fmt.Errorf("read events: %w", fault(err))
	}
	list := make([]Event, 0, len(r.Kvs))
	for _, kv := range r.Kvs {
		if rec, ok := t.decode(kv); ok {
			list = append(list, rec.Value)
		}
	}
	slices.SortStableFunc(list, func(a, b Event) int { return b.At.Compare(a.At) })
	return list, nil
}
