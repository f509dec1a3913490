package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCompletion: in the shells that people use the tab key completes commands, flags, and
// the endpoints of the configuration file.
func TestCompletion(t *testing.T) {
	for shell, begin := range map[string]string{
		"bash": `exec bash --norc; PS1='READY '; source /usr/share/bash-completion/bash_completion; source <(culvert completion bash)`,
		"zsh":  `exec zsh -f; PS1='READY '; autoload -U compinit; compinit -D; source <(culvert completion zsh)`,
		"fish": `exec fish --no-config; function fish_prompt; echo 'READY '; end; culvert completion fish | source`,
	} {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			home := t.TempDir()
			config := "version: 1\nendpoints:\n  - {name: storefront, url: https://shop.example.com, upstream: 3000}\n  - {name: stock, url: tcp://:20022, upstream: 22}\n"
			check(t, os.WriteFile(filepath.Join(home, "culvert.yml"), []byte(config), 0o600))
			x := startTmux(t, home, nil, [2]string{"100", "30"})
			x.keys("cd; clear", "Enter")
			exec, rest, _ := strings.Cut(begin, "; ")
			x.keys(exec, "Enter")
			x.keys(rest+"; clear; echo SOUR''CED", "Enter")
			x.waitFor("SOURCED\n", "READY")
			for _, c := range []struct{ typed, shown string }{
				{"culvert sta", "status"},
				{"culvert start stor", "culvert start storefront"},
				{"culvert start --con", "culvert start --config"},
				{"culvert http --trans", "culvert http --transport"},
			} {
				x.run("send-keys", "-l", c.typed)
				x.waitFor(c.typed)
				x.keys("Tab", "Tab")
				x.waitFor(c.shown)
				x.keys("C-e", "C-u")
				x.waitUntil("an empty line", func(s string) bool { return strings.Contains("\n"+s, "\nREADY\n") })
				x.keys("clear", "Enter")
				x.waitUntil("an empty screen", func(s string) bool { return strings.TrimSpace(s) == "READY" })
			}
		})
	}
}
