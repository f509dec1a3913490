package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Files are small files with paths, and locks on names, for all nodes together: what a
// certificate manager needs. Paths have no leading slash.
type Files struct {
	s *Store

	mu struct {
		sync.Mutex
		held map[string]*heldLock
	}
}

type heldLock struct {
	lease  clientv3.LeaseID
	cancel context.CancelFunc
	done   chan struct{}
}

// File is what is known of one.
type File struct {
	Path     string
	Modified time.Time
	Size     int64
}

// Locks.
const (
	lockTTL   = 15 * time.Second
	lockRenew = 5 * time.Second
)

// ErrNotLocked says that a lock was not held.
var ErrNotLocked = errors.New("the lock is not held")

// Certs are the files of the certificate manager.
func (s *Store) Certs() *Files {
	f := &Files{s: s}
	f.mu.held = make(map[string]*heldLock)
	return f
}

func (f *Files) path(name string) string { return f.s.prefix + "certs/" + name }
func (f *Files) lock(name string) string { return f.s.prefix + "locks/certs/" + name }

// A value is its time of writing in nanoseconds, and then the content.
const stampSize = 8

// Write replaces or makes a file of at most 1 MiB.
func (f *Files) Write(ctx context.Context, name string, content []byte) error {
	if len(content) > maxValue {
		return fmt.Errorf("write %s: %w", name, ErrTooLarge)
	}
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	b := binary.BigEndian.AppendUint64(make([]byte, 0, stampSize+len(content)), uint64(time.Now().UnixNano())) //nolint:gosec // after 1970
	_, err := f.s.client.Put(ctx, f.path(name), string(append(b, content...)))
	if err != nil {
		return fmt.Errorf("write %s: %w", name, fault(err))
	}
	return nil
}

// Read returns a file's content. It returns ErrNotFound if there is none.
func (f *Files) Read(ctx context.Context, name string) ([]byte, File, error) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	r, err := f.s.client.Get(ctx, f.path(name))
	if err != nil {
		return nil, File{}, fmt.Errorf("read %s: %w", name, fault(err))
	}
	if len(r.Kvs) == 0 || len(r.Kvs[0].Value) < stampSize {
		return nil, File{}, fmt.Errorf("read %s: %w", name, ErrNotFound)
	}
	v := r.Kvs[0].Value
	file := File{Path: name, Modified: time.Unix(0, int64(binary.BigEndian.Uint64(v))), Size: int64(len(v) - stampSize)} //nolint:gosec // as written
	return v[stampSize:], file, nil
}

// Remove removes a file, or all below a directory. It returns ErrNotFound if there is
// neither.
func (f *Files) Remove(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	r, err := f.s.client.Txn(ctx).Then(
		clientv3.OpDelete(f.path(name)),
		clientv3.OpDelete(f.path(name)+"/", clientv3.WithPrefix()),
	).Commit()
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, fault(err))
	}
	for _, res := range r.Responses {
		if res.GetResponseDeleteRange().Deleted > 0 {
			return nil
		}
	}
	return fmt.Errorf("remove %s: %w", name, ErrNotFound)
}

// List returns the paths of all files below a directory, sorted; "" is the root.
func (f *Files) List(ctx context.Context, dir string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	from := f.path("")
	if dir != "" {
		from = f.path(strings.TrimSuffix(dir, "/") + "/")
	}
	r, err := f.s.client.Get(ctx, from, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, fault(err))
	}
	paths := make([]string, 0, len(r.Kvs))
	for _, kv := range r.Kvs {
		paths = append(paths, strings.TrimPrefix(string(kv.Key), f.path("")))
	}
	return paths, nil
}

// Lock waits until nobody else, on any node, has the lock of that name. It is kept until
// Unlock, or until this process dies and its lease with it.
func (f *Files) Lock(ctx context.Context, name string) error {
	for {
		lease, rev, err := f.tryLock(ctx, name)
		if err != nil {
			return fmt.Errorf("lock %s: %w", name, err)
		}
		if lease != 0 {
			f.keep(ctx, name, lease)
			return nil
		}
		if err := f.released(ctx, name, rev); err != nil {
			return fmt.Errorf("lock %s: %w", name, err)
		}
	}
}

// tryLock returns the lease of the lock, or 0 and the revision at which somebody else
// had it.
func (f *Files) tryLock(ctx context.Context, name string) (clientv3.LeaseID, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	l, err := f.s.client.Grant(ctx, int64(lockTTL/time.Second))
	if err != nil {
		return 0, 0, fault(err)
	}
	r, err := f.s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(f.lock(name)), "=", 0)).
		Then(clientv3.OpPut(f.lock(name), "", clientv3.WithLease(l.ID))).Commit()
	if err == nil && r.Succeeded {
		return l.ID, 0, nil
	}
	_ = f.s.revoke(ctx, l.ID) // what was written in spite of an error goes with it
	if err != nil {
		return 0, 0, fault(err)
	}
	return 0, r.Header.Revision, nil
}

// released waits until the lock's key is removed after a revision.
func (f *Files) released(ctx context.Context, name string, rev int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	again := time.NewTimer(lockTTL) // whatever happens to the watch
	defer again.Stop()
	changes := f.s.client.Watch(ctx, f.lock(name), clientv3.WithRev(rev+1))
	for {
		select {
		case r, ok := <-changes:
			if !ok || r.Err() != nil {
				changes = nil // the timer is left
			}
			for _, e := range r.Events {
				if e.Type == clientv3.EventTypeDelete {
					return nil
				}
			}
		case <-again.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// keep renews a lock's lease until Unlock.
func (f *Files) keep(ctx context.Context, name string, lease clientv3.LeaseID) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // who locks may be done before the lock is
	h := &heldLock{lease: lease, cancel: cancel, done: make(chan struct{})}
	f.mu.Lock()
	f.mu.held[name] = h
	f.mu.Unlock()
	f.s.tasks.Go(func() {
		defer close(h.done)
		tick := time.NewTicker(lockRenew)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-f.s.client.Ctx().Done():
				return
			case <-tick.C:
			}
			short, cancel := context.WithTimeout(ctx, Patience)
			_, err := f.s.client.KeepAliveOnce(short, lease)
			cancel()
			if errors.Is(err, rpctypes.ErrLeaseNotFound) {
				f.s.log.Warn("lock lost: the store was away for too long", "lock", name)
				return
			}
		}
	})
}

// Unlock gives a lock back.
func (f *Files) Unlock(ctx context.Context, name string) error {
	f.mu.Lock()
	h := f.mu.held[name]
	delete(f.mu.held, name)
	f.mu.Unlock()
	if h == nil {
		return fmt.Errorf("unlock %s: %w", name, ErrNotLocked)
	}
	h.cancel()
	<-h.done
	if err := f.s.revoke(ctx, h.lease); err != nil {
		return fmt.Errorf("unlock %s: %w", name, err) // it ends with its lease
	}
	return nil
}
