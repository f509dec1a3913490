package edge

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/splice"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// forward carries one exchange to an upstream that speaks HTTP/1.1 and back.
func (v *visit) forward(ctx context.Context, first bool) {
	out, err := v.outgoing()
	if err != nil {
		v.x.err = err
		v.refuse(ctx, codeOf(err))
		return
	}
	u, err := v.edge.reach(ctx, &v.x, out, v)
	if err == nil {
		err = v.answer(ctx, u, !out.again())
	}
	if v.upload.begun {
		err = v.endUpload(err)
	}
	v.x.bytesIn += v.upload.body.content
	if err == nil {
		v.linger = !v.uploaded()
		return
	}
	if !out.body && unspoken(v.x.route, err) && first {
		v.dispatch(ctx, false)
		return
	}
	v.x.err = err
	switch {
	case v.hasLeft():
		v.x.err = errLeft
	case v.x.status != 0:
		v.over = true
		splice.Reset(v.conn) // what was broken off must look so
	default:
		v.refuse(ctx, codeOf(err))
	}
}

// outgoing is a request on its way out.
type outgoing struct {
	first      []byte // its head, and what of the body goes along
	whole      bool   // nothing comes behind first
	body       bool   // there is one
	idempotent bool
}

// again reports whether the request may be sent a second time.
func (o *outgoing) again() bool { return o.whole && o.idempotent }

// outgoing makes the request's head for the upstream, behind which comes what is here of
// its body. A body that came with its head is judged before anything is sent.
func (v *visit) outgoing() (outgoing, error) {
	o := outgoing{idempotent: v.req.Idempotent(), body: !v.upload.body.done}
	b := appendRequest(v.out[:0], &v.req, &v.x)
	body := &v.upload.body
	o.whole = body.done
	if !o.whole && !v.upload.expects {
		p, err := body.next()
		b = append(b, p...)
		if err != nil {
			return o, err
		}
		if o.whole = body.done; o.whole && body.chunked {
			b = appendTrailers(b, body.trailer)
		}
	}
	v.out, o.first = b, b
	return o, nil
}

// exchanger is who waits for the answer of a request that reach sends.
type exchanger interface {
	// use says which stream is in use; nil: none any more.
	use(u *upstream)
	// sent is called when the first bytes are on their way.
	sent(u *upstream)
	// informed passes an answer of 1xx on, in res of respond.
	informed(u *upstream) error
	// head is where the answer's head is to be read to.
	respond() *http1.Response
}

// Limits of an upstream's answer.
const (
	maxAnswerBytes = 64 << 10 // of a head
	maxInformed    = 100      // answers of 1xx
	expectTimeout  = 5 * time.Second
)

// errTooManyInformed is an upstream that never comes to the point.
var errTooManyInformed = &http1.Error{Status: http.StatusBadGateway, Reason: "too many answers of 1xx"}

// invalidError says that an upstream's answer can't be passed on.
type invalidError struct{ error }

func (e *invalidError) Unwrap() error { return e.error }

// reach sends a request on a stream of its route and returns the stream when the head of
// the final answer has been read. A request that reached nobody goes by another route, if
// need be by that of the agent's next session; one that got no byte of an answer from a
// stream that was kept, or whose session ended, is sent again if that is safe, once. Of a
// stream to another node's session that breaks off it is not known whether the session ended.
func (e *Edge) reach(ctx context.Context, x *exchange, o outgoing, by exchanger) (*upstream, error) {
	for again := false; ; {
		u, err := e.stream(ctx, x, o, again, by)
		if err != nil {
			if !nobodyReached(err) || (errors.Is(err, registry.ErrUncertain) && !o.idempotent) {
				return nil, err
			}
			if err = elsewhere(ctx, e.cfg.Registry, x, err); err != nil {
				return nil, err
			}
			continue
		}
		x.sent = time.Now()
		by.sent(u)
		var heard bool
		answer := func() { heard, err = e.awaitAnswer(u, x, by) }
		if x.route.Shared() && o.again() {
			e.streams.wait(u, x.visitor.Name, answer)
		} else {
			answer()
		}
		if err == nil {
			x.answered = time.Now()
			x.route.Served()
			return u, nil
		}
		by.use(nil)
		e.streams.drop(u)
		gone := errors.Is(err, registry.ErrSessionGone) || u.left.Load()
		switch {
		case heard || ctx.Err() != nil:
			return nil, err
		case o.whole && isRefused(err):
		case again || !o.again() || (!u.kept && !gone && !x.route.Relayed()):
			return nil, err
		default:
			again = true
		}
		if gone || isRefused(err) {
			if u.left.Load() {
				err = registry.ErrSessionGone
			}
			if err = elsewhere(ctx, e.cfg.Registry, x, err); err != nil {
				return nil, err
			}
		}
	}
}

