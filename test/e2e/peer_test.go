package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/culvert-tunnel/culvert/test/harness"
)

// startCluster runs three servers on one etcd, with the same ports on addresses of their
// own.
func startCluster(t *testing.T, extra ...string) [3]*node {
	t.Helper()
	etcd := harness.StartEtcd(t, harness.EtcdConfig{}).URLs[0]
	common := append([]string{"--etcd", etcd, "--peer", "127.0.0.1:0"}, extra...)
	nodes := [3]*node{startServer(t, append(common, "--node", "one")...)}
	one := nodes[0]
	for i := 1; i < 3; i++ {
		n := &node{home: t.TempDir(), token: one.token, args: slices.Clone(one.args)}
		n.data = filepath.Join(n.home, "data")
		check(t, os.Mkdir(n.data, 0o700))
		for _, name := range []string{"ca-key.pem", "ca.pem"} { // as docs/operations.md has it
			b, err := os.ReadFile(filepath.Join(one.data, name))
			check(t, err)
			check(t, os.WriteFile(filepath.Join(n.data, name), b, 0o600))
		}
		for k, a := range n.args {
			switch a {
			case "--data":
				n.args[k+1] = n.data
			case "--node":
				n.args[k+1] = fmt.Sprintf("node%d", i+1)
			case "--tcp-host":
				n.args[k+1] = fmt.Sprintf("127.0.0.%d", i+1)
			}
		}
		n.process = start(t, n.home, nil, n.args...)
		n.ready()
		nodes[i] = n
	}
	return nodes
}

// at is where a tcp:// or udp:// URL leads to on one of the cluster's servers.
func at(url string, i int) string {
	_, port, _ := net.SplitHostPort(url[strings.Index(url, "//")+2:])
	return fmt.Sprintf("127.0.0.%d:%s", i+1, port)
}

