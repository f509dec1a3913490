package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func online(l logLine) bool { return l.str("msg") == "endpoint online" }

// echo is an upstream that returns what it gets.
func echo(t *testing.T) string {
	t.Helper()
	return serveTCP(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
}

// pingable reports whether an echo answers at address.
func pingable(address string) bool {
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("ping")); err != nil {
		return false
	}
	_, err = io.ReadFull(c, make([]byte, 4))
	return err == nil
}

func TestFirstCommandWorksAsPrinted(t *testing.T) {
	up := newUpstream(t)
	n := startServer(t)
	var line string
	for l := range strings.Lines(n.out()) {
		if strings.Contains(l, "culvert http") {
			line = strings.TrimSpace(l)
		}
		if _, other, ok := strings.Cut(l, "others with: "); ok {
			p := startShell(t, n.home, nil, other)
			if code := p.exit(); code != 0 || !strings.HasPrefix(p.out(), "cvt_") || strings.Count(p.out(), "\n") != 1 {
				t.Errorf("%s: exit code %d", other, code)
			}
		}
	}
	_, port, err := net.SplitHostPort(up.port())
	check(t, err)
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "exec env "+strings.Replace(line, "http 3000", "http "+port, 1)+" --api 127.0.0.1:0")
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + filepath.Dir(binary) + ":" + os.Getenv("PATH"), "CULVERT_LOG_FORMAT=json"}
	stderr, err := cmd.StderrPipe()
	check(t, err)
	check(t, cmd.Start())
	url, api := "", ""
	lines := bufio.NewScanner(stderr)
	for url == "" && lines.Scan() {
		var l logLine
		check(t, json.Unmarshal(lines.Bytes(), &l))
		switch l.str("msg") {
		case "local API ready":
			api = l.str("url") + "api/endpoints"
		case "endpoint online":
			url = l.str("url")
		}
	}
	if got := n.curl(url + "/hello"); !strings.HasPrefix(got, "hello GET") {
		t.Errorf("got %q", got)
	}
	var status struct {
		Endpoints []struct{ Name, URL, State string }
	}
	check(t, json.Unmarshal([]byte(n.curl(api)), &status))
	if len(status.Endpoints) != 1 || status.Endpoints[0].URL != url || status.Endpoints[0].State != "online" {
		t.Errorf("local API: %+v", status)
	}
	if got := n.curl("-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: rebound.example.com", api); got != "403" {
		t.Errorf("the local API answered %s to a foreign host name", got)
	}
	if got := n.curl("-o", "/dev/null", "-w", "%{http_code}", "-X", "POST", api); got != "405" {
		t.Errorf("the local API answered %s to a POST", got)
	}
	check(t, cmd.Process.Signal(syscall.SIGTERM))
	_, _ = io.Copy(io.Discard, stderr)
	check(t, cmd.Wait()) // exit code 0
}

