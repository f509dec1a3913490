package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/server/edge/clienthello"
	"github.com/culvert-tunnel/culvert/internal/splice"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// serveTLS looks at the ClientHello of a connection on the shared TLS port and
// sends it where it belongs: an agent to control, a visitor of a passthrough
// endpoint to the agent with all bytes as they came, others to HTTP.
func (e *Edge) serveTLS(ctx context.Context, c net.Conn) {
	hello, ok := e.peek(ctx, c)
	if !ok {
		return
	}
	if hello.Offers(tunnel.ALPN) {
		e.serveLink(ctx, c, hello.Raw)
		return
	}
	name := endpoint.Name{Kind: endpoint.TLS, Host: hello.ServerName}
	if _, passthrough := e.cfg.Registry.Spec(name); passthrough && hello.ServerName != "" {
		v := visitor(c, name)
		v.ServerName, v.ALPN = hello.ServerName, hello.ALPN
		e.visits.Enter()
		defer e.visits.Leave()
		e.carry(ctx, c, v, hello.Raw)
		return
	}
	if _, err := e.certificate(hello.ServerName); err != nil {
		e.cfg.Logger.Debug("TLS visitor for no endpoint", "server_name", hello.ServerName, "remote", c.RemoteAddr().String())
		closeWithAlert(c, alertUnrecognizedName)
		return
	}
	e.secure.put(tls.Server(splice.Prepend(c, hello.Raw), e.http.TLSConfig))
}

// serveLinkOnly serves a connection on a port for agents alone.
func (e *Edge) serveLinkOnly(ctx context.Context, c net.Conn) {
	hello, ok := e.peek(ctx, c)
	if !ok {
		return
	}
	if !hello.Offers(tunnel.ALPN) {
		closeWithAlert(c, alertNoApplicationProtocol)
		return
	}
	e.serveLink(ctx, c, hello.Raw)
}

// peek reads the ClientHello within its time and number limits. Without one it
// closes the connection.
func (e *Edge) peek(ctx context.Context, c net.Conn) (*clienthello.Hello, bool) {
	select {
	case e.pending <- struct{}{}:
		defer func() { <-e.pending }()
	default:
		e.cfg.Logger.Warn("too many connections without a ClientHello", "limit", e.cfg.MaxPending)
		splice.Reset(c)
		return nil, false
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	_ = c.SetReadDeadline(time.Now().Add(e.cfg.HelloTimeout))
	hello, err := clienthello.Read(c)
	if err != nil {
		e.cfg.Logger.Debug("no ClientHello", "remote", c.RemoteAddr().String(), "error", err)
		switch {
		case errors.Is(err, clienthello.ErrMalformed), errors.Is(err, clienthello.ErrTooLarge):
			closeWithAlert(c, alertDecodeError)
		case errors.Is(err, clienthello.ErrNotTLS) && looksLikeHTTP(hello.Raw):
			closeWith(c, httpOnTLS)
		default:
			_ = c.Close()
		}
		return nil, false
	}
	_ = c.SetReadDeadline(time.Time{})
	return hello, true
}

// serveLink finishes the TLS handshake with an agent, whose ClientHello was read
// already, and hands the link on.
func (e *Edge) serveLink(ctx context.Context, c net.Conn, hello []byte) {
	conn, err := link.Accept(ctx, c, hello, link.ServerConfig(e.cfg.Certs.Link), e.cfg.HelloTimeout)
	if err != nil {
		e.cfg.Logger.Debug("link handshake", "remote", c.RemoteAddr().String(), "error", err)
		return
	}
	if err := e.cfg.Link(ctx, conn); err != nil {
		e.cfg.Logger.Debug("link ended", "remote", c.RemoteAddr().String(), "error", err)
	}
}

// certificate returns the certificate for a visitor's server name.
func (e *Edge) certificate(serverName string) (*tls.Certificate, error) {
	host, err := endpoint.ParseHost(serverName)
	if err != nil {
		return nil, err
	}
	return e.cfg.Certs.Visitor(host)
}

// TLS alerts (RFC 8446, section 6.2).
const (
	alertDecodeError           = 50
	alertUnrecognizedName      = 112
	alertNoApplicationProtocol = 120
)

// closeWithAlert tells a TLS client why it is not served. The alert record is the
// same in all versions of TLS as long as nothing is encrypted.
func closeWithAlert(c net.Conn, alert byte) {
	closeWith(c, []byte{21, 3, 3, 0, 2, 2, alert})
}

// httpOnTLS is for who speaks plain HTTP to the TLS port, most often by a URL with the
// wrong scheme.
var httpOnTLS = []byte("HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n" +
	errorHeader + ": " + string(tunnel.CodeBadRequest) + "\r\n\r\nThis port speaks TLS: use https://. (" + string(tunnel.CodeBadRequest) + ")\n")

// looksLikeHTTP reports whether the first byte is that of a method.
func looksLikeHTTP(b []byte) bool { return len(b) > 0 && 'A' <= b[0] && b[0] <= 'Z' }

// lastWords bounds the time and the bytes for which closeWith reads on.
const (
	lastWordsTime  = time.Second
	lastWordsBytes = 128 << 10
)

// closeWith says something and closes. It reads what still comes, because closing with
// unread bytes is a reset, which may overtake what was said.
func closeWith(c net.Conn, words []byte) {
	defer c.Close() //nolint:errcheck // it ends one way or the other
	_ = c.SetDeadline(time.Now().Add(lastWordsTime))
	if _, err := c.Write(words); err != nil {
		return
	}
	if err := splice.CloseWrite(c); err != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, c, lastWordsBytes)
}

// handoff is a listener whose connections come from elsewhere.
type handoff struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newHandoff() *handoff {
	return &handoff{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// put gives a connection to whoever accepts, or closes it after Close.
func (h *handoff) put(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.closed:
		splice.Reset(c)
	}
}

// Accept implements net.Listener.
func (h *handoff) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handoff) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

// Addr implements net.Listener.
func (h *handoff) Addr() net.Addr { return &net.TCPAddr{} }
