package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// table is the records below one prefix, kept as JSON.
type table[T any] struct {
	s    *Store
	name string // such as tokens/
}

// Record is one record and where it stands in the history of the store.
type Record[T any] struct {
	Key   string // without the table's prefix
	Value T

	rev int64 // of its last change
}

// Rev is the store's revision at which the record was last changed.
func (r Record[T]) Rev() int64 { return r.rev }

func (t table[T]) prefix() string         { return t.s.prefix + t.name }
func (t table[T]) path(key string) string { return t.prefix() + key }

// decode reads a record. One that can't be read is told and left alone: a newer version
// may have written it.
func (t table[T]) decode(kv *mvccpb.KeyValue) (Record[T], bool) {
	r := Record[T]{Key: strings.TrimPrefix(string(kv.Key), t.prefix()), rev: kv.ModRevision}
	if err := json.Unmarshal(kv.Value, &r.Value); err != nil {
		t.s.log.Warn("record in the store can't be read", "key", string(kv.Key), "error", err)
		return r, false
	}
	return r, true
}

func encode(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encode record: %w", err)
	}
	if len(b) > maxValue {
		return "", ErrTooLarge
	}
	return string(b), nil
}

// get reads one record, from the majority: what was written before is seen.
func (t table[T]) get(ctx context.Context, key string) (Record[T], error) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	r, err := t.s.client.Get(ctx, t.path(key))
	if err != nil {
		return Record[T]{}, fault(err)
	}
	if len(r.Kvs) == 0 {
		return Record[T]{}, ErrNotFound
	}
	rec, ok := t.decode(r.Kvs[0])
	if !ok {
		return Record[T]{}, ErrNotFound
	}
	return rec, nil
}

// put writes a record if the one that is there has revision rev; 0: if there is none.
// It returns the new revision, or ErrExists or ErrChanged.
func (t table[T]) put(ctx context.Context, key string, rev int64, v T, opts ...clientv3.OpOption) (int64, error) {
	text, err := encode(v)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	r, err := t.s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(t.path(key)), "=", rev)).
		Then(clientv3.OpPut(t.path(key), text, opts...)).Commit()
	switch {
	case err != nil:
		return 0, fault(err)
	case r.Succeeded:
		return r.Header.Revision, nil
	case rev == 0:
		return 0, ErrExists
	}
	return 0, ErrChanged
}

// drop removes a record if it has revision rev; 0: whatever it is. It returns the
// revision of the removal, or ErrNotFound or ErrChanged.
func (t table[T]) drop(ctx context.Context, key string, rev int64) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	op := clientv3.OpDelete(t.path(key))
	txn := t.s.client.Txn(ctx)
	if rev != 0 {
		txn = txn.If(clientv3.Compare(clientv3.ModRevision(t.path(key)), "=", rev))
	}
	r, err := txn.Then(op).Commit()
	switch {
	case err != nil:
		return 0, fault(err)
	case !r.Succeeded:
		return 0, ErrChanged
	case r.Responses[0].GetResponseDeleteRange().Deleted == 0:
		return 0, ErrNotFound
	}
	return r.Header.Revision, nil
}

// pageSize is how many records are read at once.
const pageSize = 5000

// list reads all records as they were at one revision, and returns that.
func (t table[T]) list(ctx context.Context) ([]Record[T], int64, error) {
	var list []Record[T]
	rev, err := readAll(ctx, t.s.client, t.prefix(), pageSize, func(kv *mvccpb.KeyValue) error {
		if rec, ok := t.decode(kv); ok {
			list = append(list, rec)
		}
		return nil
	})
	return list, rev, err
}

// readAll tells of all keys below a prefix as they were at one revision, and returns that.
// They are read in pages; if the revision is compacted meanwhile, that fails.
func readAll(ctx context.Context, kv clientv3.KV, prefix string, size int64, tell func(*mvccpb.KeyValue) error, as ...clientv3.OpOption) (int64, error) {
	from, end, rev := prefix, clientv3.GetPrefixRangeEnd(prefix), int64(0)
	for {
		page, cancel := context.WithTimeout(ctx, 10*Patience) // a page is more than a record
		r, err := kv.Get(page, from, append(slices.Clip(as), clientv3.WithRange(end), clientv3.WithLimit(size), clientv3.WithRev(rev))...)
		cancel()
		if err != nil {
			return 0, fmt.Errorf("read the store: %w", fault(err))
		}
		if rev == 0 {
			rev = r.Header.Revision // those of later pages say where the store is by then
		}
		for _, kv := range r.Kvs {
			if err := tell(kv); err != nil {
				return 0, err
			}
		}
		if !r.More || len(r.Kvs) == 0 {
			return rev, nil
		}
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

// Sink is told what the records of a table are. Its methods are called one after the
// other by one goroutine.
type Sink[T any] interface {
	// Reset says that these are all records.
	Reset(records []Record[T], rev int64)
	// Put says that a record is there, new or changed.
	Put(r Record[T])
	// Drop says that a record is gone.
	Drop(key string)
	// Reached says that everything up to a revision has been told.
	Reached(rev int64)
}

// Pauses of Follow.
const (
	followRetry    = 200 * time.Millisecond
	followProgress = 2 * time.Second
)

// Follow tells the sink of all records and then of each change in the order it was made,
// until ctx ends. What is missed, while the store is away for instance, is made up for by
// the history, and where that has been compacted by reading all anew.
func (t table[T]) Follow(ctx context.Context, sink Sink[T]) {
	next := int64(0) // revision to watch from; 0: read all first
	for ctx.Err() == nil {
		if next == 0 {
			list, rev, err := t.list(ctx)
			if err != nil {
				t.pause(ctx)
				continue
			}
			sink.Reset(list, rev)
			sink.Reached(rev)
			next = rev + 1
		}
		next = t.watch(ctx, sink, next)
	}
}

func (t table[T]) pause(ctx context.Context) {
	select {
	case <-time.After(followRetry):
	case <-ctx.Done():
	}
}

// watch follows from a revision until the watch breaks, and returns from where to go on.
func (t table[T]) watch(ctx context.Context, sink Sink[T], next int64) int64 {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx)) // a member without majority knows nothing new
	defer cancel()
	changes := t.s.client.Watch(ctx, t.prefix(), clientv3.WithPrefix(), clientv3.WithRev(next))
	ask := time.NewTicker(followProgress)
	defer ask.Stop()
	for {
		select {
		case <-ask.C:
			_ = t.s.client.RequestProgress(ctx) // answered on the same stream, if at all
		case r, ok := <-changes:
			switch {
			case !ok:
				t.pause(ctx)
				return next
			case r.CompactRevision != 0 || errors.Is(r.Err(), rpctypes.ErrCompacted):
				return 0
			case r.Err() != nil:
				t.pause(ctx)
				return next
			}
			if len(r.Events) > 0 {
				// Word of progress can overtake changes in servers before 3.5.8: it says
				// that the watch lives, no more.
				t.tell(sink, r.Events)
				// The header's revision may be ahead of events that are still to come.
				next = r.Events[len(r.Events)-1].Kv.ModRevision + 1
			}
			sink.Reached(next - 1)
		}
	}
}

func (t table[T]) tell(sink Sink[T], events []*clientv3.Event) {
	for _, e := range events {
		if e.Type == clientv3.EventTypeDelete {
			sink.Drop(strings.TrimPrefix(string(e.Kv.Key), t.prefix()))
		} else if rec, ok := t.decode(e.Kv); ok {
			sink.Put(rec)
		}
	}
}
