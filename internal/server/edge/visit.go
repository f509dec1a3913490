package edge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/nonblock"
	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
	"github.com/culvert-tunnel/culvert/internal/splice"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// visit is a visitor's connection on which he speaks HTTP/1.1. One goroutine serves it,
// exchange after exchange; a body that is not there yet is sent by a second one.
type visit struct {
	edge   *Edge
	conn   net.Conn
	bytes  io.ReadWriter   // of conn
	raw    syscall.RawConn // of the socket; nil: there is none to look at
	remote netip.AddrPort
	local  netip.AddrPort
	sni    string // canonical; of a TLS connection
	secure bool
	chains [][]*x509.Certificate // of a TLS connection: see exchange

	in   http1.Reader
	req  http1.Request
	res  http1.Response
	out  []byte // what is to be written next
	x    exchange
	over bool     // the connection ends after this exchange
	link net.Conn // that it has become; nil: none
	// linger says that more may come on it then.
	linger bool

	upload upload

	// Times of the watch's clock; 0: not under way.
	idle    atomic.Bool  // between requests
	readBy  atomic.Int64 // when the present read from the visitor must be over
	writeBy atomic.Int64 // likewise writing
	waits   atomic.Int64 // since when the visitor waits for the upstream

	mu struct {
		sync.Mutex
		stream *upstream // that this exchange uses; reset when the visitor leaves
		left   bool
		cancel context.CancelFunc
	}
}

// serveHTTP1 serves a connection until it ends, and closes it, or until it has become a link,
// which is the rest. sni is the canonical server name of a TLS connection.
func (e *Edge) serveHTTP1(ctx context.Context, c net.Conn, sni string) rest {
	conn, secure := c.(*tls.Conn)
	v := &visit{
		edge: e, conn: c, bytes: nonblock.Of(c), raw: socketOf(c), sni: sni, secure: secure,
		remote: addrPort(c.RemoteAddr()), local: addrPort(c.LocalAddr()),
	}
	if secure {
		v.chains = conn.ConnectionState().VerifiedChains
	}
	v.in.Source = v.bytes
	serving := ctx
	ctx, v.mu.cancel = context.WithCancel(ctx)
	defer v.mu.cancel()
	stop := context.AfterFunc(ctx, func() {
		v.leave()
		splice.Reset(c)
	})
	e.watch.enter(v)
	v.in.SetBuffer(getBuffer())
	for v.serveOne(ctx) {
	}
	e.watch.leave(v)
	mine := stop()
	if mine && v.link == nil {
		v.close()
	}
	putBuffer(v.in.SetBuffer(nil))
	if mine && v.link != nil {
		return e.serveLink(serving, v.link, nil) // which may live on in another's place
	}
	return nil
}

// lingerBytes are as many as a visitor may have had on their way when he was told.
const lingerBytes = 1 << 20

// close ends the connection. If more comes on it than is wanted, it goes on to be read for
// a moment: closing with unread bytes is a reset, which may overtake the answer.
func (v *visit) close() {
	if v.linger {
		last := time.Now().Add(lastWordsTime)
		_ = v.conn.SetDeadline(last)
		if splice.CloseWrite(v.conn) == nil {
			if n, _ := io.CopyN(io.Discard, v.conn, lingerBytes); n == lingerBytes {
				<-time.After(time.Until(last)) // closing now would have TCP take the answer back
			}
		}
	}
	_ = v.conn.Close()
}

// write writes to the visitor.
func (v *visit) write(b []byte) error {
	v.writeBy.Store(v.edge.watch.in(v.edge.cfg.WriteTimeout))
	_, err := v.bytes.Write(b)
	v.writeBy.Store(0)
	return err
}

// errLeft is what became of an exchange whose visitor left.
var errLeft = errors.New("the visitor left")

// leave gives up the exchange because nobody waits for it any more.
func (v *visit) leave() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mu.left = true
	v.mu.cancel()
	if v.mu.stream != nil {
		splice.Reset(v.mu.stream.Conn)
	}
}

// use says which stream the exchange uses; nil: none any more. The stream must not be
// given away before.
func (v *visit) use(u *upstream) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mu.stream = u
	if u != nil && v.mu.left {
		splice.Reset(u.Conn)
	}
}

func (v *visit) hasLeft() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.mu.left
}

// look is the watch's.
func (v *visit) look(now int64) {
	if by := v.readBy.Load(); by != 0 && now > by {
		_ = v.conn.SetReadDeadline(past)
	}
	if by := v.writeBy.Load(); by != 0 && now > by {
		v.leave()
		_ = v.conn.SetWriteDeadline(past)
	}
	if since := v.waits.Load(); since != 0 && now > since && v.raw != nil && hungUp(v.raw) {
		v.leave()
	}
}

// drain implements drainer.
func (v *visit) drain(w *watch) {
	if v.idle.Load() {
		v.readBy.Store(w.in(lastRequest))
	}
}

// socketOf returns the socket below a visitor's connection.
func socketOf(c net.Conn) syscall.RawConn {
	switch c := c.(type) {
	case *tls.Conn:
		return socketOf(c.NetConn())
	case *splice.Prefixed, *introduced:
		return socketOf(splice.Bare(c))
	case syscall.Conn:
		raw, err := c.SyscallConn()
		if err == nil {
			return raw
		}
	}
	return nil
}

