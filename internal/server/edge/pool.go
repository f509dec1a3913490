package edge

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/splice"
	"github.com/culvert-tunnel/culvert/internal/tally"
)

// pool keeps streams between HTTP/1.1 requests, like connections to any upstream. Its
// key is the route, which a name that is bound again does not keep, so a kept stream
// never leads to another agent than the name does.
//
// Streams that carried a request that must not be sent twice are kept apart, and only
// they, and only while they are young, take another such: an upstream may close right
// behind any answer, and what meets its FIN on the way can't be told from what was acted
// upon.
type pool struct {
	registry *registry.Registry
	streams  *tally.Tally // counts the open ones
	lingers  tally.Tally  // ended streams whose upstream has not ended yet

	mu struct {
		sync.Mutex
		idle map[idleKey][]*upstream // the one used last comes last
		// waiting are those on which an answer is waited for that another member of the
		// name could give as well.
		waiting map[*upstream]endpoint.Name
	}
}

type idleKey struct {
	route *registry.Route
	once  bool
}

// Limits of kept streams.
const (
	maxIdle = 256              // of one route
	oldest  = 90 * time.Second // that one may be idle
	youth   = time.Second      // no upstream's keep-alive time-out is that short
	// linger is how long an idle stream that was ended here may take to be ended by the
	// upstream too.
	linger = time.Second
)

// upstream is a stream on which requests follow each other. A stream's own Close is a
// FIN, which an upstream may take for the mere end of the request and go on answering;
// so who gives up in the middle of an exchange calls reset.
type upstream struct {
	net.Conn
	in    http1.Reader
	route *registry.Route
	kept  bool        // has served a request before
	since time.Time   // when it became idle
	left  atomic.Bool // for another member of the name
}

func newPool(reg *registry.Registry, streams *tally.Tally) *pool {
	p := &pool{registry: reg, streams: streams}
	p.mu.idle, p.mu.waiting = make(map[idleKey][]*upstream), make(map[*upstream]endpoint.Name)
	return p
}

// wait calls f, which waits for the answer to a request that may be sent again. When the
// agent's links lose their connections meanwhile, the stream is left for another member of
// the name, if there is one: whether the agent comes back is not known for a while.
func (p *pool) wait(u *upstream, name endpoint.Name, f func()) {
	p.mu.Lock()
	p.mu.waiting[u] = name
	p.mu.Unlock()
	f()
	p.mu.Lock()
	delete(p.mu.waiting, u)
	p.mu.Unlock()
}

// abandoned takes out those whose wait is over that way.
func (p *pool) abandonedLocked() []*upstream {
	var list []*upstream
	for u, name := range p.mu.waiting {
		if u.route.Away() && p.registry.Better(name, u.route) {
			delete(p.mu.waiting, u)
			list = append(list, u)
		}
	}
	return list
}

// take returns an idle stream of the route for a request that must not be sent but once,
// or that may be sent again; nil: none.
func (p *pool) take(route *registry.Route, once bool) *upstream {
	p.mu.Lock()
	defer p.mu.Unlock()
	if once {
		return p.takeLocked(idleKey{route, true}, youth)
	}
	if u := p.takeLocked(idleKey{route, false}, oldest); u != nil {
		return u
	}
	return p.takeLocked(idleKey{route, true}, oldest)
}

func (p *pool) takeLocked(key idleKey, older time.Duration) *upstream {
	list := p.mu.idle[key]
	for len(list) > 0 {
		u := list[len(list)-1]
		if time.Since(u.since) > older {
			break // the others have been idle for longer
		}
		list[len(list)-1] = nil
		list = list[:len(list)-1]
		p.mu.idle[key] = list
		if u.quiet() {
			u.in.SetBuffer(getBuffer())
			return u
		}
		p.lingers.Enter()
		go p.finish(u)
	}
	return nil
}

// open opens a stream for an exchange, whose first bytes leave together with the
// stream's header.
func (p *pool) open(ctx context.Context, route *registry.Route, v endpoint.Visitor, first []byte) (*upstream, error) {
	s, err := route.Open(ctx, v, first)
	if err != nil {
		return nil, err
	}
	p.streams.Enter()
	u := &upstream{Conn: s, route: route}
	u.in.Source = s
	u.in.SetBuffer(getBuffer())
	return u, nil
}

