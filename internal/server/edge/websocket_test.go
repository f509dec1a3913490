package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// connector sends extended CONNECTs, over HTTP/2 or HTTP/3.
type connector func(ctx context.Context, body io.Reader) (*http.Response, error)

// visitor2 speaks HTTP/2 to address, whatever the host. net/http's own Transport sends no
// extended CONNECT.
func visitor2(t *testing.T, address string) http.RoundTripper {
	t.Helper()
	tr := &http2.Transport{ //nolint:staticcheck // see above
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:staticcheck // see above
		DialTLSContext: func(ctx context.Context, _, _ string, cfg *tls.Config) (net.Conn, error) { //nolint:staticcheck // see above
			return (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", address)
		},
	}
	t.Cleanup(tr.CloseIdleConnections) //nolint:staticcheck // see above
	return tr
}

func connectors(t *testing.T, r *running) map[string]connector {
	t.Helper()
	request := func(ctx context.Context, body io.Reader) *http.Request {
		req, err := http.NewRequestWithContext(ctx, http.MethodConnect, "https://app.localhost/a%2Fb?q=1", body)
		check(t, err)
		req.Header.Set("Sec-WebSocket-Version", "13")
		req.Header.Set("X-Forwarded-For", "6.6.6.6")
		return req
	}
	h2 := visitor2(t, r.secure)
	h3 := visitor3(t, r.secure).Transport
	return map[string]connector{
		"HTTP/2": func(ctx context.Context, body io.Reader) (*http.Response, error) {
			req := request(ctx, body)
			req.Header[":protocol"] = []string{"websocket"}
			return h2.RoundTrip(req)
		},
		"HTTP/3": func(ctx context.Context, body io.Reader) (*http.Response, error) {
			req := request(ctx, body)
			req.Proto = "websocket"
			return h3.RoundTrip(req)
		},
	}
}

// upgrades is an upstream whose connections are handled after the head of a request.
func upgrades(t *testing.T, handle func(c net.Conn, in *bufio.Reader, r *http.Request)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	ended := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-ended })
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			in := bufio.NewReader(c)
			if r, err := http.ReadRequest(in); err == nil {
				handle(c, in, r)
			}
			_ = c.Close()
		}
	}()
	return l.Addr().String()
}

func accepted(r *http.Request) string {
	return "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Protocol: p\r\nSec-WebSocket-Accept: " +
		acceptFor(r.Header.Get("Sec-WebSocket-Key")) + "\r\n\r\n"
}

// TestExtendedConnect: the upstream gets an Upgrade of HTTP/1.1, the visitor its answer,
// then bytes pass both ways, until either side leaves.
func TestExtendedConnect(t *testing.T) {
	r := run(t, Config{})
	heads, left := make(chan *http.Request, 2), make(chan error, 2)
	r.bind(t, "app.localhost", upgrades(t, func(c net.Conn, in *bufio.Reader, r *http.Request) {
		heads <- r
		_, _ = io.WriteString(c, accepted(r)+"early ")
		line, _ := in.ReadString('\n')
		_, _ = io.WriteString(c, "got "+line)
		_, err := in.ReadByte()
		left <- err
	}))
	for what, connect := range connectors(t, r) {
		body, send := io.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		res, err := connect(ctx, body)
		check(t, err)
		head := <-heads
		if head.Method != http.MethodGet || head.RequestURI != "/a%2Fb?q=1" || head.Host != "app.localhost" || head.Header.Get("Upgrade") != "websocket" ||
			head.Header.Get("X-Forwarded-For") != "127.0.0.1" || head.Header.Get("X-Forwarded-Proto") != "https" {
			t.Errorf("%s: the upstream got %s %s of %s with %v", what, head.Method, head.RequestURI, head.Host, head.Header)
		}
		if res.StatusCode != http.StatusOK || res.Header.Get("Sec-WebSocket-Protocol") != "p" ||
			res.Header.Get("Upgrade")+res.Header.Get("Connection")+res.Header.Get("Sec-WebSocket-Accept") != "" {
			t.Errorf("%s: answer %d with %v", what, res.StatusCode, res.Header)
		}
		in := bufio.NewReader(res.Body)
		if _, err := io.WriteString(send, "frame\n"); err != nil {
			t.Fatal(err)
		}
		if line, err := in.ReadString('\n'); line != "early got frame\n" {
			t.Errorf("%s: got %q, %v", what, line, err)
		}
		cancel()
		_ = send.Close()
		if err := <-left; err == nil {
			t.Errorf("%s: the upstream did not see the visitor leave", what)
		}
		_ = res.Body.Close()
	}
}

// TestExtendedConnectRefused: an answer that is no WebSocket is none to the visitor.
func TestExtendedConnectRefused(t *testing.T) {
	for answer, want := range map[string]string{
		"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nX-Why: y\r\n\r\nno":                                                "403 no",
		"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n":                                              "302 ",
		"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n":                           "401 ",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok":                                                                   "502 upstream_protocol",
		"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: AAAAAAAAAAAAAAAAAA=\r\n\r\n": "502 upstream_protocol",
		"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n":                                                    "502 upstream_protocol",
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxHeaderBytes) + "\r\n\r\n":                                        "502 upstream_protocol",
		"": "502 upstream_closed",
	} {
		r := run(t, Config{})
		r.bind(t, "app.localhost", upgrades(t, func(c net.Conn, _ *bufio.Reader, _ *http.Request) { _, _ = io.WriteString(c, answer) }))
		for what, connect := range connectors(t, r) {
			body, send := io.Pipe()
			res, err := connect(t.Context(), body)
			check(t, err)
			_ = send.Close()
			got := fmt.Sprint(res.StatusCode, " ", res.Header.Get(errorHeader))
			if res.Header.Get(errorHeader) == "" {
				got += read(t, res, nil)
			}
			_ = res.Body.Close()
			if got != want {
				t.Errorf("%s, upstream says %.60q: %q, want %q", what, answer, got, want)
			}
		}
	}
	r := run(t, Config{})
	for _, protocol := range []string{"connect-udp", "WebSockets"} {
		h2 := visitor2(t, r.secure)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodConnect, "https://app.localhost", http.NoBody)
		check(t, err)
		req.Header[":protocol"] = []string{protocol}
		res, err := h2.RoundTrip(req)
		check(t, err)
		if res.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("extended CONNECT for %s: status %d", protocol, res.StatusCode)
		}
		_ = res.Body.Close()
	}
}
