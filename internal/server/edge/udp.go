package edge

import (
	"container/list"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// udpPort is the port of a udp endpoint and the flows of its visitors.
type udpPort struct {
	edge    *Edge
	ctx     context.Context //nolint:containedctx // the visits', which outlive the call that opened the port
	name    endpoint.Name
	sockets []*udpSocket

	mu struct {
		sync.Mutex
		flows   map[flowKey]*flow
		fresh   list.List // flows whose visitor has not shown that answers reach it; oldest first
		ending  int       // flows that are no longer in the table and not over yet
		closing bool
		said    time.Time // when loss was last logged
	}
}

// flowKey tells flows apart: the same visitor may speak to several of the node's
// addresses and expects each to answer for itself.
type flowKey struct {
	remote netip.AddrPort
	local  netip.Addr
}

// ListenUDP opens the port of a udp endpoint and serves its visitors until the
// returned closer is closed. Then no new flow begins; the others go on until they are
// silent for a moment, or ctx ends.
func (e *Edge) ListenUDP(ctx context.Context, port uint16) (io.Closer, error) {
	sockets, err := e.listenUDP(ctx, port)
	if err != nil {
		return nil, err
	}
	p := &udpPort{edge: e, ctx: ctx, name: endpoint.Name{Kind: endpoint.UDP, Port: port}, sockets: sockets}
	p.mu.flows = make(map[flowKey]*flow)
	for _, s := range sockets {
		e.ports.Enter()
		go func() {
			defer e.ports.Leave()
			p.read(ctx, s)
		}()
	}
	return p, nil
}

// read takes datagrams from a socket until it is closed.
func (p *udpPort) read(ctx context.Context, s *udpSocket) {
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	for {
		err := s.read(func(remote netip.AddrPort, local netip.Addr, datagram []byte) {
			p.deliver(s, flowKey{remote, local}, datagram)
		})
		if errors.Is(err, net.ErrClosed) || ctx.Err() != nil || p.edge.handed.Load() {
			return
		}
		p.edge.cfg.Logger.Warn("read datagrams", "name", p.name.String(), "error", err)
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
}

// deliver gives a datagram to its flow, which it begins if need be.
func (p *udpPort) deliver(s *udpSocket, key flowKey, datagram []byte) {
	p.mu.Lock()
	f := p.mu.flows[key]
	if f == nil {
		if f = p.beginLocked(s, key); f == nil {
			p.mu.Unlock()
			p.edge.counters.flowsRefused.Add(1)
			return
		}
	}
	if f.fresh != nil && f.answered.Load() {
		p.mu.fresh.Remove(f.fresh) // it heard the answer, or guesses well
		f.fresh = nil
	}
	p.mu.Unlock()
	f.push(datagram)
}

// beginLocked makes a flow, or returns nil where there is no room. Sources are easily
// forged, so a full table gives up the oldest flow whose visitor has not answered an
// answer; visitors who have stay. A flood thus costs no more than the table, and new
// visitors some of their first datagrams.
func (p *udpPort) beginLocked(s *udpSocket, key flowKey) *flow {
	cfg := &p.edge.cfg
	if p.mu.closing || p.edge.flows.Load() >= int64(cfg.MaxFlows) {
		return nil
	}
	if len(p.mu.flows) >= cfg.MaxEndpointFlows {
		oldest := p.mu.fresh.Front()
		if oldest == nil || p.mu.ending >= cfg.MaxEndpointFlows {
			return nil
		}
		p.removeLocked(oldest.Value.(*flow)) // of flows alone
		p.edge.counters.flowsEvicted.Add(1)
	}
	f := newFlow(p, s, key)
	f.fresh = p.mu.fresh.PushBack(f)
	p.mu.flows[key] = f
	p.edge.flows.Add(1)
	p.edge.visits.Enter()
	go func() {
		defer p.edge.visits.Leave()
		defer p.edge.flows.Add(-1)
		f.run(f.ctx)
		p.over(f)
	}()
	return f
}

// removeLocked takes a flow from the table and ends it.
func (p *udpPort) removeLocked(f *flow) {
	if p.mu.flows[f.key] != f {
		return
	}
	delete(p.mu.flows, f.key)
	if f.fresh != nil {
		p.mu.fresh.Remove(f.fresh)
		f.fresh = nil
	}
	p.mu.ending++
	f.cancel()
}

// over notes that a flow has ended.
func (p *udpPort) over(f *flow) {
	p.mu.Lock()
	p.removeLocked(f)
	p.mu.ending--
	last := p.mu.closing && len(p.mu.flows)+p.mu.ending == 0
	lost := f.lost() > 0 && time.Since(p.mu.said) > time.Minute
	if lost {
		p.mu.said = time.Now()
	}
	p.mu.Unlock()
	if lost {
		p.edge.cfg.Logger.Warn("datagrams lost: the link or the endpoint's bandwidth is less than what comes",
			"name", p.name.String(), "remote", f.key.remote.String(), "lost", f.lost())
	}
	if last {
		p.closeSockets()
	}
}

func (p *udpPort) closeSockets() {
	for _, s := range p.sockets {
		_ = s.Close()
	}
}

// lastSilence ends a flow of a port that is closed.
const lastSilence = time.Second

// Sockets are those of the port, for another process.
func (p *udpPort) Sockets() []syscall.Conn {
	all := make([]syscall.Conn, len(p.sockets))
	for i, s := range p.sockets {
		all[i] = s
	}
	return all
}

// Close implements io.Closer.
func (p *udpPort) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.closing = true
	if p.edge.handed.Load() {
		for _, s := range p.sockets {
			_ = s.SetReadDeadline(past) // answers go on to be written
		}
	}
	for _, f := range p.mu.flows {
		f.hasten(lastSilence)
	}
	if len(p.mu.flows)+p.mu.ending == 0 {
		p.closeSockets()
	}
	return nil
}
