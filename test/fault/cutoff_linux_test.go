package fault

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/test/harness"
)

// TestCutOff: a server whose network to the store swallows everything serves what it has.
// That a token was revoked meanwhile it learns when the network is back, and ends what the
// token has at once.
func TestCutOff(t *testing.T) {
	t.Parallel()
	n := newNamespaces(t)
	e := harness.StartEtcd(t, harness.EtcdConfig{Host: "10.99.0.1", Within: within(n.server)})
	one := startServer(t, within(n.server), "10.99.0.1", "--etcd", e.URLs[0], "--peer", "10.99.0.1:0")
	two := one.another(t, within(n.agent), "10.99.0.2", "--etcd", e.URLs[0], "--peer", "10.99.0.2:0")
	agent, _ := two.agent(t.TempDir(), two.https, "tcp", "127.0.0.1:9")

	n.blackhole(true)
	id := strings.Split(one.token, "_")[1]
	if out, err := exec.CommandContext(t.Context(), culvert, "token", "revoke", id, "--data", one.home).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	<-time.After(*outage)
	select {
	case <-agent.done:
		t.Fatal("the agent's session ended with the network to the store")
	default:
	}
	n.blackhole(false)
	back := time.Now()
	two.wait(0, "session ended: its token was revoked")
	took := time.Since(back)
	t.Logf("%v after the network's return", took)
	if took > 20*time.Second { // 5 s where nothing else runs
		t.Errorf("a revoked token is good for %v after the network's return", took)
	}
	<-agent.done
}
