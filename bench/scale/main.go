// Command scale simulates a large cluster against one etcd, the node's own kind of it: so
// many nodes that watch, so many names that they serve. It says what nodes and names cost
// in bytes, in time, and in work of etcd's. docs/scale.md has its figures.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/server/store"
)

var (
	nodes   = flag.Int("nodes", 100, "nodes of the cluster")
	names   = flag.Int("names", 1_000_000, "names that they serve")
	changes = flag.Int("changes", 2000, "names that are bound while all nodes watch")
	claims  = flag.Int("claims", 500, "names that are claimed as a node does it, once they are all there")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "culvert-scale-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	empty := memory()
	s, err := store.Open(ctx, store.Config{Dir: dir, Quota: 8 << 30, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer s.Close()
	row("etcd, empty", "memory of the process", mib(memory()-empty))

	began := time.Now()
	if _, err := join(ctx, s, "node", *nodes); err != nil {
		return err
	}
	row(fmt.Sprintf("%d nodes", *nodes), "time to join, one after the other", time.Since(began))

	e, err := dial(dir)
	if err != nil {
		return err
	}
	defer e.Close()
	all := s.Nodes()
	if err := load(ctx, e, s, all); err != nil {
		return err
	}
	presence, err := join(ctx, s, "new", 1)
	if err != nil {
		return err
	}
	if err := sync(ctx, presence); err != nil {
		return err
	}
	if err := claim(ctx, presence); err != nil {
		return err
	}
	return watch(ctx, dir, e, all)
}

// join has nodes join the cluster, and returns the last one's presence.
func join(ctx context.Context, s *store.Store, kind string, n int) (p *store.Presence, err error) {
	for i := range n {
		id := fmt.Sprintf("%s-%d", kind, i)
		p, err = s.Join(ctx, store.Node{ID: id, Name: id, Version: "1.0.0", Since: time.Now(), Peer: fmt.Sprintf("10.0.%d.1:7443", i)})
		if err != nil {
			return nil, err
		}
		here := p
		go func() { _ = here.Run(ctx, func() {}) }()
	}
	return p, nil
}

// load writes the names, many at once, as it would take long to claim each.
func load(ctx context.Context, e *etcd, s *store.Store, all []store.Node) error {
	before, began, work := memory(), time.Now(), processor()
	size, err := e.put(ctx, all, *names)
	if err != nil {
		return err
	}
	n := float64(*names)
	row(fmt.Sprintf("%d names", *names), "time to write them, 100 to a transaction", time.Since(began))
	row("each name", "processor time of that", (processor()-work)/time.Duration(*names))
	row("each name", "key and value", fmt.Sprintf("%.0f B", float64(size)/n))
	h, err := s.Health(ctx)
	if err != nil {
		return err
	}
	row("each name", "etcd's file", fmt.Sprintf("%.0f B", float64(h.Bytes)/n))
	row("all names", "etcd's file", mib(h.Bytes))
	row("each name", "etcd's memory", fmt.Sprintf("%.0f B", float64(memory()-before)/n))
	return nil
}

// sync starts a node's registry and waits until it knows the last name.
func sync(ctx context.Context, p *store.Presence) error {
	before, began, work := memory(), time.Now(), processor()
	r := registry.New(registry.Config{Domain: "example.com", Claims: p, Peer: func(string) registry.OpenFunc { return nil }})
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() { _ = r.Run(ctx) }()
	for !known(ctx, r, name(*names-1)) {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	row("a new node", "time until it knows all names", time.Since(began))
	row("a new node", "processor time of that, etcd's too", processor()-work)
	row("each name", "memory of each node that knows it", fmt.Sprintf("%.0f B", float64(memory()-before)/float64(*names)))

	const lookups = 200_000
	visitors := make([]endpoint.Visitor, lookups)
	for i := range visitors {
		visitors[i].Name = name(i * 7919 % *names)
	}
	began = time.Now()
	for i := range visitors {
		if _, err := r.Lookup(ctx, &visitors[i]); err != nil {
			return err
		}
	}
	row("a visitor", "lookup among all names", time.Since(began)/lookups)
	runtime.KeepAlive(r)
	return nil
}

// claim binds names as a node does, while all others are there.
func claim(ctx context.Context, p *store.Presence) error {
	began, work := time.Now(), processor()
	for i := range *claims {
		if _, err := p.Claim(ctx, store.Claim{Route: route(*names+i, "")}); err != nil {
			return err
		}
	}
	row("each claim", "time, one after the other", time.Since(began)/time.Duration(*claims))
	row("each claim", "processor time", (processor()-work)/time.Duration(*claims))
	return nil
}

// row prints a figure.
func row(what, of string, value any) {
	if d, ok := value.(time.Duration); ok {
		switch {
		case d > time.Second:
			d = d.Round(10 * time.Millisecond)
		case d > time.Millisecond:
			d = d.Round(10 * time.Microsecond)
		default:
			d = d.Round(10 * time.Nanosecond)
		}
		value = d
	}
	fmt.Printf("| %s | %s | %v |\n", what, of, value)
}

func mib(bytes int64) string { return fmt.Sprintf("%.0f MiB", float64(bytes)/(1<<20)) }

// memory is what the process holds, after the garbage.
func memory() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse) //nolint:gosec // not that much
}
