package harness

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Etcd is a cluster of Debian's etcd, whose members can be killed and started again on
// the data they had.
type Etcd struct {
	URLs []string

	t       testing.TB
	args    [][]string
	members []*exec.Cmd
}

// EtcdConfig says how an etcd runs; the zero value is one member on loopback, in the clear.
type EtcdConfig struct {
	Members int      // default 1
	Scheme  string   // of what clients use; default "http"
	Host    string   // default "127.0.0.1"
	Within  []string // the command that runs it, in a network namespace
	Args    []string // more of them
}

// StartEtcd runs an etcd until the test ends. It does not wait until that is ready.
func StartEtcd(t testing.TB, cfg EtcdConfig) *Etcd {
	t.Helper()
	cfg.Members = cmp.Or(cfg.Members, 1)
	cfg.Scheme, cfg.Host = cmp.Or(cfg.Scheme, "http"), cmp.Or(cfg.Host, "127.0.0.1")
	e := &Etcd{t: t, members: make([]*exec.Cmd, cfg.Members)}
	var peers, names []string
	for i := range cfg.Members {
		e.URLs = append(e.URLs, cfg.Scheme+"://"+net.JoinHostPort(cfg.Host, FreePort(t)))
		peers = append(peers, "http://"+net.JoinHostPort(cfg.Host, FreePort(t)))
		names = append(names, fmt.Sprintf("m%d=%s", i, peers[i]))
	}
	for i := range cfg.Members {
		args := slices.Clone(cfg.Within)
		args = append(args,
			"etcd", "--name", fmt.Sprintf("m%d", i), "--data-dir", t.TempDir(),
			"--listen-client-urls", e.URLs[i], "--advertise-client-urls", e.URLs[i],
			"--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", peers[i], "--initial-cluster", strings.Join(names, ","),
			"--logger", "zap", "--log-level", "error")
		e.args = append(e.args, append(args, cfg.Args...))
		Check(t, e.start(i))
		t.Cleanup(func() { e.Kill(i) })
	}
	return e
}

// Start runs a member, which was killed.
func (e *Etcd) Start(i int) {
	if err := e.start(i); err != nil {
		e.t.Error(err)
	}
}

func (e *Etcd) start(i int) error {
	cmd := exec.Command(e.args[i][0], e.args[i][1:]...)
	if err := cmd.Start(); err != nil {
		return err
	}
	e.members[i] = cmd
	return nil
}

// Kill ends a member at once.
func (e *Etcd) Kill(i int) {
	_ = e.members[i].Process.Kill()
	_ = e.members[i].Wait()
}

// Signal tells a member something.
func (e *Etcd) Signal(i int, s os.Signal) {
	if err := e.members[i].Process.Signal(s); err != nil {
		e.t.Error(err)
	}
}
