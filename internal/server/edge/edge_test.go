package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/certs"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
	"github.com/culvert-tunnel/culvert/test/harness"
)

// patience bounds every wait for something that must happen.
const patience = 20 * time.Second

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// lingering is what net/http does for half a second with a connection it refused.
var lingering = goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait")

// running is an edge on loopback.
type running struct {
	edge          *Edge
	registry      *registry.Registry
	plain, secure string // addresses; HTTP/3 is on the port of secure
}

var withEdge sync.Map // tests that have an edge

func run(t *testing.T, cfg Config) *running {
	t.Helper()
	// Of several edges in a test the first is closed last: what the others begin is no leak
	// before that.
	if _, further := withEdge.LoadOrStore(t, true); !further {
		before := goleak.IgnoreCurrent()
		t.Cleanup(func() { goleak.VerifyNone(t, before, lingering) })
	}
	r := &running{registry: registry.New(registry.Config{Domain: "localhost"})}
	var err error
	cfg.Registry, cfg.Logger = r.registry, slog.New(slog.DiscardHandler)
	cfg.HTTPSPort = func() int { return 443 }
	cfg.Certs, err = certs.New(certs.Config{Dir: t.TempDir(), Domain: "localhost", Bound: func(string) bool { return false }})
	check(t, err)
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		return l
	}
	plain, secure := listen(), listen()
	quic, err := net.ListenPacket("udp", secure.Addr().String())
	for ; errors.Is(err, syscall.EADDRINUSE); quic, err = net.ListenPacket("udp", secure.Addr().String()) {
		_ = secure.Close()
		secure = listen()
	}
	check(t, err)
	r.plain, r.secure = plain.Addr().String(), secure.Addr().String()
	r.edge = New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- r.edge.Serve(ctx, Sockets{Plain: plain, Secure: secure, QUIC: []QUIC{{PacketConn: quic, Visitors: true, Links: true}}})
	}()
	t.Cleanup(func() {
		cancel()
		_, _ = plain.Close(), secure.Close()
		check(t, r.registry.Close())
		_ = r.edge.Close()
		check(t, <-ended)
		if n := r.edge.Streams() + r.edge.Visits(); n != 0 {
			t.Errorf("%d streams and visits are left", n)
		}
	})
	return r
}

// bind publishes host, whose streams are connections to address.
func (r *running) bind(t *testing.T, host, address string) {
	t.Helper()
	_, err := r.registry.Bind(t.Context(), registry.Request{
		Spec: endpoint.Spec{Kind: endpoint.HTTP, Host: host}, Owner: registry.Owner{AgentID: "a", SessionID: "s"},
		Open: dialling(address),
	})
	check(t, err)
}

// dialling opens connections to address in place of streams.
func dialling(address string) registry.OpenFunc {
	return func(ctx context.Context, _ string, _ endpoint.Visitor, first []byte) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			_, err = c.Write(first)
		}
		return c, err
	}
}

func dial(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	check(t, err)
	t.Cleanup(func() { _ = c.Close() })
	check(t, c.SetDeadline(time.Now().Add(patience)))
	return c.(*net.TCPConn)
}

// TestSlowVisitors: who does not come to the point is let go, however he delays.
func TestSlowVisitors(t *testing.T) {
	r := run(t, Config{HelloTimeout: 300 * time.Millisecond, HeaderTimeout: 300 * time.Millisecond, IdleTimeout: 300 * time.Millisecond})
	r.bind(t, "app.localhost", "127.0.0.1:1")
	handshaken := func() net.Conn {
		c := tls.Client(dial(t, r.secure), &tls.Config{ServerName: "app.localhost", InsecureSkipVerify: true})
		check(t, c.Handshake())
		return c
	}
	for what, visit := range map[string]func() net.Conn{
		"no hello":        func() net.Conn { return dial(t, r.secure) },
		"half a hello":    func() net.Conn { c := dial(t, r.secure); _, _ = c.Write([]byte{22, 3, 1, 1, 0, 1}); return c },
		"a hello and off": func() net.Conn { return helloOnly(t, r.secure) },
		"no head":         func() net.Conn { return dial(t, r.plain) },
		"half a head":     func() net.Conn { c := dial(t, r.plain); _, _ = c.Write([]byte("GET / HTTP/1.1\r\nHost: a")); return c },
		"no head on TLS":  func() net.Conn { return handshaken() },
		"a request and no other": func() net.Conn {
			c := dial(t, r.plain)
			_, _ = c.Write([]byte("GET / HTTP/1.1\r\nHost: nobody.localhost\r\n\r\n"))
			return c
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			if _, err := io.Copy(io.Discard, visit()); errors.Is(err, syscall.ETIMEDOUT) || isTimeout(err) {
				t.Errorf("was not let go: %v", err)
			}
		})
	}
	t.Run("dripping a head", func(t *testing.T) {
		t.Parallel()
		c := dial(t, r.plain)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for range int(patience / (50 * time.Millisecond)) {
			if _, err := c.Write([]byte("G")); err != nil {
				return
			}
			<-tick.C
		}
		t.Error("was not let go")
	})
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// helloOnly sends a ClientHello and then nothing.
func helloOnly(t *testing.T, address string) net.Conn {
	t.Helper()
	c := dial(t, address)
	client := tls.Client(onceWriter{c, &sync.Once{}}, &tls.Config{ServerName: "app.localhost", InsecureSkipVerify: true})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = client.HandshakeContext(ctx)
	go func() { _ = client.Handshake() }()
	return c
}

