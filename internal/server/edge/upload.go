package edge

import (
	"errors"
	"net"
	"os"
	"sync/atomic"

	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
	"github.com/culvert-tunnel/culvert/internal/splice"
)

// upload is the rest of a request's body on its way: what did not come with the head.
type upload struct {
	body    framed
	expects bool // the upstream's 100 before it begins
	begun   bool
	failed  atomic.Bool // by the visitor's fault; set before the upstream learns of it
	ended   chan struct{}
	err     error  // valid when ended is closed
	head    []byte // the buffer that holds the request's head, still needed, while the body has another
}

// bodyError is the visitor's fault in a body.
type bodyError struct{ error }

func (e *bodyError) Unwrap() error { return e.error }

// beginUpload sends what comes of the body in a goroutine of its own: the upstream may
// answer meanwhile.
func (v *visit) beginUpload(u *upstream) {
	up := &v.upload
	up.begun, up.ended = true, make(chan struct{})
	if _, socket := v.conn.(*net.TCPConn); socket && up.body.left >= largeSize && len(v.in.Buffered()) == 0 {
		up.head = v.in.SetBuffer(getBuffer()) // moveUpload needs none
	} else {
		up.head = v.in.SetBuffer(getLargeBuffer())
	}
	v.readBy.Store(v.edge.watch.in(v.edge.cfg.BodyTimeout))
	go func() {
		defer close(up.ended)
		up.err = v.send(u)
		v.readBy.Store(0)
		if up.err != nil && !errors.Is(up.err, errUpstreamWrite) {
			up.failed.Store(true)
			splice.Reset(u.Conn) // the upstream must not take it for whole
		}
	}()
}

// errUpstreamWrite says that the upstream took no more. Why, its answer tells, if it has
// one.
var errUpstreamWrite = errors.New("the upstream takes no more of the request")

// send moves the rest of the body.
func (v *visit) send(u *upstream) error {
	body := &v.upload.body
	for {
		p, err := body.next()
		if len(p) > 0 {
			v.readBy.Store(0)
			if _, err := u.Write(p); err != nil {
				return errUpstreamWrite
			}
			v.readBy.Store(v.edge.watch.in(v.edge.cfg.BodyTimeout))
		}
		if err != nil {
			return &bodyError{err}
		}
		if body.done {
			break
		}
		if moved, err := v.moveUpload(u, body); moved {
			return err
		}
		if err := body.more(); err != nil {
			return &bodyError{err}
		}
	}
	if body.chunked {
		if _, err := u.Write(appendTrailers(nil, body.trailer)); err != nil {
			return errUpstreamWrite
		}
	}
	return nil
}

// uploaded reports whether the whole request has been sent.
func (v *visit) uploaded() bool {
	up := &v.upload
	if !up.begun {
		return up.body.done
	}
	select {
	case <-up.ended:
		return up.err == nil
	default:
		return false
	}
}

// endUpload stops an upload that is still under way, and returns err or what lies behind
// it.
func (v *visit) endUpload(err error) error {
	up := &v.upload
	failed := up.failed.Load()
	if !v.uploaded() {
		v.over = true
		_ = v.conn.SetReadDeadline(past)
		<-up.ended
	}
	putBuffer(up.head)
	up.head = nil
	fault, ok := errors.AsType[*bodyError](up.err)
	if err == nil || !failed || !ok {
		return err
	}
	if _, malformed := errors.AsType[*http1.Error](fault.error); !malformed && !errors.Is(fault, os.ErrDeadlineExceeded) {
		v.leave() // he broke it off
	}
	return fault
}