func TestLoginAndStart(t *testing.T) {
	up := newUpstream(t)
	n := startServer(t)
	home := t.TempDir()
	login := exec.CommandContext(t.Context(), binary, "login", "--server", n.https)
	login.Env = []string{"HOME=" + home}
	login.Stdin = strings.NewReader(n.token + "\n")
	out, err := login.CombinedOutput()
	if err != nil || strings.Contains(string(out), strings.Split(n.token, "_")[2]) {
		t.Fatalf("login: %v\n%s", err, out)
	}
	file := filepath.Join(home, "culvert.yml")
	check(t, os.WriteFile(file, fmt.Appendf(nil, `version: 1
endpoints:
  - name: web
    url: https://app.example.com
    upstream: %s
  - name: raw
    kind: tcp
    upstream: ${UP}
  - name: other
    kind: http
    upstream: %s
`, up.port(), up.port()), 0o600))
	p := start(t, home, []string{"UP=" + echo(t), "CULVERT_API=off"}, "start", "web", "raw", "--config", file)
	urls := make(map[string]string)
	for at := 0; len(urls) < 2; {
		var l logLine
		l, at = p.wait(at, "both endpoints", online)
		urls[l.str("name")] = l.str("url")
	}
	if !strings.HasPrefix(urls["web"], "https://app.example.com:") || urls["other"] != "" {
		t.Errorf("bound %v", urls)
	}
	_, port, _ := net.SplitHostPort(n.https)
	if got := n.curl("--resolve", "app.example.com:"+port+":127.0.0.1", urls["web"]+"/hello"); !strings.HasPrefix(got, "hello GET app.example.com") {
		t.Errorf("got %q", got)
	}
	if !pingable(tcpAddress(urls["raw"])) {
		t.Error("the tcp endpoint does not answer")
	}
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestNamesComeBack(t *testing.T) {
	n := startServer(t, "--grace", "10s")
	up := echo(t)
	web := newUpstream(t)
	home, webHome := t.TempDir(), t.TempDir()
	a := n.agent(home, "tcp", up)
	l, _ := a.wait(0, "online", online)
	url := l.str("url")
	w := n.agent(webHome, "http", web.port())
	l, at := w.wait(0, "online", online)
	webURL := l.str("url")

	t.Run("a new process takes over from the ghost, visitors wait", func(t *testing.T) {
		seen := n.count(msg("link lost"))
		a.kill()
		eventually(t, "the server to notice", func() bool { return n.count(msg("link lost")) > seen })
		visited := make(chan bool, 1)
		go func() { visited <- pingable(tcpAddress(url)) }()
		a = n.agent(home, "tcp", up)
		if l, _ := a.wait(0, "online again", online); l.str("url") != url {
			t.Errorf("came back as %s, was %s", l.str("url"), url)
		}
		if !<-visited {
			t.Error("the visitor who came meanwhile was not served")
		}
	})
	t.Run("a killed server comes back", func(t *testing.T) {
		n.kill()
		n.restart()
		l, _ = w.wait(at, "online again", online)
		if l.str("url") != webURL {
			t.Errorf("came back as %s, was %s", l.str("url"), webURL)
		}
		if got := n.curl(webURL + "/hello"); !strings.HasPrefix(got, "hello GET") {
			t.Errorf("got %q", got)
		}
		eventually(t, "the tcp endpoint on its port", func() bool { return pingable(tcpAddress(url)) })
	})
	t.Run("another agent is told of the conflict", func(t *testing.T) {
		p := n.agent(t.TempDir(), "tcp", up, "--url", "tcp://:"+url[strings.LastIndex(url, ":")+1:])
		if code := p.exit(); code != 4 || !strings.Contains(p.errors(), "port_taken") {
			t.Errorf("exit code %d\n%s", code, p.errors())
		}
	})
	t.Run("a port outside the range", func(t *testing.T) {
		p := n.agent(t.TempDir(), "tcp", up, "--url", "tcp://:1")
		if code := p.exit(); code != 4 || !strings.Contains(p.errors(), "port_outside_range") {
			t.Errorf("exit code %d\n%s", code, p.errors())
		}
	})
	t.Run("a newer run wins, the older one stops", func(t *testing.T) {
		newer := n.agent(home, "tcp", up)
		if l, _ := newer.wait(0, "online", online); l.str("url") != url {
			t.Errorf("took over %s instead of %s", l.str("url"), url)
		}
		if code := a.exit(); code != 4 || !strings.Contains(a.errors(), "superseded") {
			t.Errorf("exit code %d\n%s", code, a.errors())
		}
		if !pingable(tcpAddress(url)) {
			t.Error("the newer run does not serve")
		}
	})
}

func TestKilledInTheMiddle(t *testing.T) {
	n := startServer(t)
	up := serveTCP(t, func(c *net.TCPConn) { _, _ = io.Copy(c, &blob{}) })
	for _, who := range []string{"agent", "server"} {
		a, url := n.publish("tcp", up)
		c := dial(t, tcpAddress(url))
		_, err := io.CopyN(io.Discard, c, 10<<20)
		check(t, err)
		if who == "agent" {
			a.kill()
		} else {
			n.kill()
		}
		// A killed server's sockets are ended by its kernel, in order; a dead agent's
		// visitor must see that the transfer is not whole.
		if _, err := io.Copy(io.Discard, c); err == nil && who == "agent" {
			t.Error("after the agent's death the transfer looked whole")
		}
	}
}

func TestTokens(t *testing.T) {
	n := startServer(t)
	admin := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), binary, append(args, "--data", n.data)...)
		cmd.Env = []string{"HOME=" + n.home}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("culvert %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	up := echo(t)
	token := strings.TrimSpace(admin("token", "create", "--label", "limited", "--allow", "https://*.alice.localhost"))
	id := strings.Split(token, "_")[1]
	if list := admin("token", "list"); !strings.Contains(list, id) || strings.Contains(list, strings.Split(token, "_")[2]) {
		t.Errorf("list:\n%s", list)
	}
	env := func(token string) []string {
		return []string{"CULVERT_TOKEN=" + token, "CULVERT_SERVER=" + n.https, "CULVERT_API=off", "CULVERT_LOG_LEVEL=debug"}
	}
	if p := start(t, t.TempDir(), env(token), "tcp", up); p.exit() != 4 || !strings.Contains(p.errors(), "not_allowed") {
		t.Errorf("a token without the right to ports bound one: %s", p.errors())
	}
	p := start(t, t.TempDir(), env(token), "http", up, "--url", "https://shop.alice.localhost")
	p.wait(0, "online", online)
	began := time.Now()
	admin("token", "revoke", id)
	if code := p.exit(); code != 3 || !strings.Contains(p.errors(), "token_invalid") {
		t.Errorf("exit code %d after the token was revoked\n%s", code, p.errors())
	}
	t.Logf("ended %v after the revocation", time.Since(began))

	wrong := strings.Split(n.token, "_")
	wrong[2] = strings.Repeat("a", 32)
	bad := start(t, t.TempDir(), env(strings.Join(wrong, "_")), "tcp", up)
	if code := bad.exit(); code != 3 {
		t.Errorf("exit code %d for a wrong secret", code)
	}
	wrong = strings.Split(n.token, "_")
	wrong[3] = strings.Repeat("a", 51) + "q"
	bad = start(t, t.TempDir(), env(strings.Join(wrong, "_")), "tcp", up)
	if code := bad.exit(); code != 3 || !strings.Contains(bad.errors(), "not signed by the CA in the token") {
		t.Errorf("exit code %d for another CA\n%s", code, bad.errors())
	}
	for _, secret := range []string{strings.Split(token, "_")[2], strings.Split(n.token, "_")[2]} {
		if strings.Contains(n.errors()+p.errors()+bad.errors(), secret) {
			t.Error("a secret is in the logs")
		}
	}
	files := 0
	check(t, filepath.WalkDir(n.data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		kept, err := os.ReadFile(path)
		if files++; bytes.Contains(kept, []byte(strings.Split(n.token, "_")[2])) {
			t.Errorf("the token is stored as it is, in %s", path)
		}
		return err
	}))
	if files < 5 {
		t.Errorf("looked at %d files", files)
	}
}

