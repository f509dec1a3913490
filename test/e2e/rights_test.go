package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// culvert runs an administration command against n's data directory and returns what it
// prints on stdout, and on stderr if it fails.
func (n *node) culvert(args ...string) (string, bool) {
	n.t.Helper()
	cmd := exec.CommandContext(n.t.Context(), binary, append(args, "--data", n.data)...)
	cmd.Env = []string{"HOME=" + n.home}
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(exit.Stderr), false
	}
	check(n.t, err)
	return strings.TrimSpace(string(out)), true
}

// with is n with agents that use another token.
func (n *node) with(token string) *node {
	other := *n
	other.token = token
	return &other
}

// refused runs an agent that is to be refused for good, and returns its exit code and what
// it said.
func (n *node) refused(args ...string) (int, string) {
	n.t.Helper()
	p := n.agent(n.t.TempDir(), args...)
	return p.exit(), p.errors()
}

// TestRights: tokens with limits, an expiry and names of their own, as their users meet
// them.
func TestRights(t *testing.T) {
	n := startServer(t)
	up := echo(t)
	token, ok := n.culvert("token", "create", "--label", "few", "--allow", "https://*.alice.localhost", "--max-endpoints", "1")
	if !ok {
		t.Fatal(token)
	}
	few := n.with(token)
	agent, _ := few.publish("http", up, "--url", "https://app.alice.localhost")
	if code, said := few.refused("http", up, "--url", "https://other.alice.localhost"); code != 4 || !strings.Contains(said, "too_many_endpoints") {
		t.Errorf("a second endpoint: %d %s", code, said)
	}
	if code, said := few.refused("http", up, "--url", "https://bob.localhost"); code != 4 || !strings.Contains(said, "not_allowed") {
		t.Errorf("another's name: %d %s", code, said)
	}

	// A name that is reserved stays so when its agent is away.
	id := strings.Split(token, "_")[1]
	if out, ok := n.culvert("name", "reserve", "https://app.alice.localhost", "--token", id); !ok || out != "http://app.alice.localhost" {
		t.Errorf("reserve: %s", out)
	}
	agent.signal(syscall.SIGTERM)
	if code := agent.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if code, said := n.refused("http", up, "--url", "https://app.alice.localhost"); code != 4 || !strings.Contains(said, "name_reserved") {
		t.Errorf("a reserved name: %d %s", code, said)
	}
	var names []map[string]any
	out, _ := n.culvert("name", "list", "--output", "json")
	if err := json.Unmarshal([]byte(out), &names); err != nil || len(names) != 1 || names[0]["token"] != id {
		t.Errorf("%s: %v", out, err)
	}
	if out, ok := n.culvert("name", "reserve", "app", "--token", "nobody"); ok || !strings.Contains(out, "see culvert token list") {
		t.Errorf("for nobody: %s", out)
	}

	token, _ = n.culvert("token", "create", "--expires", "10s", "--max-sessions", "1")
	brief, _ := n.with(token).publish("http", up, "--name", "brief")

	// Revoking ends the session, and the agent's run.
	agent, _ = few.publish("http", up, "--url", "https://app.alice.localhost")
	began := time.Now()
	if out, ok := n.culvert("token", "revoke", id); !ok {
		t.Error(out)
	}
	if code := agent.exit(); code != 3 || time.Since(began) > 5*time.Second {
		t.Errorf("revoked: exit code %d after %v\n%s", code, time.Since(began), agent.errors())
	}
	if out, ok := n.culvert("name", "release", "https://app.alice.localhost"); !ok {
		t.Error(out)
	}
	n.publish("http", up, "--url", "https://app.alice.localhost")

	// A token that expires ends its session likewise.
	if code := brief.exit(); code != 3 || !strings.Contains(brief.errors(), "token_expired") {
		t.Errorf("expired: exit code %d\n%s", code, brief.errors())
	}
	if out, _ := n.culvert("token", "list"); !strings.Contains(out, "expired") || !strings.Contains(out, "1 sessions") {
		t.Errorf("%s", out)
	}
	eventually(t, "the events", func() bool {
		out, _ := n.culvert("status")
		return strings.Contains(out, "http://app.alice.localhost") && strings.Contains(out, "ready")
	})
}

// TestTokenConnections: a token's visitors beyond its limit are turned away, until one has
// left; its agents beyond theirs wait.
func TestTokenConnections(t *testing.T) {
	n := startServer(t)
	token, _ := n.culvert("token", "create", "--max-connections", "1", "--max-sessions", "1")
	_, url := n.with(token).publish("tcp", echo(t))
	talk := func(c net.Conn) error {
		if _, err := c.Write([]byte("ping")); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 4))
		return err
	}
	first := dial(t, tcpAddress(url))
	check(t, talk(first))
	visit := func() error { // a visitor may be turned away as early as in its connect
		c, err := net.DialTimeout("tcp", tcpAddress(url), patience)
		if err != nil {
			return err
		}
		defer c.Close()
		check(t, c.SetDeadline(time.Now().Add(patience)))
		return talk(c)
	}
	if visit() == nil {
		t.Error("a second visitor was let in")
	}
	check(t, talk(first))
	check(t, first.Close())
	eventually(t, "room for another", func() bool { return visit() == nil })

	second := n.with(token).agent(t.TempDir(), "tcp", echo(t))
	n.wait(0, "the refusal", func(l logLine) bool { return l.str("msg") == "agent refused" && l.str("code") == "too_many_sessions" })
	second.signal(syscall.SIGTERM)
	second.exit()
}

