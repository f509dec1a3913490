package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnits: systemd takes every unit that an installation can write, and reads the
// command line as it was meant.
func TestUnits(t *testing.T) {
	binary, err := exec.LookPath("true") // systemd looks whether it is there
	if err != nil {
		t.Fatal(err)
	}
	odd := `/etc/cul vert/a"b%n$HOME\.yml`
	for name, p := range map[string]program{
		"agent":          {name: "culvert-agent", config: "/etc/culvert/culvert.yml"},
		"agent as":       {name: "culvert-agent", config: odd, as: "daemon"},
		"agent of user":  {name: "culvert-agent", config: "/home/a/culvert.yml", user: true},
		"server":         {name: "culvert-server", config: "/etc/culvert/server.yml", server: true},
		"server as":      {name: "culvert-server", config: "/etc/culvert/server.yml", server: true, as: "daemon"},
		"server of user": {name: "tunnels", config: "/home/a/server.yml", server: true, user: true, placed: true},
	} {
		t.Run(name, func(t *testing.T) {
			p.binary = binary
			path := filepath.Join(t.TempDir(), p.name+".service")
			if err := os.WriteFile(path, []byte(p.systemdUnit()), 0o600); err != nil {
				t.Fatal(err)
			}
			args := []string{"verify", "--man=no", path}
			if p.user {
				args = append([]string{"--user"}, args...)
			}
			cmd := exec.CommandContext(t.Context(), "systemd-analyze", args...)
			cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir())
			if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), path) {
				t.Errorf("%v: %s\n%s", err, out, p.systemdUnit())
			}
		})
	}
	if got, want := unitWord(odd), `"/etc/cul vert/a\"b%%n$$HOME\\.yml"`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