func TestAgentOutlivesAnAbsentServer(t *testing.T) {
	n := startServer(t)
	up := echo(t)
	n.kill()
	a := n.agent(t.TempDir(), "tcp", up)
	a.wait(0, "the failure said", msg("server not reachable"))
	n.restart()
	l, _ := a.wait(0, "online", online)
	if !pingable(tcpAddress(l.str("url"))) {
		t.Error("not served")
	}
}

func TestDrain(t *testing.T) {
	n := startServer(t)
	for _, who := range []string{"agent", "server"} {
		t.Run(who, func(t *testing.T) {
			a, url := n.publish("tcp", echo(t))
			c := dial(t, tcpAddress(url))
			ping := func() {
				t.Helper()
				_, err := c.Write([]byte("ping"))
				check(t, err)
				_, err = io.ReadFull(c, make([]byte, 4))
				check(t, err)
			}
			ping()
			p := a
			if who == "server" {
				p = n.process
				p.signal(syscall.SIGTERM)
				p.wait(0, "draining", msg("server draining"))
				eventually(t, "no new visitors", func() bool { return !pingable(tcpAddress(url)) })
			} else {
				p.signal(syscall.SIGTERM)
				n.wait(0, "draining", msg("agent is draining"))
			}
			ping() // who is in stays
			check(t, c.CloseWrite())
			_, err := io.ReadAll(c)
			check(t, err)
			if code := p.exit(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

func TestSecondSignalExitsAtOnce(t *testing.T) {
	n := startServer(t)
	stay := func(url string) {
		c := dial(t, tcpAddress(url))
		_, err := c.Write([]byte("ping"))
		check(t, err)
		_, err = io.ReadFull(c, make([]byte, 4))
		check(t, err)
	}
	a, url := n.publish("tcp", echo(t))
	stay(url)
	a.signal(syscall.SIGTERM)
	a.wait(0, "draining", msg("agent draining"))
	a.signal(syscall.SIGTERM)
	if code := a.exit(); code != 1 {
		t.Errorf("agent: exit code %d", code)
	}
	_, url = n.publish("tcp", echo(t))
	stay(url)
	n.signal(syscall.SIGTERM)
	n.wait(0, "draining", msg("server draining"))
	n.signal(syscall.SIGTERM)
	if code := n.exit(); code != 1 {
		t.Errorf("server: exit code %d", code)
	}
}

func TestHealth(t *testing.T) {
	n := startServer(t)
	l, _ := n.wait(0, "ready", msg("server ready"))
	status := func(method, path string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+l.str("admin")+path, nil)
		check(t, err)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if got := status("GET", path); got != 200 {
			t.Errorf("%s: %d", path, got)
		}
		if got := status("POST", path); got != 405 {
			t.Errorf("POST %s: %d", path, got)
		}
	}
	if got := status("GET", "/api/v1/tokens"); got != 401 {
		t.Errorf("tokens on the admin address, without one: %d", got)
	}
	_, url := n.publish("tcp", echo(t))
	c := dial(t, tcpAddress(url)) // keeps the server draining
	_, err := c.Write([]byte("ping"))
	check(t, err)
	_, err = io.ReadFull(c, make([]byte, 4))
	check(t, err)
	n.signal(syscall.SIGTERM)
	n.wait(0, "draining", msg("server draining"))
	if alive, ready := status("GET", "/healthz"), status("GET", "/readyz"); alive != 200 || ready != 503 {
		t.Errorf("while draining: %d, %d", alive, ready)
	}
	_ = c.Close()
	if code := n.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if got := status("GET", "/healthz"); got != 0 {
		t.Errorf("afterwards: %d", got)
	}
}
