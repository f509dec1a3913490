package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// TestUpstreams: the ways in which an upstream may be spoken to, by visitors of both
// versions.
func TestUpstreams(t *testing.T) {
	left := make(chan struct{}, 10)
	mux := http.NewServeMux()
	mux.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Grpc-Status")
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s %d %s", r.Proto, r.Host, n, r.Trailer.Get("X-Sent"))
		w.Header().Set("Grpc-Status", "0")
	})
	mux.HandleFunc("/wait", func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		left <- struct{}{}
	})
	plain := httptest.NewUnstartedServer(mux)
	plain.Config.Protocols = new(http.Protocols)
	plain.Config.Protocols.SetHTTP1(true)
	plain.Config.Protocols.SetUnencryptedHTTP2(true)
	plain.Start()
	t.Cleanup(plain.Close)
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	check(t, err)
	unix := &http.Server{Handler: mux}
	go func() { _ = unix.Serve(l) }()
	t.Cleanup(func() { _ = unix.Close() })
	untrusted := httptest.NewTLSServer(mux)
	t.Cleanup(untrusted.Close)

	n := startServer(t)
	for upstream, proto := range map[string]string{
		"h2c://" + plain.Listener.Addr().String():  "HTTP/2.0",
		"http://" + plain.Listener.Addr().String(): "HTTP/1.1",
		"unix:" + socket: "HTTP/1.1",
	} {
		scheme, _, _ := strings.Cut(upstream, ":")
		_, url := n.publish("http", upstream, "--name", scheme)
		host := strings.TrimPrefix(url, "https://")
		for _, h2 := range []bool{false, true} {
			client := n.visitor(h2)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/sum", io.MultiReader(io.LimitReader(&blob{}, 5<<20)))
			check(t, err)
			req.Trailer = http.Header{"X-Sent": {"words"}}
			res, err := client.Do(req)
			check(t, err)
			b, err := io.ReadAll(res.Body)
			check(t, err)
			_ = res.Body.Close()
			if want := fmt.Sprintf("%s %s %d words", proto, host, 5<<20); string(b) != want || res.Trailer.Get("Grpc-Status") != "0" {
				t.Errorf("%s, HTTP/2 %v: %q, trailers %v", upstream, h2, b, res.Trailer)
			}
			res, err = client.Get(url + "/wait")
			check(t, err)
			_ = res.Body.Close()
			waitFor(t, left, "the upstream to see the visitor leave")
		}
	}

	agent, url := n.publish("http", untrusted.URL, "--name", "untrusted")
	if got := n.curl("-i", url+"/sum"); !strings.Contains(got, "502") || !strings.Contains(got, "upstream_tls") {
		t.Errorf("an upstream whose certificate nobody vouches for: %s", got)
	}
	agent.wait(0, "the agent to say so", func(l logLine) bool { return strings.HasPrefix(l.str("msg"), "upstream is down") })
	_, url = n.publish("http", "unix:"+filepath.Join(t.TempDir(), "none"), "--name", "nosocket")
	if got := n.curl("-i", url); !strings.Contains(got, "upstream_refused") {
		t.Errorf("a socket that is not there: %s", got)
	}
}

// TestMisdirected: a connection that was opened to one name does not reach another,
// also when one certificate would do for both and HTTP/2 clients would like to share it.
func TestMisdirected(t *testing.T) {
	up := newUpstream(t)
	n := startServer(t)
	_, _ = n.publish("http", up.port(), "--name", "one")
	_, _ = n.publish("http", up.port(), "--name", "two")
	c := tls.Client(dial(t, n.https), &tls.Config{ServerName: "one.localhost", InsecureSkipVerify: true})
	for host, want := range map[string]string{"one.localhost": "200", "two.localhost": "421", "ONE.localhost.:1": "200"} {
		fmt.Fprintf(c, "HEAD /hello HTTP/1.1\r\nHost: %s\r\n\r\n", host)
		b := make([]byte, 4096)
		k, err := c.Read(b)
		check(t, err)
		if !strings.HasPrefix(string(b[:k]), "HTTP/1.1 "+want) {
			t.Errorf("%s: %s", host, b[:k])
		}
	}
}
