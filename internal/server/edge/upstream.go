package edge

import (
	"context"
	"io"
	"net"
	"net/http/httptrace"
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
	ended   chan struct{}           // closed when there is nothing more to read
	once    sync.Once
	closing sync.Once
	lingers *tally.Tally
}

// linger is how long an idle stream that was closed here may take to be closed by the
// upstream too.
const linger = time.Second

func newUpstreamConn(s net.Conn, lingers *tally.Tally) *upstreamConn {
	return &upstreamConn{Conn: s, ended: make(chan struct{}), lingers: lingers}
}

func (c *upstreamConn) end() { c.once.Do(func() { close(c.ended) }) }

func (c *upstreamConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.end()
	}
	return n, err
}

// Write reports an error only after Read has reported one, or Close was called.
func (c *upstreamConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		<-c.ended
	}
	return n, err
}

// ReadFrom keeps the multiplexer's way of filling its own buffers.
func (c *upstreamConn) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(struct{ io.Writer }{c}, r)
	return n, err
}

// CloseWrite passes the end of an upgraded connection on.
func (c *upstreamConn) CloseWrite() error { return splice.CloseWrite(c.Conn) }

// Close ends the stream: at once in the middle of an exchange, else with a FIN that
// the upstream has a moment to answer.
func (c *upstreamConn) Close() error {
	c.closing.Do(func() {
		c.end()
		if c.user.Load() != nil {
			splice.Reset(c.Conn)
			return
		}
		c.lingers.Enter()
		go func() {
			defer c.lingers.Leave()
			_ = c.SetDeadline(time.Now().Add(linger))
			err := splice.CloseWrite(c.Conn)
			if err == nil {
				_, err = c.Conn.Read(make([]byte, 1))
			}
			if err == io.EOF { //nolint:errorlint // the orderly end (io.Reader)
				_ = c.Conn.Close()
				return
			}
			splice.Reset(c.Conn)
		}()
	})
	return nil
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
		PutIdleConn: func(err error) {
			if err == nil {
				pass.finished()
			}
		},
	})
}
