package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// joinToken makes a token for servers and returns the file that holds it.
func (n *node) joinToken() string {
	n.t.Helper()
	out := n.cli("cluster", "token", "--data", n.data)
	file := filepath.Join(n.t.TempDir(), "join-token")
	check(n.t, os.WriteFile(file, []byte(out), 0o600))
	return file
}

// peerAddress is where the server takes others in.
func (n *node) peerAddress() string {
	n.t.Helper()
	l, _ := n.wait(0, "server ready", msg("server ready"))
	return l.str("peer")
}

// pin has the server listen for others where it does now, when it is started again.
func (n *node) pin() {
	n.args[slices.Index(n.args, "--peer")+1] = n.peerAddress()
}

// join starts one more server of n's cluster, with a directory and, for tcp endpoints, an
// address of its own.
func (n *node) join(token string) *node {
	n.t.Helper()
	m := &node{home: n.t.TempDir(), token: n.token, env: n.env, args: slices.Clone(n.args)}
	m.data = filepath.Join(m.home, "da ta")
	if i := slices.Index(m.args, "--join"); i >= 0 {
		m.args = m.args[:i]
	}
	host := fmt.Sprintf("127.0.0.%d", 2+joined.Add(1)%200)
	for flag, value := range map[string]string{"--data": m.data, "--peer": "127.0.0.1:0", "--http": "127.0.0.1:0", "--https": "127.0.0.1:0", "--tcp-host": host} {
		m.args[slices.Index(m.args, flag)+1] = value
	}
	m.args = append(m.args, "--join", n.peerAddress(), "--join-token-file", token)
	m.process = start(n.t, m.home, m.env, m.args...)
	m.ready()
	m.pin()
	return m
}

var joined atomic.Int64 // servers, by which each gets an address

// parts counts the servers of a cluster by their part in it.
func (n *node) parts() map[string]int {
	out, ok := n.culvert("cluster", "list", "--output", "json")
	parts := make(map[string]int)
	var list []struct{ Role, Node string }
	if !ok || json.Unmarshal([]byte(out), &list) != nil {
		return parts
	}
	for _, m := range list {
		parts[m.Role]++
		if m.Node == "" {
			parts["away"]++
		}
	}
	return parts
}

// startOwnCluster grows three servers with a state of their own from one.
func startOwnCluster(t *testing.T) [3]*node {
	t.Helper()
	one := startServer(t, "--peer", "127.0.0.1:0")
	token := one.joinToken()
	nodes := [3]*node{one, one.join(token), one.join(token)}
	one.pin()
	eventually(t, "three votes", func() bool { return one.parts()["voter"] == 3 })
	return nodes
}

// TestClusterOfItsOwn: servers join one by a token, with all that agents know it by; what
// is bound at one is reached by another.
func TestClusterOfItsOwn(t *testing.T) {
	one := startServer(t, "--peer", "127.0.0.1:0")
	if out, _ := one.culvert("cluster", "list"); !strings.Contains(out, "One server: add two more") {
		t.Errorf("%s", out)
	}
	one.publish("http", newUpstream(t).port(), "--name", "before")
	token := one.joinToken()
	two := one.join(token)
	if out, _ := one.culvert("cluster", "list"); !strings.Contains(out, "One server votes, the other has a copy") || !strings.Contains(out, "learner") {
		t.Errorf("%s", out)
	}
	if strings.Contains(two.out(), "CULVERT_TOKEN") {
		t.Error("two first tokens")
	}
	three := one.join(token)
	eventually(t, "three votes", func() bool { return one.parts()["voter"] == 3 })
	if out, _ := three.culvert("cluster", "list"); !strings.Contains(out, "3 voters, 3 there: 1 more may be lost.") || strings.Count(out, "leads") != 1 {
		t.Errorf("%s", out)
	}
	// One token and one CA do for all.
	_, url := three.publish("http", newUpstream(t).port(), "--name", "after")
	for _, u := range []string{url, "https://before.localhost:1"} {
		host, _, _ := net.SplitHostPort(strings.TrimPrefix(u, "https://"))
		_, port, _ := net.SplitHostPort(two.https)
		eventually(t, u+" by another server", func() bool {
			return two.curl("-o", "/dev/null", "-w", "%{http_code}", "--resolve", host+":"+port+":127.0.0.1", "https://"+host+":"+port+"/hello") == "200"
		})
	}
}

// upgrade replaces the server's process, with further flags, while it serves.
func (n *node) upgrade(extra ...string) {
	n.t.Helper()
	old := n.process
	args := append(slices.Clone(n.args), extra...)
	for flag, value := range map[string]string{"--http": n.http, "--https": n.https} {
		args[slices.Index(args, flag)+1] = value
	}
	n.args = args
	n.process = start(n.t, n.home, n.env, append(slices.Clone(args), "--upgrade")...)
	n.ready()
	if code := old.exit(); code != 0 {
		n.t.Errorf("the old process: exit code %d", code)
	}
}