// isRefused reports whether an agent said that it reached nobody, or a node that it has no
// agent.
func isRefused(err error) bool {
	_, refused := errors.AsType[*tunnel.StreamError](err)
	return refused || errors.Is(err, registry.ErrMoved)
}

// stream returns a stream on which the first bytes of a request have been sent: one that was
// kept, unless again says that such a one failed, or a new one. A body that is yet to come
// can't be sent twice, so where there may be other routes it waits until one has led to
// somebody.
func (e *Edge) stream(ctx context.Context, x *exchange, o outgoing, again bool, by exchanger) (*upstream, error) {
	if !again {
		if u := e.streams.take(x.route, !o.again()); u != nil {
			by.use(u)
			_, _ = u.Write(o.first) // why it failed, reading tells; there may be an answer
			return u, nil
		}
	}
	u, err := e.streams.open(ctx, x.route, x.visitor, o.first)
	if err != nil {
		return nil, err
	}
	if !o.whole && x.route.Shared() {
		if err := replied(ctx, u.Conn); err != nil {
			e.streams.drop(u)
			return nil, err
		}
	}
	by.use(u)
	return u, nil
}

// awaitAnswer reads heads up to that of the final answer, and reports whether a byte of
// any was heard.
func (e *Edge) awaitAnswer(u *upstream, x *exchange, by exchanger) (heard bool, err error) {
	res := by.respond()
	res.Status = 0
	for informed := 0; ; {
		head, err := u.in.ReadHead(maxAnswerBytes)
		heard = heard || len(u.in.Buffered()) > 0
		if err != nil && !heard && errors.Is(err, os.ErrDeadlineExceeded) {
			err = by.informed(u) // of nothing: the deadline is that of a 100
			if err == nil {
				continue
			}
		}
		if err == nil {
			err = res.Parse(head, x.method == http.MethodHead)
		}
		if fault, ok := errors.AsType[*http1.Error](err); ok {
			return heard, &invalidError{fault}
		}
		if err != nil {
			return heard, noEOF(err)
		}
		if res.Status >= 200 || res.Status == http.StatusSwitchingProtocols {
			u.in.Discard(len(head))
			return heard, nil
		}
		if informed++; informed > maxInformed {
			return heard, &invalidError{errTooManyInformed}
		}
		if err := by.informed(u); err != nil {
			return heard, err
		}
		u.in.Discard(len(head))
		res.Status = 0
	}
}

// sent implements exchanger.
func (v *visit) sent(u *upstream) {
	switch {
	case v.upload.body.done:
	case v.upload.expects:
		_ = u.SetReadDeadline(time.Now().Add(expectTimeout))
	default:
		v.beginUpload(u)
	}
}

// respond implements exchanger.
func (v *visit) respond() *http1.Response { return &v.res }

// informed implements exchanger. An upstream that says nothing about an expectation gets
// the body after a while, as it may not know of such things (RFC 9110, section 10.1.1);
// its visitor must then be told by us.
func (v *visit) informed(u *upstream) error {
	status := v.res.Status
	goOn := status == http.StatusContinue || status == 0
	if goOn && (!v.upload.expects || v.upload.begun) {
		if status == 0 {
			return os.ErrDeadlineExceeded
		}
		return nil // nobody asked
	}
	if v.req.Minor > 0 {
		b := getBuffer()[:0]
		if status == 0 {
			b = append(b, "HTTP/1.1 100 Continue\r\n\r\n"...)
		} else {
			b = appendAnswer(b, &v.res, false, stays)
		}
		err := v.write(b)
		putBuffer(b)
		if err != nil {
			v.leave()
			return errLeft
		}
	}
	if goOn {
		_ = u.SetReadDeadline(time.Time{})
		v.beginUpload(u)
	}
	return nil
}

// answer passes the final answer on and gives the stream back.
func (v *visit) answer(ctx context.Context, u *upstream, once bool) error {
	res := &v.res
	if v.upload.expects && !v.upload.begun {
		_ = u.SetReadDeadline(time.Time{})
	}
	if res.Status == http.StatusSwitchingProtocols {
		return v.goOver(ctx, u)
	}
	body := newFramed(&u.in, &res.Head, v.req.Minor == 0)
	coding := v.req.Minor > 0 && (res.Chunked || res.ToTheEnd())
	// An answer that overtakes the request's body ends the connection behind it: what is
	// left of the body has no reader.
	v.over = v.over || !v.uploaded() || (v.req.Minor == 0 && res.Length == http1.Unknown) || v.edge.watch.draining.Load()
	end := stays
	switch {
	case v.over:
		end = closes
	case v.req.Minor == 0:
		end = staysOld
	}
	v.x.status = res.Status
	toTheEnd := res.ToTheEnd()
	again := res.Persistent() && !toTheEnd
	b := v.edge.appendOwn(appendAnswer(v.out[:0], res, coding, end), &v.x)
	err := v.passBody(&body, b, coding && toTheEnd, coding)
	v.x.bytesOut = body.content
	v.use(nil)
	v.edge.streams.give(u, err == nil && v.uploaded(), again, once)
	return err
}

