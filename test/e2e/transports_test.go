package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/test/harness"
)

// through runs an agent for a tcp endpoint that echoes, with a server address and variables
// of its own.
func (n *node) through(address string, env ...string) (*process, string) {
	n.t.Helper()
	echo := serveTCP(n.t, func(c *net.TCPConn) {
		_, _ = io.Copy(c, c)
		_ = c.CloseWrite()
	})
	p := start(n.t, n.t.TempDir(), append([]string{"CULVERT_TOKEN=" + n.token, "CULVERT_SERVER=" + address, "CULVERT_API=off", "CULVERT_LOG_LEVEL=debug"}, env...), "tcp", echo)
	l, _ := p.wait(0, "endpoint online", msg("endpoint online"))
	return p, tcpAddress(l.str("url"))
}

// comesBack sends so many bytes and wants them back.
func comesBack(t *testing.T, c *net.TCPConn, size int64) {
	t.Helper()
	sent, got := sha256.New(), sha256.New()
	errs := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.MultiWriter(c, sent), rand.Reader, size)
		errs <- err
	}()
	_, err := io.CopyN(got, c, size)
	check(t, err)
	check(t, <-errs)
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Error("other bytes came back")
	}
}

func (p *process) leave() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		p.t.Errorf("exit code %d", code)
	}
}

// TestProxies: agents get out through an HTTP proxy and a SOCKS5 proxy that want a password,
// which nobody else gets to see.
func TestProxies(t *testing.T) {
	n := startServer(t)
	const password = "pass word:9"
	dir := t.TempDir()
	tiny, socks := harness.FreePort(t), harness.FreePort(t)
	log := filepath.Join(dir, "tinyproxy.log")
	conf := filepath.Join(dir, "tinyproxy.conf")
	// Its passwords have no blanks.
	check(t, os.WriteFile(conf, fmt.Appendf(nil, "Port %s\nListen 127.0.0.1\nTimeout 600\nAllow 127.0.0.1\nBasicAuth user pass.word9\nLogFile \"%s\"\nLogLevel Connect\n", tiny, log), 0o600))
	daemon(t, tiny, "tinyproxy", "-d", "-c", conf)
	daemon(t, socks, "microsocks", "-i", "127.0.0.1", "-p", socks, "-u", "user", "-P", password)

	for name, via := range map[string]*url.URL{
		"http":   {Scheme: "http", User: url.UserPassword("user", "pass.word9"), Host: "127.0.0.1:" + tiny},
		"socks5": {Scheme: "socks5", User: url.UserPassword("user", password), Host: "127.0.0.1:" + socks},
	} {
		t.Run(name, func(t *testing.T) {
			secret, _ := via.User.Password()
			for _, transport := range []string{"tls", "websocket"} {
				agent, address := n.through("localhost:"+port(n.https), "CULVERT_PROXY="+via.String(), "CULVERT_TRANSPORT="+transport)
				c := dial(t, address)
				comesBack(t, c, 8<<20)
				_ = c.Close()
				agent.leave()
				if strings.Contains(agent.errors(), secret) || strings.Contains(agent.errors(), url.QueryEscape(secret)) {
					t.Error("the password is in the log")
				}
			}
			doctor := exec.CommandContext(t.Context(), binary, "doctor", "--server", "localhost:"+port(n.https))
			doctor.Env = []string{"HOME=" + t.TempDir(), "CULVERT_TOKEN=" + n.token, "CULVERT_PROXY=" + via.String()}
			out, err := doctor.CombinedOutput()
			if err != nil || !strings.Contains(string(out), via.Host+" connects to localhost:") || !strings.Contains(string(out), "links get through by WebSocket") || strings.Contains(string(out), secret) {
				t.Errorf("culvert doctor: %v\n%s", err, out)
			}
			// A wrong password is the user's to correct, and is not shown either.
			wrong := *via
			wrong.User = url.UserPassword("user", "verysecret")
			agent := start(t, t.TempDir(), []string{"CULVERT_TOKEN=" + n.token, "CULVERT_SERVER=localhost:" + port(n.https), "CULVERT_API=off", "CULVERT_PROXY=" + wrong.String()}, "http", "3000")
			l, _ := agent.wait(0, "server not reachable", msg("server not reachable"))
			if !strings.Contains(l.str("error"), "proxy") {
				t.Errorf("says %q", l.str("error"))
			}
			agent.leave()
			if strings.Contains(agent.errors(), "verysecret") {
				t.Error("the password is in the log")
			}
		})
	}
	b, err := os.ReadFile(log)
	check(t, err)
	if !strings.Contains(string(b), "CONNECT localhost:"+port(n.https)) {
		t.Errorf("tinyproxy was not used:\n%s", b)
	}
	n.idle()
}

