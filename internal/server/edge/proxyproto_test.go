package edge

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/edge/clienthello"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
)

// seen runs an edge with a tls endpoint and returns a function that says what comes of
// a connection to the TLS port that begins with head: whom the agent sees, and what the
// visitor gets.
func seen(t *testing.T, proxies Proxies) func(head []byte, hello string) (endpoint.Visitor, string, error) {
	t.Helper()
	r := run(t, Config{Proxies: proxies, HelloTimeout: 300 * time.Millisecond})
	visitors := make(chan endpoint.Visitor, 1)
	_, err := r.registry.Bind(t.Context(), registry.Request{
		Spec: endpoint.Spec{Kind: endpoint.TLS, Host: "db.localhost"}, Owner: registry.Owner{AgentID: "a", Generation: 1, SessionID: "s"},
		Open: func(_ context.Context, _ string, v endpoint.Visitor, first []byte) (net.Conn, error) {
			near, far := net.Pipe()
			go func() {
				_, _ = far.Write(first)
				_ = far.Close()
			}()
			visitors <- v
			return near, nil
		},
	})
	check(t, err)
	return func(head []byte, hello string) (endpoint.Visitor, string, error) {
		t.Helper()
		c, err := net.Dial("tcp", r.secure)
		if err != nil {
			return endpoint.Visitor{}, "", err // a reset may be there before connect has returned
		}
		defer c.Close()
		check(t, c.SetDeadline(time.Now().Add(patience)))
		_, werr := c.Write(append(head, hello...))
		got, err := io.ReadAll(c)
		if werr != nil {
			err = werr // a reset is told once
		}
		select {
		case v := <-visitors:
			return v, string(got), err
		default:
			return endpoint.Visitor{}, string(got), err
		}
	}
}

func TestProxyHeaders(t *testing.T) {
	trusted := Proxies{Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	hello := string(clientHello(t, "db.localhost"))
	from, to := netip.MustParseAddrPort("192.0.2.9:4711"), netip.MustParseAddrPort("198.51.100.1:443")
	v2 := func(h *proxyproto.Header) []byte {
		b, err := h.Format()
		check(t, err)
		return b
	}
	full := proxyproto.HeaderProxyFromAddrs(2, net.TCPAddrFromAddrPort(from), net.TCPAddrFromAddrPort(to))
	check(t, full.SetTLVs([]proxyproto.TLV{{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte("other")}}))
	visit := seen(t, trusted)
	for name, head := range map[string][]byte{
		"v1": []byte("PROXY TCP4 192.0.2.9 198.51.100.1 4711 443\r\n"), "v2": v2(full),
	} {
		v, got, err := visit(head, hello)
		if err != nil || v.Remote != from || v.Local != to || v.ServerName != "db.localhost" || got != hello {
			t.Errorf("%s: %+v, %d bytes back, %v", name, v, len(got), err)
		}
	}
	for name, head := range map[string][]byte{
		"v1 unknown": []byte("PROXY UNKNOWN\r\n"),
		"v2 local":   append([]byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x04"), "skip"...),
	} {
		v, got, err := visit(head, hello)
		if err != nil || v.Remote.Addr() != netip.MustParseAddr("127.0.0.1") || got != hello {
			t.Errorf("%s: %+v, %d bytes back, %v", name, v, len(got), err)
		}
	}
	huge := append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff"), make([]byte, 1<<16)...)
	for name, head := range map[string][]byte{
		"no header": nil, "v1 garbage": []byte("PROXY TCP4 a b c d\r\n"), "v1 endless": bytes.Repeat([]byte("PROXY "), 100),
		"v2 too long": huge, "v2 version 3": []byte("\r\n\r\n\x00\r\nQUIT\n\x31\x11\x00\x00"), "half of one": []byte("\r\n\r\n\x00\r\nQU"),
	} {
		tail := hello
		if name == "half of one" {
			tail = "" // and silence
		}
		if v, _, err := visit(head, tail); !errors.Is(err, syscall.ECONNRESET) || v.ID != "" {
			t.Errorf("%s: served %+v, then %v", name, v, err)
		}
	}
}

// TestProxyHeaderFromOthers: it is never believed.
func TestProxyHeaderFromOthers(t *testing.T) {
	elsewhere := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	hello := string(clientHello(t, "db.localhost"))
	for _, p := range []Proxies{{}, {Trusted: elsewhere}} {
		visit := seen(t, p)
		if v, got, err := visit(nil, hello); err != nil || v.Remote.Addr().String() != "127.0.0.1" || got != hello {
			t.Errorf("%+v: %+v, %d bytes back, %v", p, v, len(got), err)
		}
		v, got, _ := visit([]byte("PROXY TCP4 192.0.2.9 198.51.100.1 4711 443\r\n"), hello)
		if v.ID != "" || !strings.HasPrefix(got, "HTTP/1.1 400 ") {
			t.Errorf("%+v: a stranger's header: served %+v, got %.40q", p, v, got)
		}
	}
	visit := seen(t, Proxies{Trusted: elsewhere, RefuseOthers: true})
	if v, _, err := visit(nil, hello); !errors.Is(err, syscall.ECONNRESET) || v.ID != "" {
		t.Errorf("not by way of the proxy: served %+v, then %v", v, err)
	}
}

// clientHello is one of crypto/tls, with what post-quantum shares and ALPN add to it.
func clientHello(t *testing.T, serverName string) []byte {
	t.Helper()
	near, far := net.Pipe()
	go func() {
		_ = tls.Client(near, &tls.Config{ServerName: serverName, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13}).Handshake()
		_ = near.Close()
	}()
	hello, err := clienthello.Read(far)
	check(t, err)
	_ = far.Close()
	return hello.Raw
}
