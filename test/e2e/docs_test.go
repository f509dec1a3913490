package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/culvert-tunnel/culvert/test/harness"
)

// TestDocumentedCommands runs what README.md and the documents show as commands: each
// server until it is ready, each agent until its endpoint can be used, all else to its
// end. Only what can't be so here is put in its place: the server's address, the token,
// ports.
func TestDocumentedCommands(t *testing.T) {
	n := startServer(t, "--domain", "tunnel.example.com", "--peer", "127.0.0.1:0")
	home := t.TempDir()
	files := make(map[string]string) // that the documents show, by name
	shownFile := regexp.MustCompile(`^# ([a-z.-]+\.(?:yml|toml))$`)
	var commands []string
	guides, err := filepath.Glob("../../docs/guide/*.md")
	check(t, err)
	for _, path := range append([]string{"../../README.md", "../../docs/operations.md", "../../docs/cluster.md", "../../docs/protocol.md"}, guides...) {
		b, err := os.ReadFile(path)
		check(t, err)
		kind, name := "", ""
		for line := range strings.Lines(string(b)) {
			mark, fence := strings.CutPrefix(strings.TrimSpace(line), "```")
			command, shown := strings.CutPrefix(line, "$ ")
			switch {
			case fence:
				kind, name = mark, ""
			case kind == "console" && shown:
				command, _, _ = strings.Cut(command, "  #")
				commands = append(commands, strings.TrimSpace(command))
			case name != "":
				files[name] += line
			case (kind == "yaml" || kind == "toml") && shownFile.MatchString(strings.TrimSpace(line)):
				name = shownFile.FindStringSubmatch(strings.TrimSpace(line))[1]
				files[name] = line
			}
		}
	}
	if len(commands) < 20 || len(files) < 5 || len(guides) < 5 {
		t.Fatalf("found only %q and %q", commands, files)
	}
	ports := ""
	for i, a := range n.args {
		if a == "--tcp-ports" {
			ports = n.args[i+1]
		}
	}
	first, _, _ := strings.Cut(ports, "-")
	second, err := strconv.Atoi(first)
	check(t, err)
	here := strings.NewReplacer("server: tunnel.example.com", "server: "+n.https, "--server tunnel.example.com", "--server "+n.https,
		"https://etcd.example.com:2379", harness.StartEtcd(t, harness.EtcdConfig{}).URLs[0], "--join 10.0.0.1:7443", "--join "+n.peerAddress(), "10.0.0.1:7443", "127.0.0.1:0", "10.0.0.2:7443", "127.0.0.1:0", "20022", first, "20432", strconv.Itoa(second+1))
	check(t, os.Mkdir(filepath.Join(home, "public"), 0o755))
	for name, text := range files {
		check(t, os.WriteFile(filepath.Join(home, name), []byte(here.Replace(text)), 0o600))
	}

	dir := t.TempDir()
	env := func(command string) []string {
		env := []string{"CULVERT_API=off", "CULVERT_STATE=" + t.TempDir(), "CULVERT_DATA=" + n.data, "CULVERT_TOKEN=" + n.token}
		if strings.Contains(command, "culvert server") {
			env = []string{"CULVERT_HTTP=127.0.0.1:0", "CULVERT_HTTPS=127.0.0.1:0", "CULVERT_ADMIN=127.0.0.1:0", "CULVERT_DATA=" + filepath.Join(dir, "new")}
		}
		if strings.Contains(command, "--join") {
			env = append(env, "CULVERT_DATA="+filepath.Join(dir, "joined"))
		}
		if strings.Contains(command, "--acme") {
			env = append(env, "CULVERT_ACME_CA_ROOT="+filepath.Join(n.data, "ca.pem")) // no CA shows what this trusts: nobody is bothered
		}
		return env
	}
	id := strings.Split(n.token, "_")[1]
	for _, command := range commands {
		t.Run(command, func(t *testing.T) {
			run := strings.NewReplacer("cvt_…", n.token, "revoke ID", "revoke "+id, "--token ID", "--token "+id).Replace(here.Replace(command))
			if strings.Contains(run, "token revoke") {
				run = strings.Replace(run, id, madeToken(t, n), 1) // the others need theirs
			}
			p := startShell(t, home, env(command), "exec env "+run)
			switch {
			case strings.Contains(command, "culvert server"):
				p.wait(0, "server ready", msg("server ready"))
			case strings.Contains(command, "culvert http"), strings.Contains(command, "culvert tcp"), strings.Contains(command, "culvert tls"), strings.Contains(command, "culvert udp"), strings.Contains(command, "culvert file"), strings.Contains(command, "culvert start"):
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
