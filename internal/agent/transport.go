package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/link"
)

// transportOf says what carries a connection; empty: nobody knows.
func transportOf(conn net.Conn) link.Transport {
	if c, ok := conn.(link.Conn); ok {
		return c.Transport()
	}
	return ""
}

func (t *lifeline) carriedBy(conn net.Conn) {
	by := transportOf(conn)
	t.transport.Store(&by)
	t.agent.mu.Lock()
	t.seat.transport = by
	t.agent.mu.Unlock()
}

// improve has the link move to the best transport, from another one, once that gets
// through. It is the same link: its streams notice nothing.
func (t *lifeline) improve(ctx context.Context, l *link.Link) {
	best := link.Transports()[0]
	if cfg := &t.agent.cfg; len(t.key) == 0 || cfg.Transport != "" && cfg.Transport != link.Auto {
		return
	}
	if *t.transport.Load() == link.QUIC {
		t.leaveQUIC(ctx, l)
		return
	}
	for {
		select {
		case <-time.After(jitter(t.agent.cfg.Reprobe)):
		case <-ctx.Done():
			return
		}
		if by := *t.transport.Load(); by == "" || by == best || !t.agent.probe(ctx, t.server) {
			continue
		}
		t.log.Info("link moves to a better transport", "server", t.server, "transport", string(best))
		l.Reconnect()
	}
}

// lookEvery is how often a link by QUIC is looked at.
const lookEvery = time.Second

// leaveQUIC ends a link by QUIC that hears nothing while TLS gets through: UDP does not pass
// any more. Its streams end, as no other connection can take the place of such a link.
func (t *lifeline) leaveQUIC(ctx context.Context, l *link.Link) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		_, back := l.Away()
		if back == nil {
			continue
		}
		select {
		case <-back: // it has found another way itself
			continue
		case <-time.After(link.FallBack):
		case <-ctx.Done():
			return
		}
		if !t.agent.probe(ctx, t.server) {
			continue
		}
		select {
		case <-back:
		default:
			t.log.Warn("UDP does not pass any more: the link by QUIC is given up", "server", t.server)
			_ = l.Close()
			return
		}
	}
}

// silent and heard are told by a link by QUIC.
func (t *lifeline) silent(err error) {
	t.seat.interrupted(err)
	t.log.Warn("link interrupted", "server", t.server, "error", err)
}

func (t *lifeline) heard() {
	t.seat.resumed()
	t.log.Info("link resumed", "server", t.server, "transport", string(link.QUIC))
}

// known remembers by which transport each server was reached last.
type known struct {
	path    string // empty: until the process ends
	servers []string

	mu struct {
		sync.Mutex
		by map[string]link.Transport
	}
}

// maxKnown bounds the file, in bytes.
const maxKnown = 64 << 10

// newKnown reads what an earlier run has left in dir, if that is not empty. Whatever is
// wrong with it, it is only a memory lost.
func newKnown(dir string, servers []string) *known {
	k := &known{servers: servers}
	if dir != "" {
		k.path = filepath.Join(dir, "transports")
		if f, err := os.Open(k.path); err == nil {
			_ = json.NewDecoder(io.LimitReader(f, maxKnown)).Decode(&k.mu.by)
			_ = f.Close()
		}
	}
	if k.mu.by == nil {
		k.mu.by = make(map[string]link.Transport)
	}
	return k
}

func (k *known) last(server string) link.Transport {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mu.by[server]
}

func (k *known) worked(server string, by link.Transport) {
	k.mu.Lock()
	news := k.mu.by[server] != by
	k.mu.by[server] = by
	// Servers of earlier runs are forgotten.
	maps.DeleteFunc(k.mu.by, func(server string, _ link.Transport) bool { return !slices.Contains(k.servers, server) })
	b, err := json.Marshal(k.mu.by)
	k.mu.Unlock()
	if news && err == nil && k.path != "" {
		_ = k.write(append(b, '\n'))
	}
}

// write replaces the file. A run beside this one may do so too: it is always one's whole.
func (k *known) write(b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(k.path), ".transports-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), k.path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