// onceWriter lets one Write through and reads nothing.
type onceWriter struct {
	net.Conn
	once *sync.Once
}

func (w onceWriter) Write(p []byte) (n int, err error) {
	n = len(p)
	w.once.Do(func() { n, err = w.Conn.Write(p) })
	return n, err
}

func (onceWriter) Read([]byte) (int, error) { return 0, io.EOF }
func (onceWriter) Close() error             { return nil }

// TestTooManyPending: over the limit the newest is refused, and there is room again
// when one leaves.
func TestTooManyPending(t *testing.T) {
	r := run(t, Config{MaxPending: 2})
	first, second := dial(t, r.secure), dial(t, r.secure)
	for _, c := range []net.Conn{first, second} {
		_, err := c.Write([]byte{22})
		check(t, err)
	}
	full := func() bool {
		c, err := net.Dial("tcp", r.secure)
		if err == nil {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			_, err = c.Read(make([]byte, 1))
		}
		return errors.Is(err, syscall.ECONNRESET) // which may come before Dial is back
	}
	eventually(t, "the limit", func() bool { return len(r.edge.pending) == 2 })
	if !full() {
		t.Error("a third was let in")
	}
	check(t, first.Close())
	eventually(t, "room", func() bool { return len(r.edge.pending) == 1 })
	third := dial(t, r.secure)
	_, err := third.Write([]byte("x")) // no TLS: closed, not reset for want of room
	check(t, err)
	if _, err := io.ReadAll(third); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	harness.Eventually(t, what, ok)
}

func TestHugeHead(t *testing.T) {
	r := run(t, Config{})
	c := dial(t, r.plain)
	go func() {
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.localhost\r\nX: "+strings.Repeat("a", 2*maxHeaderBytes)+"\r\n\r\n")
	}()
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 431 ") {
		t.Errorf("got %q, %v", line, err)
	}
}

// TestErrorTable: every code that a stream or the edge may end with has an answer.
func TestErrorTable(t *testing.T) {
	for code, want := range map[tunnel.Code]int{
		tunnel.CodeBadRequest: 400, tunnel.CodePolicyDenied: 403, tunnel.CodeCertificateRequired: 403, tunnel.CodeEndpointNotFound: 404, tunnel.CodeMethodRefused: 405,
		tunnel.CodeRequestTimeout: 408, tunnel.CodeHeadTooLarge: 431, tunnel.CodeCodingRefused: 501, tunnel.CodeVersionRefused: 505, tunnel.CodeUpstreamProtocol: 502,
		tunnel.CodeMisdirected: 421, tunnel.CodeRateLimited: 429, tunnel.CodeUpstreamRefused: 502, tunnel.CodeUpstreamUnreachable: 502,
		tunnel.CodeUpstreamTLS: 502, tunnel.CodeUpstreamClosed: 502, tunnel.CodeEndpointOffline: 503, tunnel.CodeUpstreamTimeout: 504,
	} {
		if e := visitorErrors[code]; e.status != want || e.title == "" || e.advice == "" {
			t.Errorf("%s: %+v", code, e)
		}
	}
	if got := codeOf(&tunnel.StreamError{Code: "from_the_future"}); visitorErrors[got].status != 502 {
		t.Errorf("an unknown code of an agent becomes %s", got)
	}
}

func TestPreferred(t *testing.T) {
	for accept, want := range map[string]string{
		"":    "",
		"*/*": "",
		"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": "text/html",
		"application/json":                     "application/json",
		"application/json, text/html;q=0.5":    "application/json",
		"text/html;q=0.5, application/json":    "application/json",
		"text/html;q=0":                        "",
		"text/html;q=x, application/json;q=.1": "application/json",
		"TEXT/HTML":                            "text/html",
		";;;, text/plain":                      "text/plain",
	} {
		if got := preferred([]string{accept}); got != want {
			t.Errorf("%q: %q, want %q", accept, got, want)
		}
	}
}

func TestForwarded(t *testing.T) {
	in := &http.Request{Host: "app.localhost:8443", TLS: &tls.ConnectionState{}}
	h := http.Header{
		"X-Forwarded-For": {"6.6.6.6"}, "X_forwarded_for": {"6.6.6.6"}, "X.real.ip": {"6.6.6.6"}, "FORWARDED": {"for=6.6.6.6"},
		"X-Forwarded-Port": {"1"}, "X_Forwarded_Prefix": {"/x"}, "x-forwarded": {"6.6.6.6"}, "X-Forwardedness": {"1"}, "X-Forward": {"1"},
		"Client-Cert": {"x"}, "X_Client_Cert_Subject": {"x"},
	}
	setForwarded(h, in, endpoint.Visitor{ID: "id", Remote: netip.MustParseAddrPort("[2001:db8::1]:5")})
	want := http.Header{
		"X-Forwarded-For": {"2001:db8::1"}, "X-Real-Ip": {"2001:db8::1"}, "X-Forwarded-Host": {"app.localhost:8443"}, "X-Forwarded-Proto": {"https"},
		"Forwarded": {`for="[2001:db8::1]";host="app.localhost:8443";proto=https`}, "X-Forwardedness": {"1"}, "X-Forward": {"1"}, "X-Request-Id": {"id"},
	}
	if len(h) != len(want) {
		t.Errorf("got %v", h)
	}
	for k := range want {
		if h.Get(k) != want.Get(k) || len(h[k]) != 1 {
			t.Errorf("%s: %q", k, h[k])
		}
	}
}
