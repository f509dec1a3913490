package link

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

func TestParseProxy(t *testing.T) {
	for s, want := range map[string]string{
		"http://proxy.example.com:3128": "http://proxy.example.com:3128",
		"proxy.example.com:3128":        "http://proxy.example.com:3128",
		"proxy":                         "http://proxy:80",
		"https://proxy/":                "https://proxy:443",
		"socks5://u:p@[::1]":            "socks5://u:p@[::1]:1080",
		"socks5h://proxy":               "socks5h://proxy:1080",
	} {
		u, err := ParseProxy(s)
		if err != nil || strings.TrimSuffix(u.String(), "/") != want {
			t.Errorf("%s: %v, %v", s, u, err)
		}
	}
	for _, s := range []string{"", "ftp://proxy", "http://", "http://u:secret@proxy:port", "http://u:sec%ret@proxy", "http://u:secret@proxy/path", "http://u:secret@proxy?x", "\x00"} {
		u, err := ParseProxy(s)
		if !errors.Is(err, ErrProxyURL) || strings.Contains(err.Error(), "sec") {
			t.Errorf("%q: %v, %v", s, u, err)
		}
	}
}

// TestProxyFaults: what proxies do wrong ends in an error that says what to do, soon and
// without the password.
func TestProxyFaults(t *testing.T) {
	says := func(answer string) func(net.Conn) {
		return func(c net.Conn) {
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = io.WriteString(c, answer)
				_ = c.(*net.TCPConn).CloseWrite()
			}
		}
	}
	for name, tc := range map[string]struct {
		scheme string
		serve  func(net.Conn)
		want   error
	}{
		"password":    {"http", says("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"), ErrProxyAuth},
		"refused":     {"http", says("HTTP/1.1 403 Forbidden\r\nContent-Length: 1000000\r\n\r\n"), ErrProxy},
		"no HTTP":     {"http", says("SSH-2.0-OpenSSH_9.2\r\n"), ErrProxy},
		"nothing":     {"http", says(""), ErrProxy},
		"endless":     {"http", says("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 1<<20)), ErrProxy},
		"silence":     {"http", func(net.Conn) {}, ErrProxy},
		"a tunnel":    {"http", says("HTTP/1.1 200 Connection established\r\n\r\nnot TLS"), ErrNotANode},
		"no TLS":      {"https", func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }, nil},
		"SOCKS4":      {"socks5", func(c net.Conn) { _, _ = c.Write([]byte{0, 90, 0, 0, 0, 0, 0, 0}) }, ErrProxy},
		"SOCKS quiet": {"socks5", func(net.Conn) {}, ErrProxy},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			via := &url.URL{Scheme: tc.scheme, Host: serve(t, tc.serve), User: url.UserPassword("user", "verysecret")}
			for _, transport := range []Transport{TLS, WebSocket} {
				d := Dialer{Timeout: 500 * time.Millisecond, Transport: transport, Proxy: func(string) (*url.URL, error) { return via, nil }}
				c, err := d.Dial(t.Context(), "tunnel.example.com:443")
				if err == nil {
					_ = c.Close()
					t.Fatal("no error")
				}
				if tc.want != nil && !errors.Is(err, tc.want) || strings.Contains(err.Error(), "verysecret") {
					t.Error(err)
				}
			}
		})
	}
}

// TestWebSocketFaults: whatever answers at the place of a node, it is found out.
func TestWebSocketFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		handle http.HandlerFunc
		want   error
	}{
		"no such page": {http.NotFound, ErrNoWebSocket},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://example.com/", http.StatusFound)
		}, ErrNoWebSocket},
		"another protocol": {func(w http.ResponseWriter, r *http.Request) {
			if ws, err := websocket.Accept(w, r, nil); err == nil {
				_, _, _ = ws.Read(r.Context())
			}
		}, ErrNoWebSocket},
		"text": {func(w http.ResponseWriter, r *http.Request) {
			ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{WebSocketProtocol}})
			if err == nil {
				_ = ws.Write(r.Context(), websocket.MessageText, []byte("hello"))
				_, _, _ = ws.Read(r.Context())
			}
		}, nil},
		"no TLS inside": {func(w http.ResponseWriter, r *http.Request) {
			if c, err := AcceptWebSocket(w, r); err == nil {
				defer c.Close()
				_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
				_, _ = c.Read(make([]byte, 1000))
			}
		}, ErrNotANode},
		"silence": {func(w http.ResponseWriter, r *http.Request) {
			if c, err := AcceptWebSocket(w, r); err == nil {
				defer c.Close()
				_, _ = io.Copy(io.Discard, c)
			}
		}, ErrNoAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewTLSServer(tc.handle)
			defer srv.Close()
			d := Dialer{Timeout: time.Second, Transport: WebSocket}
			c, err := d.Dial(t.Context(), srv.Listener.Addr().String())
			if err == nil {
				_ = c.Close()
				t.Fatal("no error")
			}
			if tc.want != nil && !errors.Is(err, tc.want) {
				t.Error(err)
			}
		})
	}
}

// TestWebSocketTrust: the TLS outside may be anybody's, that inside must be the node's.
func TestWebSocketTrust(t *testing.T) {
	own, other := newAuthority(t), newAuthority(t)
	var unset time.Time
	for name, tc := range map[string]struct {
		inside    *authority
		untrusted bool
	}{"the node": {own, false}, "an interceptor": {other, true}} {
		srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if c, err := AcceptWebSocket(w, r); err == nil {
				overTLS(tc.inside.leaf(NodeName, unset, unset), tunnel.ALPN)(c)
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}
		}))
		d := Dialer{Fingerprint: tunnel.Fingerprint(own.cert), Transport: WebSocket}
		c, err := d.Dial(t.Context(), srv.Listener.Addr().String())
		if (err != nil) != tc.untrusted || Untrusted(err) != tc.untrusted {
			t.Errorf("%s: %v", name, err)
		}
		if c != nil {
			_ = c.Close()
		}
		srv.Close()
	}
}
