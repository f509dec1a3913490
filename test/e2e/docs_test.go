package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestDocumentedCommands runs what README.md and the documents show as commands: each
// server until it is ready, each agent until its endpoint can be used, all else to its
// end. Only what can't be so here is put in its place: the server's address, the token,
// ports.
func TestDocumentedCommands(t *testing.T) {
	n := startServer(t, "--domain", "tunnel.example.com")
	home := t.TempDir()
	var file string
	var commands []string
	for _, path := range []string{"../../README.md", "../../docs/operations.md", "../../docs/protocol.md"} {
		b, err := os.ReadFile(path)
		check(t, err)
		kind := ""
		for line := range strings.Lines(string(b)) {
			mark, fence := strings.CutPrefix(strings.TrimSpace(line), "```")
			command, shown := strings.CutPrefix(line, "$ ")
			switch {
			case fence:
				kind = mark
			case kind == "console" && shown:
				command, _, _ = strings.Cut(command, "  #")
				commands = append(commands, strings.TrimSpace(command))
			case kind == "yaml" && (file != "" || strings.HasPrefix(line, "# culvert.yml")) && path == "../../README.md":
				file += line
			}
		}
	}
	if len(commands) < 10 || file == "" {
		t.Fatalf("found only %q and %q", commands, file)
	}
	ports := ""
	for i, a := range n.args {
		if a == "--tcp-ports" {
			ports = n.args[i+1]
		}
	}
	first, _, _ := strings.Cut(ports, "-")
	file = strings.NewReplacer("server: tunnel.example.com", "server: "+n.https, "20022", first).Replace(file)
	check(t, os.WriteFile(filepath.Join(home, "culvert.yml"), []byte(file), 0o600))

	dir := t.TempDir()
	env := func(command string) []string {
		env := []string{"CULVERT_API=off", "CULVERT_STATE=" + t.TempDir(), "CULVERT_DATA=" + n.data, "CULVERT_TOKEN=" + n.token}
		if strings.Contains(command, "culvert server") {
			env = []string{"CULVERT_HTTP=127.0.0.1:0", "CULVERT_HTTPS=127.0.0.1:0", "CULVERT_ADMIN=127.0.0.1:0", "CULVERT_DATA=" + filepath.Join(dir, "new")}
		}
		return env
	}
	id := strings.Split(n.token, "_")[1]
	for _, command := range commands {
		t.Run(command, func(t *testing.T) {
			run := strings.NewReplacer("cvt_…", n.token, "--server tunnel.example.com", "--server "+n.https, "revoke ID", "revoke "+id).Replace(command)
			if strings.Contains(run, "token revoke") {
				run = strings.Replace(run, id, madeToken(t, n), 1) // the others need theirs
			}
			p := startShell(t, home, env(command), "exec env "+run)
			switch {
			case strings.Contains(command, "culvert server"):
				p.wait(0, "server ready", msg("server ready"))
			case strings.Contains(command, "culvert http"), strings.Contains(command, "culvert tcp"), strings.Contains(command, "culvert tls"), strings.Contains(command, "culvert start"):
				p.wait(0, "endpoint online", online)
			default:
				if code := p.exit(); code != 0 {
					t.Errorf("exit code %d", code)
				}
				return
			}
			p.signal(syscall.SIGTERM)
			if code := p.exit(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// madeToken makes a token and returns its id.
func madeToken(t *testing.T, n *node) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, "token", "create", "--data", n.data)
	cmd.Env = []string{"HOME=" + n.home}
	out, err := cmd.Output()
	check(t, err)
	return strings.Split(string(out), "_")[1]
}
