package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/splice"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Listener takes the visitors of an endpoint within this process, in the place of an
// upstream. It outlives links: while there is none, Accept waits.
type Listener struct {
	addr  net.Addr
	conns chan *visit
	done  chan struct{}

	mu struct {
		sync.Mutex
		err error // why it is done
	}
}

// NewListener makes a listener that says addr is where it listens.
func NewListener(addr net.Addr) *Listener {
	return &Listener{addr: addr, conns: make(chan *visit), done: make(chan struct{})}
}

// Accept waits for the next visitor. Its error is that of End.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		select {
		case <-l.done:
			l.mu.Lock()
			defer l.mu.Unlock()
			return nil, l.mu.err
		default:
		}
		select {
		case v := <-l.conns:
			if v.take() {
				return v, nil
			}
		case <-l.done:
		}
	}
}

// End makes Accept return err, and visitors be refused, from now on. The first err
// counts.
func (l *Listener) End(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.err == nil {
		l.mu.err = err
		close(l.done)
	}
}

// Close is End with net.ErrClosed. Connections that were accepted go on.
func (l *Listener) Close() error {
	l.End(net.ErrClosed)
	return nil
}

// Addr is the address given to NewListener.
func (l *Listener) Addr() net.Addr { return l.addr }

var (
	errNotAccepted = errors.New("the service did not accept the connection in time")
	errNotListened = errors.New("the service does not listen any more")
)

// serve hands a stream to whoever calls Accept and returns when that one has closed
// it, or when the link is gone, since a user may forget to. The error is that of a
// stream which nobody took.
func (l *Listener) serve(ctx context.Context, v *visit, gone <-chan struct{}) error {
	timeout := time.NewTimer(dialTimeout)
	defer timeout.Stop()
	select {
	case l.conns <- v:
	case <-l.done:
		return errNotListened
	case <-timeout.C:
		return errNotAccepted
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-v.closed:
	case <-gone:
	}
	return nil
}

// visit is a stream as the connection of its visitor.
type visit struct {
	link.Stream
	served        *served
	visitor       endpoint.Visitor
	remote, local net.Addr
	closing       sync.Once
	closed        chan struct{}
}

func newVisit(st link.Stream, e *served, h *tunnel.StreamHeader) *visit {
	return &visit{Stream: st, served: e, visitor: tunnel.VisitorFrom(h), closed: make(chan struct{}), remote: address(h.GetVisitor()), local: address(h.GetEdge())}
}

// address is what a node says is one; the zero address for what is none.
func address(s string) net.Addr {
	at, _ := netip.ParseAddrPort(s)
	return net.TCPAddrFromAddrPort(at)
}

// take tells the node that the visitor is being served.
func (v *visit) take() bool {
	_ = v.SetWriteDeadline(time.Now().Add(sendTimeout))
	err := tunnel.Write(v.Stream, &tunnel.StreamReply{}, tunnel.MaxHeader)
	if err == nil {
		err = v.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		_ = v.Reset()
	}
	return err == nil
}

func (v *visit) RemoteAddr() net.Addr { return v.remote } // the visitor's
func (v *visit) LocalAddr() net.Addr  { return v.local }  // the edge's

func (v *visit) Read(p []byte) (int, error) {
	n, err := v.Stream.Read(p)
	v.served.count(int64(n), 0)
	return n, err
}

func (v *visit) Write(p []byte) (int, error) {
	n, err := v.Stream.Write(p)
	v.served.count(0, int64(n))
	return n, err
}

func (v *visit) WriteTo(w io.Writer) (int64, error) {
	n, err := v.Stream.WriteTo(w)
	v.served.count(n, 0)
	return n, err
}

func (v *visit) ReadFrom(r io.Reader) (int64, error) {
	n, err := v.Stream.ReadFrom(r)
	v.served.count(0, n)
	return n, err
}

func (v *visit) WriteToN(w io.Writer, n int64) (int64, error) {
	n, err := v.Stream.WriteToN(w, n)
	v.served.count(n, 0)
	return n, err
}

func (v *visit) ReadFromN(r io.Reader, n int64) (int64, error) {
	n, err := v.Stream.ReadFromN(r, n)
	v.served.count(0, n)
	return n, err
}

func (v *visit) Close() error {
	err := v.Stream.Close()
	v.closing.Do(func() { close(v.closed) })
	return err
}

func (v *visit) Reset() error {
	splice.Reset(v.Stream)
	v.closing.Do(func() { close(v.closed) })
	return nil
}
