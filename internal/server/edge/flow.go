package edge

import (
	"container/list"
	"context"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/culvert-tunnel/culvert/internal/datagram"
	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/server/limit"
	"github.com/culvert-tunnel/culvert/internal/splice"
)

// flow is the datagrams between one visitor and the port, and their stream.
type flow struct {
	port   *udpPort
	key    flowKey
	socket *udpSocket
	oob    []byte // makes answers leave from the address that was asked
	queue  *datagram.Queue
	ctx    context.Context //nolint:containedctx // its life
	cancel context.CancelFunc

	fresh    *list.Element // guarded by udpPort.mu; nil: the visitor answered an answer
	answered atomic.Bool
	policer  atomic.Pointer[limit.Policer] // nil: no limit, or not known yet
	policed  atomic.Int64                  // datagrams lost to it, or not to be sent

	beside atomic.Pointer[link.Datagrams]

	timer *time.Timer
	idle  atomic.Int64 // nanoseconds
	began time.Time
	last  atomic.Int64 // when a datagram came or went, since began
}

func newFlow(p *udpPort, s *udpSocket, key flowKey) *flow {
	f := &flow{port: p, key: key, socket: s, oob: s.from(key.local), queue: datagram.NewQueue(p.edge.queued), began: time.Now()}
	f.ctx, f.cancel = context.WithCancel(p.ctx)
	f.idle.Store(int64(p.edge.cfg.FlowTimeout))
	f.touch()
	f.timer = time.AfterFunc(p.edge.cfg.FlowTimeout, f.expire)
	f.timer.Reset(p.edge.cfg.FlowTimeout) // expire sees f.timer then
	return f
}

func (f *flow) touch() { f.last.Store(int64(time.Since(f.began))) }

// expire ends the flow if it was silent for its idle time.
func (f *flow) expire() {
	left := time.Duration(f.idle.Load()+f.last.Load()) - time.Since(f.began)
	if left <= 0 {
		f.cancel()
		return
	}
	f.timer.Reset(left)
}

// hasten shortens the silence that ends the flow.
func (f *flow) hasten(idle time.Duration) {
	f.idle.Store(min(f.idle.Load(), int64(idle)))
	f.timer.Reset(idle)
}

// push takes a datagram from the visitor.
func (f *flow) push(p []byte) {
	f.touch()
	if !f.policer.Load().In(len(p)) {
		f.policed.Add(1)
		return
	}
	f.queue.Push(p)
}

// answer sends a datagram to the visitor.
func (f *flow) answer(p []byte) {
	f.touch()
	if !f.policer.Load().Out(len(p)) {
		f.policed.Add(1)
		return
	}
	f.answered.Store(true)
	if _, _, err := f.socket.WriteMsgUDPAddrPort(p, f.oob, f.key.remote); err != nil {
		f.policed.Add(1) // too large for the way, or no way: a datagram may be lost
	}
}

// besides has datagrams go beside the stream where the link can do that, once the agent
// knows the flow.
func (f *flow) besides(s net.Conn) {
	if can, ok := s.(interface {
		Datagrams() (link.Datagrams, bool)
	}); ok {
		if d, ok := can.Datagrams(); ok {
			d.ReceiveDatagrams(f.answer)
			f.beside.Store(&d)
		}
	}
}

// send sends a datagram of the visitor beside the stream, if it can.
func (f *flow) send(p []byte) bool {
	d := f.beside.Load()
	return d != nil && (*d).SendDatagram(p) == nil
}

// lost is how many datagrams were.
func (f *flow) lost() int64 { return f.queue.Dropped() + f.policed.Load() }

// run carries the flow: it is Edge.carry for datagrams.
func (f *flow) run(ctx context.Context) {
	e := f.port.edge
	defer f.cancel()
	defer f.timer.Stop()
	defer f.queue.Close()
	v := endpoint.Visitor{ID: newVisitorID(), Name: f.port.name, Remote: f.key.remote, Local: f.socket.local, Datagrams: true}
	if f.key.local.IsValid() {
		v.Local = netip.AddrPortFrom(f.key.local, f.socket.local.Port())
	}
	log := e.cfg.Logger.With("visitor", v.ID, "remote", v.Remote.String(), "name", v.Name.String())
	began := time.Now()
	s, route, err := e.open(ctx, &v, nil)
	if err != nil {
		e.cfg.Served(endpoint.Visit{Kind: v.Name.Kind, Code: string(codeOf(err)), Took: time.Since(began)})
		log.Debug("visitor not served", "error", err)
		return
	}
	defer leave(route)
	f.policer.Store(route.Gate.Policer())
	if idle := route.Gate.Limits().IdleTimeout; idle > 0 {
		f.idle.Store(int64(idle))
		f.timer.Reset(idle)
	}
	e.opened.Enter()
	defer e.opened.Leave()
	stop := context.AfterFunc(ctx, func() {
		f.queue.Close()
		splice.Reset(s)
	})
	defer stop()

	answers := make(chan int64, 1)
	go func() {
		defer f.cancel()
		f.besides(s)
		n, _ := io.Copy(&datagram.Decoder{Each: f.answer}, s) // until the agent ends the flow, or the link
		answers <- n
	}()
	in, _ := f.queue.WriteTo(datagram.Sender{Beside: f.send, Stream: s})
	f.cancel()
	splice.Reset(s)
	out := <-answers
	e.counters.datagramsLost.Add(f.lost())
	e.cfg.Served(endpoint.Visit{Kind: v.Name.Kind, In: in, Out: out, Took: time.Since(began)})
	log.Debug("visitor served", "endpoint", route.ID, "session", route.Owner.SessionID, "bytes_in", in, "bytes_out", out, "datagrams_lost", f.lost())
}
