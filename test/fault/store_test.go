package fault

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/test/harness"
)

// leader is which member leads.
func leader(t *testing.T, e *harness.Etcd) int {
	t.Helper()
	for i, url := range e.URLs {
		cmd := exec.CommandContext(t.Context(), "etcdctl", "--endpoints", url, "endpoint", "status", "-w", "json")
		cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
		out, err := cmd.Output()
		check(t, err)
		var list []struct {
			Status struct {
				Header struct {
					Member uint64 `json:"member_id"`
				} `json:"header"`
				Leader uint64 `json:"leader"`
			}
		}
		check(t, json.Unmarshal(out, &list))
		if list[0].Status.Leader == list[0].Status.Header.Member {
			return i
		}
	}
	t.Fatal("nobody leads")
	return 0
}

// another runs one more server of s's cluster: with s's CA, where the state is an etcd's.
func (s *server) another(t *testing.T, within []string, host string, extra ...string) *server {
	t.Helper()
	o := &server{home: t.TempDir(), within: within, token: s.token}
	for _, name := range []string{"ca-key.pem", "ca.pem"} {
		b, err := os.ReadFile(filepath.Join(s.home, name))
		check(t, err)
		check(t, os.WriteFile(filepath.Join(o.home, name), b, 0o600))
	}
	o.args = append([]string{"server", "--domain", "localhost", "--admin", "off", "--tcp-host", host, "--tcp-ports", harness.Ports(20), "--data", o.home}, extra...)
	o.run(t, host+":0", host+":0")
	return o
}

// visits are visitors who come to names at servers all the time, each of whom tells of
// every failure.
type visits struct {
	n    atomic.Int64
	stop func()
}

func visit(t *testing.T, servers []*server, urls ...string) *visits {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	v := &visits{}
	var visitors sync.WaitGroup
	v.stop = sync.OnceFunc(func() {
		cancel()
		visitors.Wait()
	})
	t.Cleanup(v.stop)
	for i, s := range servers {
		for _, url := range urls {
			at := s.http
			for until := time.Now().Add(patience); get(t.Context(), at, host(url)) != nil; {
				if time.Now().After(until) {
					t.Fatalf("server %d does not find %s", i, url)
				}
				<-time.After(20 * time.Millisecond)
			}
			visitors.Go(func() {
				for ctx.Err() == nil {
					if err := get(context.WithoutCancel(ctx), at, host(url)); err != nil {
						t.Errorf("a visitor of %s at server %d: %v", url, i, err)
						return
					}
					v.n.Add(1)
					<-time.After(20 * time.Millisecond)
				}
			})
		}
	}
	return v
}

// begin runs an agent without waiting for its endpoint.
func (s *server) begin(args ...string) *process {
	s.t.Helper()
	return start(s.t, s.within, s.t.TempDir(), []string{"CULVERT_TOKEN=" + s.token, "CULVERT_SERVER=" + s.https, "CULVERT_API=off"}, args...)
}

// TestMemberKilled: kill -9 of members of an etcd, the one that leads among them, is
// noticed by no visitor, and by who asks for a new name no longer than an election takes.
func TestMemberKilled(t *testing.T) {
	e := harness.StartEtcd(t, harness.EtcdConfig{Members: 3})
	flags := []string{"--peer", "127.0.0.1:0"}
	for _, url := range e.URLs {
		flags = append(flags, "--etcd", url)
	}
	one := startServer(t, nil, "127.0.0.1", flags...)
	two := one.another(t, nil, "127.0.0.1", flags...)
	site := newWebsite(t.Context(), t)
	_, url := one.agent(t.TempDir(), one.https, "http", site.port(), "--no-redirect", "--name", "app")
	v := visit(t, []*server{one, two}, url)
	for round := range 4 {
		i := leader(t, e)
		if round == 3 {
			i = (i + 1) % 3 // one that does not lead
		}
		e.Kill(i)
		killed := time.Now()
		two.begin("http", site.port(), "--no-redirect").wait(0, "endpoint online")
		newName(t, time.Since(killed))
		e.Start(i)
		settled(t, e)
	}
	v.stop()
	t.Logf("%d visits", v.n.Load())
}

