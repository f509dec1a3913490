package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/server/store"
)

// prefix is where routes stand in etcd.
const prefix = "culvert/routes/"

// etcd is a client beside the store's, which counts the bytes of its connection.
type etcd struct {
	*clientv3.Client
	in, out atomic.Int64
}

func dial(dir string) (*etcd, error) {
	e := new(etcd)
	path := filepath.Join(dir, "etcd", "client.sock")
	var err error
	e.Client, err = clientv3.New(clientv3.Config{
		Endpoints: []string{"unix://" + path},
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
			return &counted{c, e}, err
		})},
	})
	return e, err
}

// counted is a connection whose bytes are counted.
type counted struct {
	net.Conn
	e *etcd
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.e.in.Add(int64(n))
	return n, err
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.e.out.Add(int64(n))
	return n, err
}

// name is the i-th name.
func name(i int) endpoint.Name {
	return endpoint.Name{Kind: endpoint.HTTP, Host: fmt.Sprintf("app-%07d.example.com", i)}
}

// route is what stands in the store of the i-th name.
func route(i int, node string) store.Route {
	spec, _ := json.Marshal(endpoint.Spec{Kind: endpoint.HTTP, Host: name(i).Host, Name: "web"})
	return store.Route{
		Name: name(i).String(), Node: node, Session: uuid.NewString(), Endpoint: uuid.NewString(), Agent: uuid.NewString(),
		Generation: 1, Token: "0123456789", Since: time.Now().UTC(), Spec: spec,
	}
}

// put writes the first n names, as of the nodes in turn, and returns their bytes.
func (e *etcd) put(ctx context.Context, nodes []store.Node, n int) (size int64, err error) {
	const batch = 100
	for from := 0; from < n; from += batch {
		var ops []clientv3.Op
		for i := from; i < min(from+batch, n); i++ {
			op, bytes := write(i, nodes)
			size += bytes
			ops = append(ops, op)
		}
		if _, err := e.Txn(ctx).Then(ops...).Commit(); err != nil {
			return 0, err
		}
	}
	return size, nil
}

func write(i int, nodes []store.Node) (op clientv3.Op, bytes int64) {
	node := nodes[i%len(nodes)]
	r := route(i, node.ID)
	text, _ := json.Marshal(r)
	return clientv3.OpPut(prefix+r.Key(), string(text), clientv3.WithLease(clientv3.LeaseID(node.Lease))), int64(len(prefix) + len(r.Key()) + len(text))
}

// known reports whether a registry knows who serves a name.
func known(ctx context.Context, r *registry.Registry, n endpoint.Name) bool {
	_, err := r.Lookup(ctx, &endpoint.Visitor{Name: n})
	return err == nil
}

// watcher is a node that follows the routes, as far as etcd can tell.
type watcher struct {
	*etcd
	seen chan time.Time // when it heard of each change
}

// watch changes names while nobody watches, and while all nodes do.
func watch(ctx context.Context, dir string, e *etcd, all []store.Node) error {
	alone, _, err := change(ctx, e, all, nil)
	if err != nil {
		return err
	}
	row("each change, nobody watching", "processor time", alone)
	before := memory()
	var watchers []*watcher
	for range *nodes {
		w := &watcher{seen: make(chan time.Time, *changes)}
		if w.etcd, err = dial(dir); err != nil {
			return err
		}
		defer w.Close() // ends with the process
		events := w.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		if r := <-events; r.Err() != nil {
			return r.Err()
		}
		go func() {
			for r := range events {
				for range r.Events {
					w.seen <- time.Now()
				}
			}
		}()
		watchers = append(watchers, w)
	}
	row("each node that watches", "memory of client and etcd", fmt.Sprintf("%.0f KiB", float64(memory()-before)/1024/float64(*nodes)))
	bytes := watchers[0].in.Load()
	work, late, err := change(ctx, e, all, watchers)
	if err != nil {
		return err
	}
	row(fmt.Sprintf("each change, %d nodes watching", *nodes), "processor time", work)
	row("each change and node", "processor time, etcd and client", (work-alone)/time.Duration(*nodes))
	row("each change and node", "bytes from etcd", fmt.Sprintf("%.0f B", float64(watchers[0].in.Load()-bytes)/float64(*changes)))
	row("each change", "until the last node knows, p50", late[len(late)/2])
	row("each change", "until the last node knows, p99", late[len(late)*99/100])
	return nil
}

// errLost says that a watcher did not hear of all changes.
var errLost = errors.New("a watcher did not hear of all changes in time")

// change binds names one after the other and returns the processor time of each, and how
// long it took until the last watcher knew of it.
func change(ctx context.Context, e *etcd, nodes []store.Node, watchers []*watcher) (each time.Duration, late []time.Duration, err error) {
	work := processor()
	for i := range *changes {
		began := time.Now()
		op, _ := write(i, nodes)
		if _, err := e.Do(ctx, op); err != nil {
			return 0, nil, err
		}
		last := time.Duration(0)
		for _, w := range watchers {
			select {
			case at := <-w.seen:
				last = max(last, at.Sub(began))
			case <-time.After(10 * time.Second):
				return 0, nil, errLost
			}
		}
		late = append(late, last)
	}
	slices.Sort(late)
	return (processor() - work) / time.Duration(*changes), late, nil
}
