package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/test/harness"
)

// TestTwoNodes: two servers on one etcd have one set of tokens and names. Only the first
// one makes a first token; what is bound through one is taken at the other; a token that is
// revoked at one ends sessions at the other within a second.
func TestTwoNodes(t *testing.T) {
	etcd := harness.StartEtcd(t, harness.EtcdConfig{}).URLs[0]
	one := startServer(t, "--etcd", etcd, "--node", "one")
	two := &node{home: t.TempDir()}
	two.data = filepath.Join(two.home, "data")
	check(t, os.Mkdir(two.data, 0o700))
	for _, name := range []string{"ca-key.pem", "ca.pem"} { // as docs/operations.md has it
		b, err := os.ReadFile(filepath.Join(one.data, name))
		check(t, err)
		check(t, os.WriteFile(filepath.Join(two.data, name), b, 0o600))
	}
	two.process = start(t, two.home, nil, "server", "--domain", "localhost", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0",
		"--admin", "off", "--tcp-ports", "off", "--data", two.data, "--etcd", etcd, "--node", "two", "--log-level", "debug")
	two.ready()
	if strings.Contains(two.out(), "CULVERT_TOKEN") {
		t.Error("two first tokens")
	}
	up := echo(t)
	token, _ := one.culvert("token", "create")
	agent, _ := two.with(token).publish("http", up, "--name", "app")
	if code, said := one.refused("http", up, "--name", "app"); code != 4 || !strings.Contains(said, "name_taken") {
		t.Errorf("taken at the other: %d %s", code, said)
	}
	out, _ := one.culvert("status")
	if !strings.Contains(out, "http://app.localhost") || !strings.Contains(out, "two ") {
		t.Errorf("%s", out)
	}
	seen := 0
	revoke := func(token string, agent *process) time.Duration {
		if out, ok := one.culvert("token", "revoke", strings.Split(token, "_")[1]); !ok {
			t.Error(out)
		}
		revoked := time.Now()
		_, seen = two.wait(seen, "the session's end", msg("session ended: its token was revoked"))
		took := time.Since(revoked)
		if code := agent.exit(); code != 3 {
			t.Errorf("exit code %d", code)
		}
		return took
	}
	took := revoke(token, agent)
	for i := 0; i < 4 && took > time.Second; i++ { // much else may run on this machine
		token, _ := one.culvert("token", "create")
		agent, _ := two.with(token).publish("http", up)
		took = revoke(token, agent)
	}
	if took > time.Second {
		t.Errorf("the session ended %v after its token was revoked at the other", took)
	}
	eventually(t, "the name is free", func() bool {
		out, _ := one.culvert("status")
		return !strings.Contains(out, "http://app.localhost")
	})
	_, _ = one.publish("http", up, "--name", "app")
}