// TestPeers: who comes in at any server reaches an agent on any other, whatever he speaks,
// and the agent sees him as he is.
func TestPeers(t *testing.T) {
	nodes := startCluster(t)
	one, two := nodes[0], nodes[1]
	ctx := t.Context()

	t.Run("http", func(t *testing.T) {
		up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/ws" {
				echoMessages(w, r)
				return
			}
			_, _ = fmt.Fprintf(w, "%s|%s|%s|%d", r.Host, r.Header.Get("X-Forwarded-For"), r.URL.Path, r.ContentLength)
		}))
		t.Cleanup(up.Close)
		one.publish("http", up.Listener.Addr().String(), "--name", "app")
		_, httpsPort, _ := net.SplitHostPort(two.https)
		url := "https://app.localhost:" + httpsPort
		get := func(c *http.Client, url, body string) string {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
			check(t, err)
			for _, forged := range []string{"X-Forwarded-For", "Culvert-Peer", "X-Culvert-Hop", "Forwarded"} {
				req.Header.Set(forged, "6.6.6.6")
			}
			res, err := c.Do(req)
			check(t, err)
			defer res.Body.Close()
			b, err := io.ReadAll(res.Body)
			check(t, err)
			return fmt.Sprintf("%d %s %s", res.StatusCode, res.Proto, b)
		}
		want := "app.localhost:" + httpsPort + "|127.0.0.1|/x|5"
		for range 3 { // the second goes by a stream that was kept
			if got := get(two.visitor(false), url+"/x", "hello"); got != "200 HTTP/1.1 "+want {
				t.Errorf("http/1.1: %s", got)
			}
			if got := get(two.visitor(true), url+"/x", "hello"); got != "200 HTTP/2.0 "+want {
				t.Errorf("h2: %s", got)
			}
		}
		pool := x509.NewCertPool()
		pem, err := os.ReadFile(filepath.Join(two.data, "ca.pem"))
		check(t, err)
		pool.AppendCertsFromPEM(pem)
		h3 := &http3.Transport{
			TLSClientConfig: &tls.Config{RootCAs: pool},
			Dial: func(ctx context.Context, _ string, cfg *tls.Config, q *quic.Config) (*quic.Conn, error) {
				return quic.DialAddrEarly(ctx, two.https, cfg, q)
			},
		}
		defer h3.Close()
		if got := get(&http.Client{Transport: h3}, url+"/x", "hello"); got != "200 HTTP/3.0 "+want {
			t.Errorf("h3: %s", got)
		}
		if got := two.curlPlain(two.plainURL(url) + "/plain"); !strings.HasSuffix(got, "|127.0.0.1|/plain|0") {
			t.Errorf("plain: %s", got)
		}
		c, _, err := websocket.Dial(ctx, url+"/ws", &websocket.DialOptions{HTTPClient: two.visitor(false)})
		check(t, err)
		check(t, c.Write(ctx, websocket.MessageText, []byte("over there")))
		if _, b, err := c.Read(ctx); err != nil || string(b) != "over there" {
			t.Errorf("WebSocket: %q, %v", b, err)
		}
		check(t, c.Close(websocket.StatusNormalClosure, ""))
	})
	t.Run("an upstream that refuses", func(t *testing.T) {
		one.publish("http", harness.FreeAddress(t), "--name", "refused")
		if out := two.curl("-o", "/dev/null", "-w", "%{http_code} %header{culvert-error}", "http://"+two.http, "-H", "Host: refused.localhost"); out != "502 upstream_refused" {
			t.Error(out)
		}
	})
	t.Run("tcp", func(t *testing.T) {
		agent, url := one.publish("tcp", echo(t))
		eventually(t, "the port is open at the others", func() bool { return pingable(at(url, 1)) && pingable(at(url, 2)) })
		c := dial(t, at(url, 1))
		sent := strings.Repeat("0123456789abcdef", 1<<16)
		go func() {
			_, _ = io.WriteString(c, sent)
			_ = c.CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil || string(got) != sent {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		agent.wait(0, "the visitor's own address", func(l logLine) bool { return l.str("remote") == c.LocalAddr().String() })
	})
	t.Run("udp", func(t *testing.T) {
		pc := serveUDP(t, "127.0.0.1:0", strings.ToUpper)
		agent, url := one.publish("udp", pc.LocalAddr().String())
		c, err := net.Dial("udp", at(url, 2))
		check(t, err)
		defer c.Close()
		if got := ask(t, c, "hop"); got != "HOP" {
			t.Errorf("%q", got)
		}
		agent.signal(os.Interrupt) // or the flow would wait for more
		agent.wait(0, "the visitor's own address", func(l logLine) bool { return l.str("remote") == c.LocalAddr().String() })
	})
	t.Run("tls", func(t *testing.T) {
		ca := newAuthority(t)
		agent, _ := one.publish("tls", serveTLS(t, ca.issue("db.example.com"), "db"), "--url", "tls://db.example.com")
		v := tls.Client(dial(t, nodes[2].https), &tls.Config{ServerName: "db.example.com", RootCAs: ca.pool()})
		if b, err := io.ReadAll(v); err != nil || string(b) != "db db.example.com" {
			t.Errorf("%q, %v", b, err)
		}
		check(t, v.Close())
		agent.wait(0, "the visitor's own address", func(l logLine) bool { return l.str("remote") == v.LocalAddr().String() })
	})
	t.Run("a name that is given up", func(t *testing.T) {
		agent, url := one.publish("tcp", echo(t))
		eventually(t, "open", func() bool { return pingable(at(url, 1)) })
		agent.signal(os.Interrupt)
		if code := agent.exit(); code != 0 && code != 130 {
			t.Errorf("exit code %d", code)
		}
		two.publish("tcp", echo(t), "--url", fmt.Sprintf("tcp://:%s", url[strings.LastIndexByte(url, ':')+1:]))
		eventually(t, "by the other way round", func() bool { return pingable(at(url, 0)) })
	})
}

// TestPeersNodeDies: agents of a server that is killed come in at another, which they know
// by themselves or were told of. Visitors of the rest wait for them instead of being turned
// away, and those of other agents notice nothing.
func TestPeersNodeDies(t *testing.T) {
	nodes := startCluster(t, "--link-advertise", "127.0.0.1")
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }))
	t.Cleanup(up.Close)
	publish := func(n int, name string, extra ...string) *process {
		agent, _ := nodes[n].publish(append([]string{"http", up.Listener.Addr().String(), "--name", name, "--server", nodes[n].https}, extra...)...)
		return agent
	}
	moving := []*process{publish(0, "app0", "--server", nodes[1].https)}
	const agents = 4
	for i := range agents - 1 {
		moving = append(moving, publish(0, fmt.Sprintf("app%d", i+1)))
	}
	staying := publish(1, "stays")
	three := nodes[2]
	_, port, _ := net.SplitHostPort(three.https)
	visit := func(c *http.Client, name string) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+name+".localhost:"+port, nil)
		check(t, err)
		res, err := c.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if b, err := io.ReadAll(res.Body); err != nil || string(b) != "here" {
			return fmt.Errorf("%s %q %w", res.Status, b, err)
		}
		return nil
	}
	visitors := []*http.Client{three.visitor(false), three.visitor(true)}
	for _, c := range visitors {
		eventually(t, "all are known", func() bool {
			for i := range agents {
				if visit(c, fmt.Sprintf("app%d", i)) != nil {
					return false
				}
			}
			return visit(c, "stays") == nil
		})
	}
	killed := time.Now()
	nodes[0].kill()
	var visits sync.WaitGroup
	for i := range 20 {
		visits.Go(func() {
			if err := visit(visitors[i%2], fmt.Sprintf("app%d", i%agents)); err != nil {
				t.Errorf("visitor %d: %v", i, err)
			}
		})
	}
	var slowest time.Duration
	for range 50 {
		began := time.Now()
		if err := visit(visitors[0], "stays"); err != nil {
			t.Errorf("a visitor of the agent that stays: %v", err)
		}
		slowest = max(slowest, time.Since(began))
	}
	visits.Wait()
	back := time.Since(killed)
	t.Logf("all served again after %v; the slowest visitor of the agent that stays took %v", back, slowest)
	if back > 4*time.Second { // a fraction of a second where nothing else runs
		t.Error("the agents waited for a server that refuses connections")
	}
	for _, a := range moving {
		a.wait(0, "the agent at another server", func(l logLine) bool { return l.str("node") == "node2" || l.str("node") == "node3" })
	}
	if n := staying.count(msg("connected")); n != 1 {
		t.Errorf("the agent that stays has connected %d times", n)
	}
}

