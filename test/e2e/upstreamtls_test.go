package e2e

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// secureUpstream says over TLS what a request came with. protocols are those of its ALPN;
// none: it knows no ALPN.
func secureUpstream(t *testing.T, l net.Listener, protocols ...string) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		_ = c.Write(r.Context(), websocket.MessageText, []byte(r.Proto))
		_ = c.Close(websocket.StatusNormalClosure, "")
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", r.Proto, r.TLS.ServerName)
	})
	s := httptest.NewUnstartedServer(mux)
	if l != nil {
		_ = s.Listener.Close()
		s.Listener = l
	}
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.TLS = &tls.Config{NextProtos: protocols}
	for _, p := range protocols {
		if p == "h2" {
			s.EnableHTTP2 = true
			s.Config.Protocols.SetHTTP2(true)
		}
	}
	if protocols == nil {
		// httptest would offer HTTP/1.1 in their place.
		s.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return &tls.Config{Certificates: s.TLS.Certificates}, nil
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// caFile writes the certificate of an upstream for --upstream-ca.
func caFile(t *testing.T, s *httptest.Server) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	check(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600))
	return path
}

// body reads an answer to its end.
func body(t *testing.T, res *http.Response) string {
	t.Helper()
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	check(t, err)
	return string(b)
}

// TestUpstreamTLS: an upstream behind TLS is spoken to in what its ALPN takes, WebSocket
// in HTTP/1.1 all the same; it is trusted by a CA, under another name, or blindly, each
// only as asked for.
func TestUpstreamTLS(t *testing.T) {
	n := startServer(t)
	for want, protocols := range map[string][]string{"HTTP/2.0": {"h2", "http/1.1"}, "HTTP/1.1": {"http/1.1"}, "HTTP/1.1 ": nil} {
		up := secureUpstream(t, nil, protocols...)
		_, port, _ := net.SplitHostPort(up.Listener.Addr().String())
		_, url := n.publish("http", "https://127.0.0.1:"+port, "--upstream-ca", caFile(t, up), "--upstream-server-name", "example.com")
		for _, h2 := range []bool{false, true} {
			for range 3 {
				res, err := n.visitor(h2).Get(url)
				check(t, err)
				if got := body(t, res); got != strings.TrimSpace(want)+" example.com" {
					t.Errorf("an upstream with ALPN %q, visitor in HTTP/2 %v: %q", protocols, h2, got)
				}
			}
		}
		c, _, err := websocket.Dial(t.Context(), url+"/ws", &websocket.DialOptions{HTTPClient: n.visitor(false)})
		check(t, err)
		_, message, err := c.Read(t.Context())
		check(t, err)
		if string(message) != "HTTP/1.1" {
			t.Errorf("WebSocket to an upstream with ALPN %q came in %s", protocols, message)
		}
		_ = c.CloseNow()
	}

	up := secureUpstream(t, nil, "h2", "http/1.1")
	agent, url := n.publish("http", up.URL, "--upstream-insecure-skip-verify")
	if got := n.curl(url); got != "HTTP/2.0 " {
		t.Errorf("an upstream that is trusted blindly: %q", got)
	}
	agent.wait(0, "a warning", func(l logLine) bool {
		return l.str("level") == "WARN" && strings.Contains(l.str("msg"), "not verified")
	})
	_, url = n.publish("http", up.URL, "--upstream-ca", caFile(t, up), "--upstream-server-name", "other.example")
	if got := n.curl("-i", url); !strings.Contains(got, "upstream_tls") {
		t.Errorf("an upstream under the wrong name: %s", got)
	}
	for _, args := range [][]string{
		{"http://127.0.0.1:1", "--upstream-insecure-skip-verify"},
		{"3000", "--upstream-server-name", "a"},
		{up.URL, "--upstream-insecure-skip-verify", "--upstream-ca", caFile(t, up)},
	} {
		if code := n.agent(t.TempDir(), append([]string{"http"}, args...)...).exit(); code != 2 {
			t.Errorf("%q: exit code %d", args, code)
		}
	}
}

// TestUpstreamChangesProtocol: an upstream that comes back speaking something else is
// spoken to in that: at once where it can't do with less, else after it was seen down.
func TestUpstreamChangesProtocol(t *testing.T) {
	n := startServer(t)
	up := secureUpstream(t, nil, "h2", "http/1.1")
	address := up.Listener.Addr().String()
	_, url := n.publish("http", "https://"+address, "--upstream-ca", caFile(t, up))
	if got := n.curl(url); got != "HTTP/2.0 " {
		t.Errorf("at first: %q", got)
	}
	restart := func(seenDown bool, protocols ...string) {
		t.Helper()
		up.CloseClientConnections()
		up.Close()
		if seenDown {
			eventually(t, "the upstream to be down", func() bool { return strings.Contains(n.curl("-i", url), "upstream_refused") })
		}
		l, err := net.Listen("tcp", address)
		check(t, err)
		up = secureUpstream(t, l, protocols...)
	}
	restart(false, "http/1.1")
	if got := n.curl(url); got != "HTTP/1.1 " {
		t.Errorf("an upstream that speaks HTTP/2 no longer: %q", got)
	}
	restart(true, "h2", "http/1.1")
	if got := n.curl(url); got != "HTTP/2.0 " {
		t.Errorf("an upstream that was down and speaks HTTP/2 now: %q", got)
	}
	restart(false)
	if got := n.curl(url); got != "HTTP/1.1 " {
		t.Errorf("an upstream that knows ALPN no longer: %q", got)
	}
}
