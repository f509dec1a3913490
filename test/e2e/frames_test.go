package e2e

import (
	"bufio"
	"bytes"
	bits "encoding/binary"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// frame is one of a client, masked with zeros (RFC 6455, section 5.2). first holds FIN, the
// reserved bits and the opcode.
func frame(first byte, payload string) string {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = bits.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = bits.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return string(append(b, 0, 0, 0, 0)) + payload
}

// TestFrames: what a WebSocket server says to frames good and bad, it says through the
// tunnel byte for byte, and ends likewise.
func TestFrames(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(echoMessages))
	t.Cleanup(up.Close)
	n := startServer(t)
	_, _ = n.publish("http", up.Listener.Addr().String(), "--url", "http://127.0.0.1")
	bye := frame(0x88, "\x03\xe8")
	big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	for what, c := range map[string]struct{ extensions, frames string }{
		"empty":                        {"", frame(0x81, "") + bye},
		"text":                         {"", frame(0x81, "hello") + bye},
		"binary of 125":                {"", frame(0x82, big[:125]) + bye},
		"126":                          {"", frame(0x82, big[:126]) + bye},
		"64 KiB - 1":                   {"", frame(0x82, big[:1<<16-1]) + bye},
		"64 KiB":                       {"", frame(0x82, big[:1<<16]) + bye},
		"16 MiB":                       {"", frame(0x82, strings.Repeat(big, 16)) + bye},
		"fragments with a ping within": {"", frame(0x01, "one") + frame(0x89, "ping") + frame(0x00, "two") + frame(0x80, "three") + bye},
		"a pong unasked":               {"", frame(0x8a, "pong") + frame(0x81, "x") + bye},
		"a ping too long":              {"", frame(0x89, big[:126])},
		"a fragmented ping":            {"", frame(0x09, "x")},
		"continuation of nothing":      {"", frame(0x80, "x")},
		"text within text":             {"", frame(0x01, "x") + frame(0x81, "y")},
		"reserved bit":                 {"", frame(0xc1, "x")},
		"reserved opcode":              {"", frame(0x83, "x")},
		"reserved control opcode":      {"", frame(0x8b, "x")},
		"invalid UTF-8":                {"", frame(0x81, "\xce\xba\xff") + bye},
		"unmasked":                     {"", "\x81\x01x"},
		"close without a code":         {"", frame(0x88, "")},
		"close of one byte":            {"", frame(0x88, "\x03")},
		"close with a reason":          {"", frame(0x88, "\x0f\xa0reason")},
		"close with a bad code":        {"", frame(0x88, "\x03\xed")},
		"close twice":                  {"", bye + bye},
		"compressed":                   {"permessage-deflate; client_no_context_takeover; server_no_context_takeover", frame(0xc1, "\xf2\x48\xcd\xc9\xc9\x07\x00") + bye},
		"badly compressed":             {"permessage-deflate", frame(0xc1, "\xff\xff\xff") + bye},
		"an extension nobody knows":    {"x-nonsense", frame(0x81, "x") + bye},
	} {
		direct := converse(t, up.Listener.Addr().String(), c.extensions, c.frames)
		if direct == "" && what != "unmasked" { // at which it just leaves
			t.Errorf("%s: the server says nothing", what)
		}
		if tunnel := converse(t, n.http, c.extensions, c.frames); tunnel != direct {
			t.Errorf("%s: direct %.60q (%d bytes), through the tunnel %.60q (%d)", what, direct, len(direct), tunnel, len(tunnel))
		}
	}
}

// converse sends frames and returns what comes until the server ends, the extensions it
// takes first.
func converse(t *testing.T, address, extensions, frames string) string {
	t.Helper()
	c := dial(t, address)
	head := "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
	if extensions != "" {
		head += "Sec-WebSocket-Extensions: " + extensions + "\r\n"
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.WriteString(c, head+"\r\n"+frames) // a server that objects may not take all
	}()
	in := bufio.NewReader(c)
	res, err := http.ReadResponse(in, nil)
	check(t, err)
	var got bytes.Buffer
	got.WriteString(res.Header.Get("Sec-WebSocket-Extensions"))
	_, _ = io.Copy(&got, in) // to the end, in order or not
	_ = c.Close()
	<-sent
	return got.String()
}

// echoMessages sends back what comes.
func echoMessages(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionContextTakeover, CompressionThreshold: 1})
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(-1)
	for {
		kind, message, err := c.Read(r.Context())
		if err != nil || c.Write(r.Context(), kind, message) != nil {
			return
		}
	}
}
