package edge

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // as RFC 6455 has it, against mix-ups alone
	"encoding/base64"
	"io"
	"net/http"
	"slices"

	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
	"github.com/culvert-tunnel/culvert/internal/splice"
)

var errNoWebSocket = &http1.Error{Status: http.StatusBadGateway, Reason: "the answer does not fit the WebSocket handshake"}

// carryNetWebSocket is carryWebSocket for an exchange of net/http.
func (e *Edge) carryNetWebSocket(w http.ResponseWriter, r *http.Request, x *exchange) {
	e.carryWebSocket(newNetParty(e, w, r, x), x)
}

// carryWebSocket translates the WebSocket of an extended CONNECT to the upstream's
// HTTP/1.1 Upgrade (RFC 6455, section 4) and back; the frames in between are the same.
func (e *Edge) carryWebSocket(by party, x *exchange) {
	c := &carried{edge: e, by: by, x: x}
	x.visitor.Protocol = alpnH1
	var key [16]byte
	_, _ = rand.Read(key[:]) // never fails
	nonce := base64.StdEncoding.EncodeToString(key[:])
	by.asGet()
	first := by.appendRequest(getBuffer()[:0], x)
	first = append(first[:len(first)-2], "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: "...)
	first = append(append(first, nonce...), "\r\n\r\n"...)
	u, err := e.reach(by.Context(), x, outgoing{first: first, whole: true, idempotent: true}, c)
	putBuffer(first)
	switch status := c.res.Status; {
	case err != nil:
		unspoken(x.route, err)
	case status == http.StatusSwitchingProtocols && acceptsUpgrade(&c.res, nonce):
		err = c.exchangeFrames(u)
	case status < 300:
		// An answer of success without an upgrade would be success to the visitor.
		c.use(nil)
		e.streams.drop(u)
		err = &invalidError{errNoWebSocket}
	default:
		err = c.answer(u, true)
	}
	c.settle(err)
}

// acceptsUpgrade reports whether a 101 is the one that was asked for, by an upstream that
// has read the nonce (RFC 6455, section 4.1).
func acceptsUpgrade(res *http1.Response, nonce string) bool {
	return http1.EqualFold(res.Upgrade, "websocket") && string(res.Get("sec-websocket-accept")) == acceptFor(nonce)
}

// acceptFor is what proves that the nonce was read (RFC 6455, section 4.2.2).
func acceptFor(nonce string) string {
	sum := sha1.Sum([]byte(nonce + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // as above
	return base64.StdEncoding.EncodeToString(sum[:])
}

// exchangeFrames moves bytes both ways until the upstream ends. It returns an error when
// that was no orderly end.
func (c *carried) exchangeFrames(u *upstream) error {
	c.res.Status = http.StatusOK
	c.res.Fields = slices.DeleteFunc(c.res.Fields, func(f http1.Field) bool { return http1.EqualFold(f.Name, "sec-websocket-accept") })
	early := bytes.Clone(u.in.Buffered())
	if c.by.head(&c.res, false) != nil || c.by.flush() != nil {
		c.use(nil)
		c.edge.streams.drop(u)
		return errLeft
	}
	upwards := make(chan struct{})
	go func() {
		defer close(upwards)
		n, err := io.Copy(u.Conn, c.by.frames())
		c.content.Store(n)
		if err != nil || splice.CloseWrite(u.Conn) != nil {
			splice.Reset(u.Conn)
		}
	}()
	_, err := io.Copy(flushing{c.by}, io.MultiReader(bytes.NewReader(early), u.Conn))
	if err == nil {
		err = c.by.write(nil, true)
	}
	c.use(nil)
	c.edge.streams.drop(u)
	c.by.stopReading()
	<-upwards
	c.x.bytesIn = c.content.Load()
	return err
}

// flushing sends each piece at once.
type flushing struct{ party }

func (f flushing) Write(p []byte) (int, error) {
	err := f.write(p, false)
	if err == nil {
		err = f.flush()
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}