// serveOne serves one exchange and reports whether there may be another.
func (v *visit) serveOne(ctx context.Context) bool {
	head, err := v.readHead()
	v.out = getBuffer()[:0]
	defer func() {
		putBuffer(v.out)
		v.out = nil
	}()
	if err != nil {
		v.refuseHead(ctx, err)
		return false
	}
	v.x = exchange{proto: "HTTP/1.1", secure: v.secure, head: v, chains: v.chains}
	v.x.visitor = endpoint.Visitor{ID: newVisitorID(), Remote: v.remote, Local: v.local, ServerName: v.sni}
	v.edge.begin(&v.x)
	defer func() { v.edge.end(ctx, &v.x) }()
	v.upload = upload{body: framed{done: true}}
	if err := v.req.Parse(head); err != nil {
		v.over = true
		v.x.err = err
		v.refuse(ctx, codeOf(err))
		return false
	}
	v.in.Discard(len(head))
	v.upload = upload{body: newFramed(&v.in, &v.req.Head, false), expects: v.req.Expect}
	v.waits.Store(v.edge.watch.now.Load())
	defer v.waits.Store(0)
	if v.req.Minor == 0 {
		v.x.proto = "HTTP/1.0"
	}
	v.name()
	v.x.method, v.x.target, v.x.host = methodName(v.req.Method), string(v.req.Target), string(v.req.Host)
	v.over = !v.req.Persistent() || v.edge.watch.draining.Load()
	if v.asksForLink() {
		v.becomeLink(ctx)
	} else if code, to := v.edge.route(ctx, &v.x, v.req.Scheme); code != "" {
		v.over = v.over || code == tunnel.CodeCertificateRequired // another one takes another connection
		v.refuse(ctx, code)
	} else if to != "" {
		v.redirect(ctx, to)
	} else if v.x.answer != nil {
		v.handle(ctx, v.x.challenge)
	} else {
		v.dispatch(ctx, true)
	}
	return !v.over && !v.hasLeft()
}

// dispatch serves the exchange by what the upstream speaks. It may come to light that
// the upstream was found to speak something else before, of which first is the time.
func (v *visit) dispatch(ctx context.Context, first bool) {
	protocol, err := v.edge.speaks(ctx, &v.x)
	switch {
	case err != nil:
		v.x.err = err
		v.refuse(ctx, codeOf(err))
	case v.x.route.Spec.Compress && upgradeOf(&v.req) == nil:
		v.handle(ctx, func(w http.ResponseWriter, r *http.Request) { v.edge.dispatchHTTP(w, r, &v.x) })
	case protocol == alpnH2 && upgradeOf(&v.req) == nil:
		v.handle(ctx, func(w http.ResponseWriter, r *http.Request) { v.edge.carryHTTP2(w, r, &v.x) })
	default:
		// An upgrade is of a connection, and HTTP/2 has none to give. Who offers HTTP/2
		// speaks HTTP/1.1 beside it, if it knows of upgrades at all.
		v.x.visitor.Protocol = alpnH1
		v.forward(ctx, first)
	}
}

// name takes the visitor's own name for the exchange, if he has one, and what he says of
// himself.
func (v *visit) name() {
	for i := range v.req.Fields {
		if f := &v.req.Fields[i]; f.Kind == http1.RequestID && isRequestID(f.Value) {
			v.x.visitor.ID = string(f.Value)
			break
		}
	}
	if v.edge.cfg.Access.described() {
		v.x.userAgent, v.x.referer = string(v.req.Get("user-agent")), string(v.req.Get("referer"))
	}
}

// methodName spares the allocation for the usual ones.
func methodName(b []byte) string {
	switch string(b) {
	case "GET":
		return "GET"
	case "POST":
		return "POST"
	case "HEAD":
		return "HEAD"
	}
	return string(b)
}

// readHead waits for the next request and reads its head, which is not yet discarded.
func (v *visit) readHead() ([]byte, error) {
	w := v.edge.watch
	if v.in.Size() > bufferSize && len(v.in.Buffered()) <= bufferSize {
		putBuffer(v.in.SetBuffer(getBuffer())) // what a long head or a body has left
	}
	if len(v.in.Buffered()) == 0 {
		v.idle.Store(true) // ahead of readBy, which drain sets after it
		v.readBy.Store(w.in(v.edge.cfg.IdleTimeout))
		if w.draining.Load() {
			v.readBy.Store(w.in(min(lastRequest, v.edge.cfg.IdleTimeout)))
		}
		err := v.in.Fill()
		v.idle.Store(false)
		if err != nil {
			return nil, err
		}
	}
	v.readBy.Store(w.in(v.edge.cfg.HeaderTimeout))
	head, err := v.in.ReadHead(maxHeaderBytes)
	v.readBy.Store(0)
	return head, err
}

// refuseHead ends a connection on which no head came.
func (v *visit) refuseHead(ctx context.Context, err error) {
	fault, malformed := errors.AsType[*http1.Error](err)
	late := errors.Is(err, os.ErrDeadlineExceeded) && len(v.in.Buffered()) > 0
	if !malformed && !late {
		return // nobody to tell, or nothing
	}
	v.x = exchange{proto: "HTTP/1.1", secure: v.secure, err: err}
	v.x.visitor = endpoint.Visitor{ID: newVisitorID(), Remote: v.remote, Local: v.local, ServerName: v.sni}
	v.req = http1.Request{}
	v.upload = upload{body: framed{done: true}}
	v.edge.begin(&v.x)
	defer v.edge.end(ctx, &v.x)
	if malformed {
		v.refuse(ctx, codeOf(fault))
	} else {
		v.refuse(ctx, tunnel.CodeRequestTimeout)
	}
}
