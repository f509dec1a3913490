package edge

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
	"github.com/culvert-tunnel/culvert/internal/splice"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// party is the visitor of an exchange of HTTP/2 or HTTP/3, who may end it while it is
// under way. Reading and writing fail with os.ErrDeadlineExceeded when he is too slow.
type party interface {
	// Read reads of the request's body.
	io.Reader
	// Context ends when he has left.
	Context() context.Context
	// appendRequest appends the head that the upstream gets.
	appendRequest(b []byte, x *exchange) []byte
	// asGet makes the request, an extended CONNECT, a GET without a body. What it was
	// followed by is in frames, of which stopReading is the end.
	asGet()
	frames() io.Reader
	stopReading()
	// brings says how the body comes: with a length it has, or in chunks.
	brings() (body, chunked, expects bool)
	// here returns the whole body if it has come already, and whether it has.
	here() ([]byte, bool)
	// trailer is what came behind the body, whose end has been read.
	trailer() []http1.Field
	// goOn tells him to send the body, unless reading of it does.
	goOn() error
	// head passes the head of an answer on. That of 1xx leaves at once, the final one may
	// wait for flush. end says that nothing follows.
	head(res *http1.Response, end bool) error
	// write passes a part of the body on, which may wait for flush.
	write(b []byte, end bool) error
	flush() error
	// finish ends the answer, whose end has not been passed on if there are trailers.
	// uploaded says that the whole request has been read.
	finish(trailer []http1.Field, uploaded bool) error
	// refuse answers with an error in place of anything else.
	refuse(code tunnel.Code)
	// abort makes the answer look broken off.
	abort()
}

// carried is a request of HTTP/2 or HTTP/3 on its way to an upstream that speaks HTTP/1.1.
type carried struct {
	edge *Edge
	by   party
	x    *exchange
	res  http1.Response

	hasBody bool
	chunked bool
	expects bool
	begun   bool          // the body is being sent
	ended   chan struct{} // closed when that is over
	err     error         // of it; valid when ended is closed
	failed  atomic.Bool   // the visitor broke the body off; set before the upstream learns of it
	content atomic.Int64

	stop func() bool // ends the watch over the visitor; nil: there is none
}

// dispatchHTTP serves an exchange of net/http by what the upstream speaks, and compresses
// its answer if that is wanted.
func (e *Edge) dispatchHTTP(w http.ResponseWriter, r *http.Request, x *exchange) {
	if !x.route.Spec.Compress {
		e.dispatchOnce(w, r, x, true)
		return
	}
	c := e.encoder.New(w, r)
	whole := false
	defer func() { _ = c.Close(whole) }()
	e.dispatchOnce(c, r, x, true)
	whole = true
}

// dispatchOnce serves an exchange of net/http. once says that the upstream may be found
// out to speak something else.
func (e *Edge) dispatchOnce(w http.ResponseWriter, r *http.Request, x *exchange, once bool) {
	protocol, err := e.speaks(r.Context(), x)
	switch {
	case err != nil:
		x.err, x.code = err, codeOf(err)
		e.cfg.Pages.writeError(w, r, x.code, x.visitor.ID)
	case protocol == alpnH2:
		e.carryHTTP2(w, r, x)
	case e.carryNetHTTP(w, r, x, once):
		e.dispatchOnce(w, r, x, false)
	}
}

// carryHTTP2 carries one exchange to an upstream that speaks HTTP/2 and back.
func (e *Edge) carryHTTP2(w http.ResponseWriter, r *http.Request, x *exchange) {
	e.proxy.serve(w, r, x, func(w http.ResponseWriter, r *http.Request) { e.carryNetHTTP(w, r, x, false) })
}

// carryNetHTTP is carryHTTP for an exchange of net/http.
func (e *Edge) carryNetHTTP(w http.ResponseWriter, r *http.Request, x *exchange, once bool) (again bool) {
	p := newNetParty(e, w, r, x)
	e.watch.enter(p)
	defer e.watch.leave(p)
	return e.carryHTTP(p, x, once)
}