// TestPeersStrangers: the port for servers is for those with a certificate of the
// cluster's, and there is no other way in.
func TestPeersStrangers(t *testing.T) {
	nodes := startCluster(t)
	l, _ := nodes[0].wait(0, "server ready", msg("server ready"))
	stranger := newAuthority(t).issue("node")
	for what, cfg := range map[string]*tls.Config{
		"none":     {},
		"foreign":  {Certificates: []tls.Certificate{stranger}},
		"protocol": {NextProtos: []string{"culvert/1"}},
	} {
		cfg.InsecureSkipVerify = true //nolint:gosec // whoever it is
		if len(cfg.NextProtos) == 0 {
			cfg.NextProtos = []string{"culvert-peer/1"}
		}
		c := tls.Client(dial(t, l.str("peer")), cfg)
		if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF { //nolint:errorlint // an alert is wanted
			t.Errorf("certificate %s: %v", what, err)
		}
	}
	c := tls.Client(dial(t, nodes[0].https), &tls.Config{ServerName: "localhost", NextProtos: []string{"culvert-peer/1"}, InsecureSkipVerify: true}) //nolint:gosec // as above
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("peers are taken in at the visitors' port")
	}
}

// TestPeersAgentDies: a request that came in at another server than the agent's, and whose
// agent is killed while it waits for the answer, is sent again to the agent's next run, if
// that is safe.
func TestPeersAgentDies(t *testing.T) {
	nodes := startCluster(t, "--resume-window", "1s")
	held := make(chan string, 8)
	var answers atomic.Bool
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		held <- r.Method
		if !answers.Load() {
			<-r.Context().Done()
			return
		}
		_, _ = io.WriteString(w, "here")
	}))
	t.Cleanup(up.Close)
	home := t.TempDir()
	run := func() *process {
		a := nodes[0].agent(home, "http", up.Listener.Addr().String(), "--name", "app", "--server", nodes[0].https)
		a.wait(0, "endpoint online", msg("endpoint online"))
		return a
	}
	agent := run()
	two := nodes[1]
	_, port, _ := net.SplitHostPort(two.https)
	type answer struct {
		method, body string
		status       int
	}
	answered := make(chan answer, 2)
	client := two.visitor(false)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		go func() {
			req, _ := http.NewRequestWithContext(t.Context(), method, "https://app.localhost:"+port, nil)
			res, err := client.Do(req)
			if err != nil {
				answered <- answer{method, err.Error(), 0}
				return
			}
			b, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			answered <- answer{method, string(b), res.StatusCode}
		}()
	}
	for range 2 {
		<-held
	}
	answers.Store(true)
	agent.kill()
	run()
	for range 2 {
		a := <-answered
		if again := a.method == http.MethodGet; again != (a.status == http.StatusOK && a.body == "here") || !again && a.status != http.StatusBadGateway {
			t.Errorf("%s: %d %.200q", a.method, a.status, a.body)
		}
	}
	if len(held) != 1 || <-held != http.MethodGet {
		t.Error("more came to the service than the GET again")
	}
}
