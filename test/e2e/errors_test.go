package e2e

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/culvert-tunnel/culvert/test/harness"
)

func TestVisitorErrors(t *testing.T) {
	n := startServer(t, "--grace", "1s")
	dead := harness.FreeAddress(t)
	agent, url := n.publish("http", dead, "--name", "app")
	expect := func(what, url string, status int, code string, args ...string) string {
		t.Helper()
		got := n.curl(append([]string{"-i", url}, args...)...)
		if !strings.Contains(strings.SplitN(got, "\r\n", 2)[0], strconv.Itoa(status)) || !strings.Contains(strings.ToLower(got), "culvert-error: "+code) {
			t.Errorf("%s: want %d %s, got\n%s", what, status, code, got)
		}
		return got
	}
	expect("upstream down", url, 502, "upstream_refused")
	expect("upstream down again", url, 502, "upstream_refused")
	isDown := func(l logLine) bool { return strings.HasPrefix(l.str("msg"), "upstream is down") }
	agent.wait(0, "down", isDown)
	if got := expect("html", url, 502, "upstream_refused", "-H", "Accept: text/html,application/xhtml+xml,*/*;q=0.8"); !strings.Contains(got, "<!doctype html>") {
		t.Errorf("no page: %s", got)
	}
	if got := expect("json", url, 502, "upstream_refused", "-H", "Accept: application/json"); !strings.Contains(got, `"code":"upstream_refused"`) {
		t.Errorf("no JSON: %s", got)
	}
	expect("unknown host", n.plainURL("https://nobody.localhost"), 404, "endpoint_not_found")
	expect("unknown host over TLS", strings.Replace(url, "app", "nobody", 1), 404, "endpoint_not_found")
	expect("another host than the server name", url, 421, "misdirected", "-H", "Host: other.localhost")
	expect("TRACE", url, 405, "method_refused", "-X", "TRACE")

	agent.kill()
	if down := agent.count(isDown); down != 1 {
		t.Errorf("the agent said %d times that the upstream is down", down)
	}
	if got := expect("agent gone", url, 503, "endpoint_offline"); !strings.Contains(strings.ToLower(got), "retry-after: ") {
		t.Errorf("no Retry-After: %s", got)
	}
}

// TestVisitorsWaitForTheirAgent: HTTP visitors who come, and one who is being served,
// while the agent is killed.
func TestVisitorsWaitForTheirAgent(t *testing.T) {
	up := newUpstream(t)
	n := startServer(t, "--grace", "60s", "--resume-window", "1s")
	home := t.TempDir()
	agent := n.agent(home, "http", up.port(), "--name", "app")
	l, _ := agent.wait(0, "online", online)
	url := l.str("url")
	client := n.visitor(true)

	download, err := n.visitor(false).Get(url + "/blob?n=" + strconv.FormatInt(1<<40, 10))
	check(t, err)
	defer download.Body.Close()
	_, err = io.CopyN(io.Discard, download.Body, 1<<20)
	check(t, err)

	pr, pw := io.Pipe()
	defer pw.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/slurp", pr)
	check(t, err)
	status := make(chan string, 1)
	go func() {
		res, err := client.Do(req)
		if err != nil {
			status <- err.Error()
			return
		}
		_ = res.Body.Close()
		status <- res.Status + " " + res.Header.Get("Culvert-Error")
	}()
	_, err = pw.Write([]byte("start"))
	check(t, err)
	waitFor(t, up.started, "the upload to begin")
	agent.kill()
	n.wait(0, "the loss noticed", msg("agent disconnected"))
	if _, err := io.Copy(io.Discard, download.Body); err == nil {
		t.Error("a download that broke off looked whole")
	}
	// Who pauses in the middle of his upload is told, too.
	if got := <-status; got != "503 Service Unavailable endpoint_offline" {
		t.Errorf("who was being served got %q", got)
	}

	const visitors = 20
	got := make(chan string, visitors)
	for range visitors {
		go func() {
			res, err := client.Get(url + "/hello")
			if err != nil {
				got <- err.Error()
				return
			}
			b, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			got <- string(b)
		}()
	}
	n.agent(home, "http", up.port(), "--name", "app").wait(0, "online", online)
	for range visitors {
		if b := <-got; !strings.HasPrefix(b, "hello GET") {
			t.Errorf("who waited got %q", b)
		}
	}
}

func TestPlainOnly(t *testing.T) {
	up := newUpstream(t)
	n := startServer(t)
	_, url := n.publish("http", up.port(), "--url", "http://plain.localhost")
	if want := "http://plain.localhost" + n.http[strings.LastIndex(n.http, ":"):]; url != want {
		t.Errorf("bound as %s, want %s", url, want)
	}
	if got := n.curl(url + "/hello"); !strings.HasPrefix(got, "hello GET plain.localhost") {
		t.Errorf("got %q", got)
	}
	secure := "https://plain.localhost" + n.https[strings.LastIndex(n.https, ":"):]
	if got := n.curl("-i", secure+"/hello"); !strings.Contains(got, "404") || !strings.Contains(got, "endpoint_not_found") {
		t.Errorf("on the TLS port: %s", got)
	}
	_, app := n.publish("http", up.port(), "--name", "app", "--redirect")
	got := n.curl("-i", n.plainURL(app)+"/hello?a=b;c")
	if !strings.HasPrefix(got, "HTTP/1.1 308 ") || !strings.Contains(got, "Location: "+app+"/hello?a=b;c\r\n") {
		t.Errorf("redirect: %s", got)
	}
}

// TestErrorPages: an operator's own pages, which are judged at the start.
func TestErrorPages(t *testing.T) {
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "404.html"), []byte("<p>ours: {{.Code}} {{.RequestID}}"), 0o600))
	n := startServer(t, "--error-pages", dir)
	if got := n.curlPlain("http://" + n.http); strings.Contains(got, "ours") {
		t.Errorf("a program got a page: %s", got)
	}
	out := n.curl("-H", "Accept: text/html", "-H", "X-Request-Id: me", "https://nobody.localhost"+n.https[strings.LastIndex(n.https, ":"):])
	if out != "<p>ours: endpoint_not_found me" {
		t.Errorf("got %q", out)
	}
	check(t, os.WriteFile(filepath.Join(dir, "503.html"), []byte("{{.Nonsense}}"), 0o600))
	p := start(t, t.TempDir(), nil, "server", "--data", filepath.Join(t.TempDir(), "d"), "--error-pages", dir)
	if code := p.exit(); code != 2 || !strings.Contains(p.errors(), "503.html") {
		t.Errorf("exit code %d: %s", code, p.errors())
	}
}