// TestAdminAddress: the commands from elsewhere, with an admin token and never without TLS
// over a network.
func TestAdminAddress(t *testing.T) {
	n := startServer(t)
	l, _ := n.wait(0, "server ready", msg("server ready"))
	url := "http://" + l.str("admin")
	token, ok := n.culvert("token", "create", "--admin")
	if !ok {
		t.Fatal(token)
	}
	run := func(token string, args ...string) (int, string) {
		p := start(t, t.TempDir(), []string{"CULVERT_ADMIN_TOKEN=" + token}, args...)
		return p.exit(), p.out() + p.errors()
	}
	if code, out := run(token, "status", "--admin-url", url, "--output", "json"); code != 0 || !strings.Contains(out, `"ready": true`) {
		t.Errorf("%d %s", code, out)
	}
	if code, out := run(n.token, "token", "list", "--admin-url", url); code != 1 || !strings.Contains(out, "admin_token_needed") {
		t.Errorf("with an agent's token: %d %s", code, out)
	}
	if code, out := run("", "token", "list", "--admin-url", url); code != 2 || !strings.Contains(out, "CULVERT_ADMIN_TOKEN") {
		t.Errorf("without a token: %d %s", code, out)
	}
	if code, out := run(token, "token", "list", "--admin-url", "http://tunnel.example.com:4041"); code != 2 || !strings.Contains(out, "unencrypted") || strings.Contains(out, token) {
		t.Errorf("over a network: %d %s", code, out)
	}
	if code, said := n.with(token).refused("http", "3000"); code != 3 || !strings.Contains(said, "made without --admin") {
		t.Errorf("an agent with an admin's token: %d %s", code, said)
	}
	metrics := n.curlPlain(url + "/metrics")
	for _, want := range []string{"\nculvert_sessions 0\n", `culvert_agent_events_total{code="token_invalid",event="agent_refused"} 1`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %q in\n%s", want, metrics)
		}
	}
}

// TestKilledServer: what was acknowledged survives kill -9, and nothing of the dead server's
// is in the way of the next one.
func TestKilledServer(t *testing.T) {
	n := startServer(t)
	up := echo(t)
	token, _ := n.culvert("token", "create", "--label", "kept")
	_, url := n.publish("http", up, "--name", "kept")
	n.kill()
	began := time.Now()
	n.restart()
	t.Logf("ready after %v", time.Since(began))
	if out, _ := n.culvert("token", "list"); !strings.Contains(out, strings.Split(token, "_")[1]) {
		t.Errorf("the token is lost: %s", out)
	}
	eventually(t, "the agent is back", func() bool {
		out, _ := n.culvert("status")
		return strings.Contains(out, strings.Replace(strings.TrimSuffix(url, n.https[strings.LastIndex(n.https, ":"):]), "https", "http", 1))
	})
	if matches, _ := filepath.Glob(filepath.Join(n.data, "etcd", "*")); len(matches) == 0 {
		t.Error("no state is there")
	}
}

// TestTokenBandwidth: what a token's visitors move together takes its time, whatever they
// speak, in each direction; and nothing is lost.
func TestTokenBandwidth(t *testing.T) {
	n := startServer(t)
	token, _ := n.culvert("token", "create", "--bandwidth", "400KB", "--label", "slow")
	const size = 300_000
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got, err := io.Copy(io.Discard, r.Body); err != nil || r.Method == http.MethodPost && got != size {
			t.Errorf("%d bytes came: %v", got, err)
		}
		if r.Method == http.MethodGet {
			_, _ = w.Write(make([]byte, size))
		}
	}))
	t.Cleanup(up.Close)
	_, url := n.with(token).publish("http", up.Listener.Addr().String())
	_, tcp := n.with(token).publish("tcp", up.Listener.Addr().String())
	take := func(tasks *sync.WaitGroup, c *http.Client, method, url string) {
		tasks.Go(func() {
			var body io.Reader
			if method == http.MethodPost {
				body = bytes.NewReader(make([]byte, size))
			}
			if got := visit(t.Context(), c, method, url, body); method == http.MethodGet && len(got) != size {
				t.Errorf("%.100s", got)
			}
		})
	}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		var tasks sync.WaitGroup
		began := time.Now()
		take(&tasks, n.visitor(false), method, url)
		take(&tasks, n.visitor(true), method, url)
		take(&tasks, http.DefaultClient, method, "http://"+tcpAddress(tcp))
		tasks.Wait()
		// The first 2 % of a second's worth are free, and so is what goes along with a head.
		if d := time.Since(began); d < 2*time.Second {
			t.Errorf("%s: 900 KB at 400 KB/s took %v", method, d)
		}
	}
	if out, _ := n.culvert("token", "list"); !strings.Contains(out, "400000 bytes/s") {
		t.Error(out)
	}
}