// passBody writes b, the head, and the body behind it. encode makes chunks of it;
// trailers says that a trailer section is to follow.
func (v *visit) passBody(body *framed, b []byte, encode, trailers bool) (err error) {
	defer func() { v.out = b[:0] }()
	for {
		p, fault := body.next()
		switch {
		case len(b)+len(p)+chunkRoom > cap(b):
			if encode {
				b = append(strconv.AppendInt(b, int64(len(p)), 16), "\r\n"...)
			}
			if b, err = v.flush(b); err == nil {
				err = v.writeAnswer(p)
			}
			if encode {
				b = append(b, "\r\n"...)
			}
		case encode:
			b = appendChunk(b, p)
		default:
			b = append(b, p...)
		}
		if err == nil && fault == nil && len(p) > 0 && !body.done && len(body.in.Buffered()) > 0 {
			continue // of chunks that are decoded, one at a time
		}
		if body.done && trailers {
			if encode {
				b = append(b, "0\r\n"...)
			}
			b = appendTrailers(b, body.trailer)
		}
		if len(b) > 0 && err == nil {
			b, err = v.flush(b)
		}
		switch {
		case fault != nil:
			return &invalidError{fault}
		case err != nil || body.done:
			return err
		case len(p) > 0 && body.in.Size() < largeSize:
			// There is more than came with the head: in larger pieces from here on, or none.
			if !encode {
				if moved, err := v.moveAnswer(body); moved {
					return err
				}
			}
			putBuffer(body.in.SetBuffer(getLargeBuffer()))
		}
		if err := body.more(); err != nil {
			return err
		}
	}
}

func (v *visit) flush(b []byte) ([]byte, error) {
	if len(b) == 0 {
		return b, nil
	}
	return b[:0], v.writeAnswer(b)
}

func (v *visit) writeAnswer(b []byte) error {
	if err := v.write(b); err != nil {
		v.leave()
		return errLeft
	}
	return nil
}

// goOver joins visitor and upstream after a 101 that was asked for.
func (v *visit) goOver(ctx context.Context, u *upstream) error {
	asked := upgradeOf(&v.req)
	if asked == nil || !sameProtocol(asked, v.res.Upgrade) || !v.uploaded() {
		v.use(nil)
		v.edge.streams.drop(u)
		return &invalidError{errUnasked}
	}
	v.x.status = v.res.Status
	v.over = true
	b := appendAnswer(v.out[:0], &v.res, false, stays)
	b = append(b[:len(b)-2], "Connection: Upgrade\r\n"...)
	b = append(http1.AppendField(b, []byte("Upgrade"), v.res.Upgrade), "\r\n"...)
	v.out = b[:0]
	if err := v.writeAnswer(append(b, u.in.Buffered()...)); err != nil {
		v.use(nil)
		v.edge.streams.drop(u)
		return err
	}
	v.waits.Store(0)
	v.use(nil)
	putBuffer(u.in.SetBuffer(nil))
	early := append([]byte(nil), v.in.Buffered()...)
	n, err := splice.Join(ctx, splice.Prepend(v.conn, early), u.Conn, splice.Config{})
	v.edge.streams.streams.Leave()
	v.x.bytesIn, v.x.bytesOut = n.Forward, n.Backward
	return err
}

var errUnasked = &http1.Error{Status: http.StatusBadGateway, Reason: "a protocol that was not asked for"}

// sameProtocol reports whether what the upstream goes over to was asked for.
func sameProtocol(asked, got []byte) bool {
	lower := make([]byte, len(got))
	for i, c := range got {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		lower[i] = c
	}
	return http1.HasToken(asked, string(lower))
}

// codeOfFault is the code of a malformed request.
func codeOfFault(f *http1.Error) tunnel.Code {
	switch f.Status {
	case http.StatusRequestHeaderFieldsTooLarge:
		return tunnel.CodeHeadTooLarge
	case http.StatusHTTPVersionNotSupported:
		return tunnel.CodeVersionRefused
	case http.StatusNotImplemented:
		return tunnel.CodeCodingRefused
	}
	return tunnel.CodeBadRequest
}
