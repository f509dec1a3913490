package cli

import (
	"fmt"
	"strings"
)

// program is what a service runs.
type program struct {
	name   string // of the service
	server bool
	user   bool   // the user's own service
	as     string // user of the machine's service; empty: root
	binary string
	config string
	placed bool // the configuration says where the state is
}

func (p program) kind() string {
	if p.server {
		return "server"
	}
	return "agent"
}

func (p program) description() string {
	if p.server {
		return "Culvert server: public URLs for services behind NAT"
	}
	return "Culvert agent: publishes services behind NAT"
}

func (p program) args() []string {
	command, flag := "start", "--state"
	if p.server {
		command, flag = "server", "--data"
	}
	args := []string{command, "--config", p.config}
	if !p.user && !p.placed {
		args = append(args, flag, "/var/lib/"+p.stateDirectory())
	}
	return args
}

// systemdUnit is the service as a unit of systemd. Exit codes 2 to 4 are those that
// another try does not heal: a wrong configuration, a refused agent, a newer run.
func (p program) systemdUnit() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("[Unit]\nDescription=%s\nDocumentation=https://github.com/culvert-tunnel/culvert", p.description())
	if !p.user {
		line("Wants=network-online.target\nAfter=network-online.target")
	}
	words := []string{unitWord(p.binary)}
	for _, a := range p.args() {
		words = append(words, unitWord(a))
	}
	line("\n[Service]\nType=exec\nExecStart=%s", strings.Join(words, " "))
	if !p.server {
		line("ExecReload=/bin/kill -HUP $MAINPID")
	}
	line("Restart=on-failure\nRestartSec=2\nRestartPreventExitStatus=2 3 4\nTimeoutStopSec=45\nLimitNOFILE=1048576\nNoNewPrivileges=yes")
	if !p.user {
		line("ProtectSystem=full\nProtectControlGroups=yes\nProtectKernelTunables=yes")
		line("StateDirectory=%s\nStateDirectoryMode=0700", p.stateDirectory())
		as := p.as
		if as == "" {
			as = "root" // written out, it makes systemd set HOME
		}
		line("User=%s", as)
		if p.as != "" && p.server {
			line("AmbientCapabilities=CAP_NET_BIND_SERVICE")
		}
	}
	target := "multi-user.target"
	if p.user {
		target = "default.target"
	}
	line("\n[Install]\nWantedBy=%s", target)
	return b.String()
}

// stateDirectory is below /var/lib.
func (p program) stateDirectory() string {
	if p.server && p.as == "" {
		return "culvert" // root's default
	}
	return p.name
}

// unitWord writes a word of a command line for systemd (systemd.service(5), COMMAND
// LINES; systemd.unit(5), SPECIFIERS).
func unitWord(s string) string {
	s = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$", "\n", `\n`).Replace(s)
	if strings.ContainsAny(s, " \t'\";") || s == "" {
		return `"` + s + `"`
	}
	return s
}