// TestGrowsOnline: a server that was started alone takes others in without refusing a
// visitor, and is replaced when it is one of three.
func TestGrowsOnline(t *testing.T) {
	one := startServer(t)
	if out, ok := one.culvert("cluster", "token"); ok || !strings.Contains(out, "--peer") {
		t.Errorf("%s", out)
	}
	_, url := one.publish("http", newUpstream(t).port(), "--name", "app")
	ctx, cancel := context.WithCancel(t.Context())
	var visits sync.WaitGroup
	client := one.visitor(false)
	visits.Go(func() {
		for ctx.Err() == nil {
			if res, err := client.Get(url + "/hello"); err != nil || res.StatusCode != http.StatusOK {
				t.Errorf("a visitor was refused: %v, %v", res, err)
				return
			} else if err := res.Body.Close(); err != nil {
				t.Error(err)
			}
			client.CloseIdleConnections()
		}
	})
	one.upgrade("--peer", "127.0.0.1:0")
	one.pin()
	token := one.joinToken()
	two, three := one.join(token), one.join(token)
	eventually(t, "three votes", func() bool { return one.parts()["voter"] == 3 })
	one.upgrade()
	eventually(t, "all are there", func() bool { p := two.parts(); return p["voter"] == 3 && p["away"] == 0 })
	_, _ = one.publish("http", newUpstream(t).port(), "--name", "another")
	cancel()
	visits.Wait()
	_, port, _ := net.SplitHostPort(three.https)
	eventually(t, "it is reached by another", func() bool {
		return three.curl("-o", "/dev/null", "-w", "%{http_code}", "--resolve", "app.localhost:"+port+":127.0.0.1", "https://app.localhost:"+port+"/hello") == "200"
	})
}

// TestJoinRefused: what is no token to join with gets nothing, and says what to do.
func TestJoinRefused(t *testing.T) {
	one := startServer(t, "--peer", "127.0.0.1:0")
	at := one.peerAddress()
	write := func(text string) string {
		file := filepath.Join(t.TempDir(), "token")
		check(t, os.WriteFile(file, []byte(text), 0o600))
		return file
	}
	good, err := os.ReadFile(one.joinToken())
	check(t, err)
	parts := strings.Split(strings.TrimSpace(string(good)), "_")
	wrong := strings.Join([]string{parts[0], parts[1], strings.Repeat("a", len(parts[2])), parts[3]}, "_")
	agents, _ := one.culvert("token", "create")
	agents = strings.Join([]string{parts[0], strings.Split(agents, "_")[1], strings.Split(agents, "_")[2], parts[3]}, "_")
	for what, file := range map[string]string{
		"unknown or was revoked":        write(wrong),
		"for another use":               write(agents),
		"not signed by the CA":          write(one.token),
		"make one with culvert cluster": write("nonsense"),
		"no such file":                  filepath.Join(t.TempDir(), "missing"),
		"no token to join with":         write(strings.Join(parts[:3], "_")),
	} {
		home := t.TempDir()
		p := start(t, home, nil, "server", "--data", filepath.Join(home, "d"), "--peer", "127.0.0.1:0", "--join", at, "--join-token-file", file)
		if code := p.exit(); code == 0 || !strings.Contains(p.errors(), what) || strings.Contains(p.errors(), parts[2]) {
			t.Errorf("%s: %d %s", what, code, p.errors())
		}
		if _, err := os.Stat(filepath.Join(home, "d", "cluster")); err == nil {
			t.Errorf("%s: something was kept", what)
		}
	}
	// A server with a state of its own does not join, and keeps it.
	p := start(t, one.home, nil, "server", "--data", startServer(t).data, "--peer", "127.0.0.1:0", "--join", at, "--join-token-file", write(string(good)))
	if code := p.exit(); code != 1 || !strings.Contains(p.errors(), "another server uses this data directory") {
		t.Errorf("%d %s", code, p.errors())
	}
	other := startServer(t)
	other.kill()
	p = start(t, other.home, nil, "server", "--data", other.data, "--peer", "127.0.0.1:0", "--join", at, "--join-token-file", write(string(good)))
	if code := p.exit(); code != 1 || !strings.Contains(p.errors(), "a state of its own") {
		t.Errorf("%d %s", code, p.errors())
	}
	other.restart()
	// The agents' token does not administer, nor does the one to join with serve agents.
	one.with(strings.TrimSpace(string(good))).refused("http", newUpstream(t).port())
}

// TestMemberReplaced: of three servers one is lost with its disk. The rest goes on; a new
// one takes its place after it is removed, at the same address even without.
func TestMemberReplaced(t *testing.T) {
	nodes := startOwnCluster(t)
	one, two, three := nodes[0], nodes[1], nodes[2]
	three.kill()
	check(t, os.RemoveAll(three.data))
	_, _ = one.publish("http", newUpstream(t).port(), "--name", "meanwhile")
	eventually(t, "it is away", func() bool { return two.parts()["away"] == 1 })
	if out, _ := two.culvert("cluster", "list"); !strings.Contains(out, "3 voters, 2 there: if one more is lost") {
		t.Errorf("%s", out)
	}
	if _, ok := two.culvert("cluster", "remove", "nobody"); ok {
		t.Error("removed nobody")
	}
	if out, ok := two.culvert("cluster", "remove", three.peerAddress()); !ok {
		t.Fatal(out)
	}
	token := two.joinToken()
	four := two.join(token)
	eventually(t, "three votes", func() bool { p := four.parts(); return p["voter"] == 3 && p["away"] == 0 })

	// A machine that comes back at its address with an empty disk.
	four.kill()
	check(t, os.RemoveAll(four.data))
	four.process = start(t, four.home, four.env, four.args...)
	four.ready()
	eventually(t, "three votes again", func() bool { p := four.parts(); return p["voter"] == 3 && p["away"] == 0 })

	// A server that is removed while it runs ends, says why, and does so again.
	if out, ok := one.culvert("cluster", "remove", four.peerAddress()); !ok {
		t.Fatal(out)
	}
	for range 2 {
		if code := four.exit(); code != 1 || !strings.Contains(four.errors(), "was removed from its cluster") {
			t.Errorf("%d %s", code, four.errors())
		}
		four.process = start(t, four.home, four.env, four.args...)
	}
	four.exit()
}