// newName judges how long a new name had to wait for an election, and the agent's start.
func newName(t *testing.T, took time.Duration) {
	t.Helper()
	t.Logf("a new name after %v", took)
	if took > 15*time.Second { // 3 s where nothing else runs
		t.Errorf("a new name waited for %v", took)
	}
}

// settled waits until all members answer.
func settled(t *testing.T, e *harness.Etcd) {
	t.Helper()
	for until := time.Now().Add(patience); ; <-time.After(100 * time.Millisecond) {
		cmd := exec.CommandContext(t.Context(), "etcdctl", "--endpoints", strings.Join(e.URLs, ","), "endpoint", "health")
		cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
		if cmd.Run() == nil {
			return
		}
		if time.Now().After(until) {
			t.Fatal("the etcd is not well")
		}
	}
}

// TestStoreAway: while all of the etcd is down, what is bound is served by every server,
// an agent that comes back to a server that knew it has its name, and a new name has to wait,
// until the etcd is back and not much longer.
func TestStoreAway(t *testing.T) {
	t.Parallel()
	e := harness.StartEtcd(t, harness.EtcdConfig{})
	flags := []string{"--peer", "127.0.0.1:0", "--etcd", e.URLs[0]}
	one := startServer(t, nil, "127.0.0.1", flags...)
	two := one.another(t, nil, "127.0.0.1", flags...)
	site := newWebsite(t.Context(), t)
	_, stays := one.agent(t.TempDir(), one.https, "http", site.port(), "--no-redirect", "--name", "stays")
	home := t.TempDir()
	old, url := two.agent(home, two.https, "http", site.port(), "--no-redirect", "--name", "returns")
	v := visit(t, []*server{one, two}, stays)
	checkGet := func(s *server) {
		t.Helper()
		check(t, get(t.Context(), s.http, host(url)))
	}
	checkGet(two)
	e.Kill(0)
	began := time.Now()
	old.kill()
	back, again := two.agent(home, two.https, "http", site.port(), "--no-redirect", "--name", "returns")
	if again != url {
		t.Errorf("came back as %s", again)
	}
	checkGet(two)
	late := one.begin("http", site.port(), "--no-redirect", "--name", "late")
	late.wait(0, "endpoint refused")
	if !strings.Contains(late.output(), "store_unavailable") {
		t.Errorf("%s", late.output())
	}
	<-time.After(time.Until(began.Add(*outage)))
	if late.count("endpoint online") != 0 {
		t.Error("a new name without the store")
	}
	e.Start(0)
	settled(t, e)
	returned := time.Now()
	late.wait(0, "endpoint online")
	t.Logf("away for %v; the new name %v after its return", returned.Sub(began), time.Since(returned))
	if took := time.Since(returned); took > 15*time.Second { // 5 s where nothing else runs
		t.Errorf("healed only after %v", took)
	}
	v.stop()
	visit(t, []*server{one, two}, url, stays, "http://late.localhost").stop()
	if back.count("disconnected")+back.count("endpoint lost") != 0 {
		t.Error("the agent that came back lost its name")
	}
	t.Logf("%d visits", v.n.Load())
}