func port(address string) string { return address[strings.LastIndex(address, ":")+1:] }

// idle waits until the server holds nothing of agents any more.
func (n *node) idle() {
	n.t.Helper()
	eventually(n.t, "no agent to be left", func() bool {
		return !strings.Contains(n.cli("status", "--data", n.data, "--output", "json"), `"agent"`)
	})
}

// TestIngress: where only an ingress that ends TLS and speaks HTTP/1.1 leads to the server,
// agents come by WebSocket, without being told. The ingress reads nothing, its idle
// time-out does no harm, and its restart is resumed over.
func TestIngress(t *testing.T) {
	n := startServer(t)
	ca := newAuthority(t)
	ingresses := map[string]func(t *testing.T, front, cert, key string) func(){"nginx": n.nginxFront, "haproxy": n.haproxyFront}
	t.Run("all", func(t *testing.T) {
		for name, run := range ingresses {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				n.ingress(t, ca, run)
			})
		}
	})
	n.idle()
}

func (n *node) ingress(t *testing.T, ca *authority, run func(t *testing.T, front, cert, key string) func()) {
	t.Helper()
	front := harness.FreePort(t)
	cert, key := ca.files(t.TempDir(), ca.issue("ingress.example.com"))
	end := run(t, front, cert, key)
	agent, address := n.through("127.0.0.1:" + front)
	l, _ := agent.wait(0, "connected", msg("connected"))
	if l.str("transport") != "websocket" {
		t.Errorf("connected by %q", l.str("transport"))
	}
	c := dial(t, address)
	comesBack(t, c, 16<<20)
	<-time.After(2 * ingressIdle) // silence is what is tested
	if agent.count(msg("link interrupted")) > 0 {
		t.Error("the ingress' idle time-out ended the connection")
	}
	end()
	agent.wait(0, "link interrupted", msg("link interrupted"))
	run(t, front, cert, key)
	agent.wait(0, "link resumed", msg("link resumed"))
	comesBack(t, c, 1<<20)
	_ = c.Close()
	agent.leave()
}

// ingressIdle is the silence that ingresses of these tests allow.
const ingressIdle = 7 * time.Second

func (n *node) nginxFront(t *testing.T, front, cert, key string) func() {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	check(t, os.WriteFile(conf, fmt.Appendf(nil, `
daemon off; master_process off; pid %[1]s/pid; error_log stderr;
events {}
http {
  access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  server {
    listen 127.0.0.1:%[2]s ssl; ssl_certificate %[3]s; ssl_certificate_key %[4]s;
    location / {
      proxy_pass http://%[5]s; proxy_http_version 1.1; proxy_read_timeout %[6]ds; proxy_send_timeout %[6]ds;
      proxy_set_header Host $host; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";
    }
  }
}`, dir, front, cert, key, n.http, int(ingressIdle.Seconds())), 0o600))
	return daemon(t, front, "nginx", "-p", dir, "-e", "stderr", "-c", conf)
}

func (n *node) haproxyFront(t *testing.T, front, cert, key string) func() {
	t.Helper()
	pem := filepath.Join(t.TempDir(), "both.pem")
	b, err := os.ReadFile(cert)
	check(t, err)
	k, err := os.ReadFile(key)
	check(t, err)
	check(t, os.WriteFile(pem, append(b, k...), 0o600))
	return haproxy(t, front, fmt.Sprintf(`
listen ingress
  mode http
  timeout tunnel %ds
  bind 127.0.0.1:%s ssl crt %s alpn http/1.1
  server node %s
`, int(ingressIdle.Seconds()), front, pem, n.http))
}

// TestLinkPath: only who asks for a link gets one; an endpoint keeps its paths.
func TestLinkPath(t *testing.T) {
	n := startServer(t)
	_, at := n.publish("http", newUpstream(t).port(), "--name", "app", "--no-redirect")
	place := n.plainURL(at) + "/.culvert/link"
	to := []string{"-i", "--resolve", "app.localhost:" + port(n.http) + ":127.0.0.1", place}
	upgrade := []string{"-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Version: 13"}
	key := []string{"-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}
	ours := []string{"-H", "Sec-WebSocket-Protocol: chat, culvert.1"}
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"a page":            {nil, "404 page not found"},
		"another WebSocket": {append(upgrade, key...), "404 page not found"},
		"no upgrade":        {ours, "404 page not found"},
		"no key":            {append(upgrade, ours...), "HTTP/1.1 400"},
		"from a web page":   {slices.Concat(upgrade, key, ours, []string{"-H", "Origin: https://evil.example.com"}), "HTTP/1.1 403"},
	} {
		if out := n.curl(slices.Concat(tc.args, to)...); !strings.Contains(out, tc.want) {
			t.Errorf("%s:\n%s", name, out)
		}
	}
}