// carryHTTP carries one exchange to an upstream that speaks HTTP/1.1 and back. With once,
// it may report that nothing was done because the upstream may speak something else.
func (e *Edge) carryHTTP(by party, x *exchange, once bool) (again bool) {
	x.visitor.Protocol = alpnH1
	c := &carried{edge: e, by: by, x: x}
	c.hasBody, c.chunked, c.expects = by.brings()
	first := by.appendRequest(getBuffer()[:0], x)
	out := outgoing{whole: !c.hasBody, body: c.hasBody, idempotent: http1.Idempotent(x.method)}
	if c.hasBody && !c.expects {
		if b, ok := by.here(); ok {
			first = c.appendWhole(first, b)
			out.whole = true
		}
	}
	out.first = first
	u, err := e.reach(by.Context(), x, out, c)
	putBuffer(first)
	if err == nil {
		err = c.answer(u, !out.again())
	}
	err = c.cause(err)
	x.bytesIn = c.content.Load()
	if !out.body && unspoken(x.route, err) && once {
		return true
	}
	c.settle(err)
	return false
}

// appendWhole appends a whole body, which is nobody's to send any more.
func (c *carried) appendWhole(to, b []byte) []byte {
	c.content.Store(int64(len(b)))
	c.hasBody = false
	if !c.chunked {
		return append(to, b...)
	}
	return append(appendChunk(to, b), "0\r\n\r\n"...)
}

// settle answers a request that was not served, or not to the end.
func (c *carried) settle(err error) {
	if err == nil {
		return
	}
	x := c.x
	x.err = err
	switch {
	case c.by.Context().Err() != nil:
		x.err = errLeft
		c.by.abort()
	case x.status != 0:
		c.by.abort() // what was broken off must look so
	default:
		x.code = codeOf(err)
		c.by.refuse(x.code)
	}
}

// use implements exchanger.
func (c *carried) use(u *upstream) {
	if c.stop != nil {
		c.stop()
		c.stop = nil
	}
	if u != nil {
		c.stop = context.AfterFunc(c.by.Context(), func() { splice.Reset(u.Conn) })
	}
}

// release gives up the watch and reports whether the stream is still whole.
func (c *carried) release() bool {
	whole := c.stop()
	c.stop = nil
	return whole
}

// sent implements exchanger.
func (c *carried) sent(u *upstream) {
	switch {
	case !c.hasBody:
	case c.expects:
		_ = u.SetReadDeadline(time.Now().Add(expectTimeout))
	default:
		c.beginUpload(u)
	}
}

// respond implements exchanger.
func (c *carried) respond() *http1.Response { return &c.res }

// informed implements exchanger.
func (c *carried) informed(u *upstream) error {
	status := c.res.Status
	if status == http.StatusContinue || status == 0 {
		switch {
		case c.expects && !c.begun:
			if c.by.goOn() != nil {
				return errLeft
			}
			_ = u.SetReadDeadline(time.Time{})
			c.beginUpload(u)
		case status == 0:
			return os.ErrDeadlineExceeded
		}
		return nil
	}
	if c.by.head(&c.res, false) != nil {
		return errLeft
	}
	return nil
}

// answer passes the final answer on and gives the stream back.
func (c *carried) answer(u *upstream, once bool) error {
	res := &c.res
	if c.expects && !c.begun {
		_ = u.SetReadDeadline(time.Time{})
	}
	if res.Status == http.StatusSwitchingProtocols {
		c.use(nil)
		c.edge.streams.drop(u)
		return &invalidError{errUnasked}
	}
	body := newFramed(&u.in, &res.Head, true)
	again := res.Persistent() && !res.ToTheEnd()
	err := c.by.head(res, body.done)
	if err != nil {
		err = errLeft
	} else {
		err = c.passBody(&body)
	}
	whole := c.release()
	c.edge.streams.give(u, err == nil && whole && c.uploaded(), again, once)
	return err
}