// TestMajorityAway: of three servers that keep the state themselves two are killed. The
// third one serves what it has, by the same rules.
func TestMajorityAway(t *testing.T) {
	t.Parallel()
	one, two, three := startThree(t)
	site := newWebsite(t.Context(), t)
	home := t.TempDir()
	old, url := one.agent(home, one.https, "http", site.port(), "--no-redirect", "--name", "returns")
	_, stays := one.agent(t.TempDir(), one.https, "http", site.port(), "--no-redirect", "--name", "stays")
	v := visit(t, []*server{one}, stays)
	two.kill()
	three.Kill()
	began := time.Now()
	old.kill()
	if _, again := one.agent(home, one.https, "http", site.port(), "--no-redirect", "--name", "returns"); again != url {
		t.Errorf("came back as %s", again)
	}
	late := one.begin("http", site.port(), "--no-redirect", "--name", "late")
	late.wait(0, "endpoint refused")
	<-time.After(time.Until(began.Add(*outage)))
	if late.count("endpoint online") != 0 {
		t.Error("a new name without a majority")
	}
	two.restart()
	returned := time.Now()
	late.wait(0, "endpoint online")
	t.Logf("away for %v; the new name %v after the second server's return", returned.Sub(began), time.Since(returned))
	if took := time.Since(returned); took > 15*time.Second { // 5 s where nothing else runs
		t.Errorf("healed only after %v", took)
	}
	three.restart()
	v.stop()
	visit(t, []*server{one, two, three}, url, stays, "http://late.localhost").stop()
	t.Logf("%d visits", v.n.Load())
}

// TestServerOfThreeKilled: of three servers that keep the state themselves the one that
// leads is killed. Visitors of the others do not notice, and a new name waits for an election.
func TestServerOfThreeKilled(t *testing.T) {
	t.Parallel()
	one, two, three := startThree(t)
	all := []*server{one, two, three}
	site := newWebsite(t.Context(), t)
	for range 2 {
		leads := one.leads()
		var rest []*server
		for _, s := range all {
			if s.peer() != leads {
				rest = append(rest, s)
			}
		}
		agent, url := rest[0].agent(t.TempDir(), rest[0].https, "http", site.port(), "--no-redirect")
		v := visit(t, rest, url)
		for _, s := range all {
			if s.peer() == leads {
				s.kill()
			}
		}
		killed := time.Now()
		rest[1].begin("http", site.port(), "--no-redirect").wait(0, "endpoint online")
		newName(t, time.Since(killed))
		for _, s := range all {
			if s.peer() == leads {
				s.restart()
			}
		}
		v.stop()
		agent.signal(syscall.SIGTERM)
		t.Logf("%d visits", v.n.Load())
	}
}

// startThree runs three servers that keep the state themselves.
func startThree(t *testing.T) (one, two, three *server) {
	t.Helper()
	one = startServer(t, nil, "127.0.0.1", "--peer", harness.FreeAddress(t))
	out, err := exec.Command(culvert, "cluster", "token", "--data", one.home).Output()
	check(t, err)
	token := filepath.Join(t.TempDir(), "token")
	check(t, os.WriteFile(token, out, 0o600))
	join := func() *server {
		o := &server{home: t.TempDir(), token: one.token}
		o.args = []string{
			"server", "--domain", "localhost", "--admin", "off", "--data", o.home,
			"--peer", harness.FreeAddress(t), "--join", one.peer(), "--join-token-file", token,
		}
		o.run(t, "127.0.0.1:0", "127.0.0.1:0")
		return o
	}
	two, three = join(), join()
	for until := time.Now().Add(patience); strings.Count(one.cluster(), `"voter"`) != 3; <-time.After(100 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("no three votes: %s", one.cluster())
		}
	}
	return one, two, three
}

func (s *server) peer() string {
	s.t.Helper()
	l, _ := s.wait(0, "server ready")
	return l["peer"].(string)
}

// cluster is what culvert cluster list says.
func (s *server) cluster() string {
	out, _ := exec.Command(culvert, "cluster", "list", "--output", "json", "--data", s.home).Output()
	return string(out)
}

// leads is the address of the server that leads.
func (s *server) leads() string {
	s.t.Helper()
	for until := time.Now().Add(patience); time.Now().Before(until); <-time.After(100 * time.Millisecond) {
		var list []struct {
			Address string
			Leader  bool
		}
		_ = json.Unmarshal([]byte(s.cluster()), &list)
		for _, m := range list {
			if m.Leader {
				return m.Address
			}
		}
	}
	s.t.Fatal("nobody leads")
	return ""
}