// give takes a stream back after an exchange: whole says that both its messages came to
// their ends, again that the upstream lets another follow.
func (p *pool) give(u *upstream, whole, again, once bool) {
	switch {
	case !whole:
		p.drop(u)
	case again:
		p.put(u, once)
	default:
		p.end(u)
	}
}

// put keeps a stream for the next request, behind one that could be sent but once, or
// not. What the upstream sent without being asked makes it useless.
func (p *pool) put(u *upstream, once bool) {
	useless := len(u.in.Buffered()) > 0
	putBuffer(u.in.SetBuffer(nil))
	if useless {
		p.drop(u)
		return
	}
	u.kept, u.since = true, time.Now()
	p.mu.Lock()
	live := p.registry.Serves(u.route) // or it went after closeIdle
	key := idleKey{u.route, once}
	if list := p.mu.idle[key]; live && len(list) < maxIdle {
		p.mu.idle[key] = append(list, u)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	p.end(u)
}

// drop resets a stream, which is not to be used afterwards.
func (p *pool) drop(u *upstream) {
	splice.Reset(u.Conn)
	p.streams.Leave()
	if b := u.in.SetBuffer(nil); b != nil {
		putBuffer(b)
	}
}

// end ends an idle stream in order.
func (p *pool) end(u *upstream) {
	if b := u.in.SetBuffer(nil); b != nil {
		putBuffer(b)
	}
	p.lingers.Enter()
	go p.finish(u)
}

func (p *pool) finish(u *upstream) {
	defer p.lingers.Leave()
	defer p.streams.Leave()
	_ = u.SetDeadline(time.Now().Add(linger))
	if splice.CloseWrite(u.Conn) == nil {
		if _, err := u.Read(make([]byte, 1)); err == io.EOF { //nolint:errorlint // the orderly end (io.Reader)
			_ = u.Close()
			return
		}
	}
	splice.Reset(u.Conn)
}

// sweep ends streams that have been idle for too long, or ended at the other side.
func (p *pool) sweep(now time.Time) {
	p.mu.Lock()
	var over []*upstream
	abandoned := p.abandonedLocked()
	for key, list := range p.mu.idle {
		kept := list[:0]
		for _, u := range list {
			if now.Sub(u.since) < oldest && u.quiet() {
				kept = append(kept, u)
			} else {
				over = append(over, u)
			}
		}
		clear(list[len(kept):])
		if p.mu.idle[key] = kept; len(kept) == 0 {
			delete(p.mu.idle, key)
		}
	}
	p.mu.Unlock()
	for _, u := range abandoned {
		u.left.Store(true)
		splice.Reset(u.Conn)
	}
	for _, u := range over {
		p.end(u)
	}
}

// closeIdle ends the streams that no request uses.
func (p *pool) closeIdle() {
	p.mu.Lock()
	idle := p.mu.idle
	p.mu.idle = make(map[idleKey][]*upstream)
	p.mu.Unlock()
	for _, list := range idle {
		for _, u := range list {
			p.end(u)
		}
	}
}

// close is closeIdle, and waits for their ends.
func (p *pool) close() {
	p.closeIdle()
	<-p.lingers.Empty()
}

// quiet reports whether the upstream has neither said anything since the last answer nor
// ended the stream, as far as is known here.
func (u *upstream) quiet() bool {
	q, ok := u.Conn.(interface{ Quiet() bool })
	return !ok || q.Quiet()
}

// Buffers hold heads and what came with them; large ones move bodies. Neither is held
// while nothing is under way.
const (
	bufferSize = 8 << 10
	largeSize  = 64 << 10
)

var (
	buffers      = sync.Pool{New: func() any { return new([bufferSize]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeSize]byte) }}
)

func getBuffer() []byte      { return buffers.Get().(*[bufferSize]byte)[:] }
func getLargeBuffer() []byte { return largeBuffers.Get().(*[largeSize]byte)[:] }

// putBuffer takes a buffer back, whatever its kind. One that grew for a long head is let
// go.
func putBuffer(b []byte) {
	switch cap(b) {
	case bufferSize:
		buffers.Put((*[bufferSize]byte)(b[:bufferSize]))
	case largeSize:
		largeBuffers.Put((*[largeSize]byte)(b[:largeSize]))
	}
}
