package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/coder/websocket"
)

// Of links by WebSocket (RFC 6455): where a node takes them, and the subprotocol that says
// that it is one.
const (
	WebSocketPath     = "/.culvert/link"
	WebSocketProtocol = "culvert.1"
)

// ErrNoWebSocket says that something answers by HTTP, and takes no link.
var ErrNoWebSocket = errors.New("what answers there takes no links by WebSocket: check the server's address, and whether what stands in front of it lets WebSockets through")

// webSocket is a WebSocket as a connection: a message for each Write.
type webSocket struct {
	net.Conn
	ws            *websocket.Conn
	local, remote net.Addr
}

// Close ends it at once. The closing handshake of WebSocket would be waited for, and what
// it says is said inside already.
func (w *webSocket) Close() error { return w.ws.CloseNow() }

func (w *webSocket) LocalAddr() net.Addr  { return w.local }
func (w *webSocket) RemoteAddr() net.Addr { return w.remote }

// overWebSocket dials by TLS in a WebSocket. The TLS around the WebSocket may end in front
// of the node, and is not what protects the link: the one inside is, and authenticates the
// node as by every other transport. So any certificate will do outside.
func (d *Dialer) overWebSocket(ctx context.Context, host, address string) (*tlsConn, error) {
	outer := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host, NextProtos: []string{"http/1.1"}, InsecureSkipVerify: true}
	if net.ParseIP(host) != nil {
		outer.ServerName = NodeName // an address is no server name (RFC 6066, section 3)
	}
	raw, err := d.connect(ctx, address)
	if err != nil {
		return nil, err
	}
	around := tls.Client(raw, outer)
	err = around.HandshakeContext(ctx)
	var ws *websocket.Conn
	if err == nil {
		ws, err = upgrade(ctx, around, address)
	}
	if err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("dial %s by WebSocket: %w", address, classify(ctx, err))
	}
	conn := websocket.NetConn(context.WithoutCancel(ctx), ws, websocket.MessageBinary)
	return d.authenticate(ctx, &webSocket{Conn: conn, ws: ws, local: raw.LocalAddr(), remote: raw.RemoteAddr()}, host, address)
}

// upgrade makes a WebSocket of a connection.
func upgrade(ctx context.Context, conn net.Conn, address string) (*websocket.Conn, error) {
	transport := &http.Transport{
		ReadBufferSize: 64 << 10, DisableKeepAlives: true, MaxResponseHeaderBytes: maxProxyHead,
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}
	ws, res, err := websocket.Dial(ctx, "wss://"+address+WebSocketPath, &websocket.DialOptions{ //nolint:bodyclose // the library's
		HTTPClient:   &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		Subprotocols: []string{WebSocketProtocol}, CompressionMode: websocket.CompressionDisabled,
	})
	switch {
	case err != nil && res != nil:
		return nil, fmt.Errorf("%w: it answers %d", ErrNoWebSocket, res.StatusCode)
	case err == nil && ws.Subprotocol() != WebSocketProtocol:
		_ = ws.CloseNow()
		return nil, ErrNoWebSocket
	}
	return ws, err
}

// AcceptWebSocket answers a request for WebSocketPath, and returns the connection on which
// the ClientHello of a link comes. On failure the answer is given.
func AcceptWebSocket(w http.ResponseWriter, r *http.Request) (net.Conn, error) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: []string{WebSocketProtocol}, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return nil, err
	}
	conn := websocket.NetConn(context.WithoutCancel(r.Context()), ws, websocket.MessageBinary)
	return &webSocket{Conn: conn, ws: ws, local: conn.LocalAddr(), remote: conn.RemoteAddr()}, nil
}
