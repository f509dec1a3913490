package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-tunnel/culvert/test/harness"
	"github.com/culvert-tunnel/culvert/test/pebble"
)

// TestBackupRestore: a machine is lost. With the backup another one has its tokens, names
// and certificates, and the agents trust it, without an order or a word of theirs.
func TestBackupRestore(t *testing.T) {
	plain, secure := harness.FreeAddress(t), harness.FreeAddress(t)
	ca := pebble.Start(t, pebble.Config{HTTPPort: pebble.Port(plain), TLSPort: pebble.Port(secure)})
	root := filepath.Join(t.TempDir(), "root.pem")
	check(t, os.WriteFile(root, ca.Root(t), 0o600))
	n := startServerIn(t, []string{"SSL_CERT_FILE=" + root},
		"--domain", "tunnel.example.com", "--http", plain, "--https", secure,
		"--acme-email", "ops@example.com", "--acme-ca", ca.Directory, "--acme-ca-root", ca.APIRoot)
	_, port, _ := net.SplitHostPort(secure)
	visit := func() (string, error) {
		out, err := exec.CommandContext(t.Context(), "curl", "-sS", "--max-time", "30", "--cacert", root,
			"--connect-to", "::127.0.0.1:", "https://app.example.org:"+port+"/hello").CombinedOutput()
		return string(out), err
	}
	agent, _ := n.publish("http", newUpstream(t).URL, "--url", "https://app.example.org")
	eventually(t, "a certificate", func() bool { out, err := visit(); return err == nil && strings.HasPrefix(out, "hello") })
	if out, ok := n.culvert("name", "reserve", "kept", "--token", n.token); !ok {
		t.Fatal(out)
	}
	file := filepath.Join(n.home, "culvert.backup")
	if out, ok := n.culvert("store", "backup", file); !ok {
		t.Fatal(out)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	restore := func(data string) (string, error) {
		cmd := exec.CommandContext(t.Context(), binary, "store", "restore", file, "--data", data)
		cmd.Env = []string{"HOME=" + n.home}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := restore(n.data); err == nil || !strings.Contains(out, "another server uses this data directory") {
		t.Errorf("restored below a running server: %s", out)
	}
	n.kill()
	if out, err := restore(n.data); err == nil || !strings.Contains(out, "there is a state already") {
		t.Errorf("restored over a state: %s", out)
	}
	check(t, os.RemoveAll(n.data))
	ca.Stop()
	if out, err := restore(n.data); err != nil {
		t.Fatal(out)
	}
	n.restart()
	if strings.Contains(n.out(), "The token is not shown again") {
		t.Error("it made a first token")
	}
	_, at := agent.wait(0, "the agent", msg("connected"))
	agent.wait(at, "the agent is back", msg("connected"))
	eventually(t, "the certificate", func() bool { out, err := visit(); return err == nil && strings.HasPrefix(out, "hello") })
	if out, ok := n.culvert("name", "list"); !ok || !strings.Contains(out, "http://kept.tunnel.example.com") {
		t.Errorf("%s", out)
	}

	// Half a backup restores nothing.
	b, err := os.ReadFile(file)
	check(t, err)
	check(t, os.WriteFile(file, b[:len(b)/2], 0o600))
	data := filepath.Join(t.TempDir(), "data")
	if out, err := restore(data); err == nil || !strings.Contains(out, "no backup, or not all of one") {
		t.Errorf("%s", out)
	}
	if _, err := os.Stat(filepath.Join(data, "etcd")); err == nil {
		t.Error("something is left")
	}
}
