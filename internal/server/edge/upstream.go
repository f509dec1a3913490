package edge

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-tunnel/culvert/internal/splice"
	"github.com/culvert-tunnel/culvert/internal/tally"
)

// upstreamConn is a stream as http.Transport uses it, with what Transport takes for
// granted of a TCP connection but a stream does not do by itself:
//
//   - Closing in the middle of an exchange reaches the upstream. A stream's Close is a
//     FIN, which an upstream may take for the mere end of the request; it would send
//     on into a stream that nobody reads, for ever.
//   - A failed Write doesn't hide the answer that came before it. An upstream that
//     answers early and closes (413) makes the rest of the upload fail, which
//     Transport takes for the failure of the whole exchange.
type upstreamConn struct {
	net.Conn
	user    atomic.Pointer[passage] // whose exchange is under way; nil while idle
	closing sync.Once
	closed  chan struct{}
	streams *tally.Tally // that this one is counted in until it is closed
	lingers *tally.Tally // that it is counted in while it waits for the upstream to close

	reading sync.Mutex // held in Read: a stream has one reader at a time
	once    sync.Once
	ended   chan struct{} // closed when Read has failed
	err     error         // why; valid when ended is closed
}

func newUpstreamConn(s net.Conn, streams, lingers *tally.Tally) *upstreamConn {
	streams.Enter()
	return &upstreamConn{Conn: s, closed: make(chan struct{}), ended: make(chan struct{}), streams: streams, lingers: lingers}
}

func (c *upstreamConn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	n, err := c.Conn.Read(p)
	closed := false
	select {
	case <-c.closed:
		closed = true
		if err == nil {
			err = net.ErrClosed // nobody asked for these bytes
		}
	default:
	}
	if err != nil {
		c.once.Do(func() {
			c.err = err
			close(c.ended)
			if p := c.user.Load(); p != nil && !closed {
				p.streamEnded(err)
			}
		})
	}
	return n, err
}

// Write reports an error only after Read has reported one, or Close was called.
func (c *upstreamConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		c.waitEnd()
	}
	return n, err
}

// ReadFrom is Write for all of r. It keeps the multiplexer's way of filling its own
// buffers.
func (c *upstreamConn) ReadFrom(r io.Reader) (int64, error) {
	rf, ok := c.Conn.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	source := &noted{Reader: r}
	n, err := rf.ReadFrom(source)
	if err != nil && !source.failed {
		c.waitEnd()
	}
	return n, err
}

func (c *upstreamConn) waitEnd() {
	select {
	case <-c.ended:
	case <-c.closed:
	}
}

// noted tells the failure of a reader from that of the writer.
type noted struct {
	io.Reader
	failed bool
}

func (r *noted) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.failed = r.failed || (err != nil && err != io.EOF)
	return n, err
}

// CloseWrite passes the end of an upgraded connection on.
func (c *upstreamConn) CloseWrite() error { return splice.CloseWrite(c.Conn) }

// Close ends the stream: at once in the middle of an exchange, else with a FIN that
// the upstream has a moment to answer.
func (c *upstreamConn) Close() error {
	c.closing.Do(func() {
		close(c.closed)
		if c.user.Load() != nil {
			splice.Reset(c.Conn)
			c.streams.Leave()
			return
		}
		c.lingers.Enter()
		go func() {
			defer c.lingers.Leave()
			defer c.streams.Leave()
			c.linger()
		}()
	})
	return nil
}

func (c *upstreamConn) linger() {
	_ = c.SetDeadline(time.Now().Add(linger))
	if splice.CloseWrite(c.Conn) != nil {
		splice.Reset(c.Conn)
		return
	}
	// Transport reads on from an idle connection, so that its Read sees the end.
	if c.reading.TryLock() {
		c.reading.Unlock()
		_, _ = c.Read(make([]byte, 1))
	}
	<-c.ended
	if c.err == io.EOF { //nolint:errorlint // the orderly end (io.Reader)
		_ = c.Conn.Close()
		return
	}
	splice.Reset(c.Conn)
}

// withExchange lets pass be the user of the connection it gets, until the connection is
// idle again. HTTP/2 connections have many users and end their exchanges themselves.
func withExchange(ctx context.Context, pass *passage) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			if c, ok := info.Conn.(*upstreamConn); ok {
				c.user.Store(pass)
				pass.conn.Store(c)
			}
		},
		GotFirstResponseByte: func() { pass.responds(0) },
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			pass.responds(code)
			return nil
		},
		Got100Continue: func() { pass.responds(http.StatusContinue) },
		PutIdleConn: func(err error) {
			if err == nil {
				pass.finished()
			}
		},
	})
}