// passBody passes the body on, piece by piece as it comes.
func (c *carried) passBody(body *framed) error {
	unsent := true // the head
	for !body.done {
		p, fault := body.next()
		trailer := passing(body.trailer)
		if len(p) > 0 || body.done {
			if c.by.write(p, body.done && len(trailer) == 0) != nil {
				return errLeft
			}
			unsent = true
		}
		switch {
		case fault != nil:
			return &invalidError{fault}
		case body.done, len(p) > 0 && body.chunked && len(body.in.Buffered()) > 0:
			continue
		}
		if unsent { // before waiting, what is here
			if c.by.flush() != nil {
				return errLeft
			}
			unsent = false
		}
		if len(p) > 0 && body.in.Size() < largeSize {
			putBuffer(body.in.SetBuffer(getLargeBuffer()))
		}
		if err := body.more(); err != nil {
			return err
		}
		if body.done { // by its connection, or by trailers
			if trailer = passing(body.trailer); len(trailer) == 0 && c.by.write(nil, true) != nil {
				return errLeft
			}
		}
	}
	if c.by.finish(passing(body.trailer), c.uploaded()) != nil {
		return errLeft
	}
	return nil
}

// passing are the trailers that may pass.
func passing(fields []http1.Field) []http1.Field {
	return slices.DeleteFunc(fields, func(f http1.Field) bool { return !passesAsTrailer(&f) })
}

// beginUpload sends the body in a goroutine of its own.
func (c *carried) beginUpload(u *upstream) {
	c.begun, c.ended = true, make(chan struct{})
	go func() {
		defer close(c.ended)
		if c.err = c.send(u); c.err != nil && !errors.Is(c.err, errUpstreamWrite) {
			c.failed.Store(true)
			splice.Reset(u.Conn) // the upstream must not take it for whole
		}
	}()
}

// chunkRoom is how much of a buffer is left for the line ahead of a chunk.
const chunkRoom = 16

// send moves the body.
func (c *carried) send(u *upstream) error {
	large := getLargeBuffer()
	defer putBuffer(large)
	for {
		b := large
		n, err := c.by.Read(b[chunkRoom : len(b)-2])
		c.content.Add(int64(n))
		out := b[chunkRoom : chunkRoom+n]
		if c.chunked && n > 0 {
			out = frameChunk(b, n)
		}
		if len(out) > 0 {
			if _, err := u.Write(out); err != nil {
				return errUpstreamWrite
			}
		}
		if err == io.EOF { //nolint:errorlint // the orderly end (io.Reader)
			break
		}
		if err != nil {
			return &bodyError{err}
		}
	}
	if c.chunked {
		out := appendTrailers(append(large[:0], "0\r\n"...), c.by.trailer())
		if _, err := u.Write(out); err != nil {
			return errUpstreamWrite
		}
	}
	return nil
}

// frameChunk makes a chunk of the n bytes behind chunkRoom.
func frameChunk(b []byte, n int) []byte {
	const digits = "0123456789abcdef"
	end := copy(b[chunkRoom+n:], "\r\n") + chunkRoom + n
	at := chunkRoom - 2
	copy(b[at:], "\r\n")
	for k := n; k > 0; k >>= 4 {
		at--
		b[at] = digits[k&15]
	}
	return b[at:end]
}

// uploaded reports whether the whole request has been sent.
func (c *carried) uploaded() bool {
	if !c.begun {
		return !c.hasBody
	}
	select {
	case <-c.ended:
		return c.err == nil
	default:
		return false
	}
}

// cause returns err, or what of the body lies behind it. A body that is still being sent
// ends with its stream, or when net/http ends the request: reading of it must go on until
// the answer is out, or it would be overtaken by a reset.
func (c *carried) cause(err error) error {
	if err == nil || !c.failed.Load() {
		return err
	}
	<-c.ended
	return c.err
}
