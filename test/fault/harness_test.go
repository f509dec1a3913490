// Package fault breaks what can break between visitor, server, agent and upstream
// while traffic is under way, and looks at every byte of it.
package fault

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/test/harness"
)

// How hard things are tried. The defaults are for make test.
var (
	cuts     = flag.Int("cuts", 40, "forced cuts of links under traffic")
	kills    = flag.Int("kills", 10, "kills of the server")
	agents   = flag.Int("agents", 200, "agents that come back to a restarted server at once")
	upgrades = flag.Int("upgrades", 3, "servers that take over from each other")
	total    = flag.Int64("total", 256<<20, "bytes to be transferred each way under cuts, at least")
	outage   = flag.Duration("outage", 8*time.Second, "how long the store is away")
	clocks   = flag.Bool("clocks", false, "build a culvert whose clock can be set, which takes a minute")
	soak     = flag.Duration("soak", 5*time.Second, "how long TestSoak takes")
)

var culvert string

func TestMain(m *testing.M) { harness.Main(m, &culvert) }

// patience bounds every wait for something that must happen.
const patience = time.Minute

func check(t *testing.T, err error) { t.Helper(); harness.Check(t, err) }

// process is a running culvert.
type process struct {
	*harness.Process
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// start runs culvert in an environment of its own. within, if not empty, is a command
// that runs it, such as ip netns exec.
func start(t *testing.T, within []string, home string, env []string, args ...string) *process {
	t.Helper()
	all := append(append(append([]string(nil), within...), culvert), args...)
	p := harness.Start(t, patience, exec.Command(all[0], all[1:]...), append([]string{
		"HOME=" + home, "PATH=" + os.Getenv("PATH"), "CULVERT_LOG_FORMAT=json", "CULVERT_LOG_LEVEL=info",
	}, env...)...)
	return &process{p, t, p.Cmd, p.Done}
}

func (p *process) output() string { return p.Stdout() + p.Stderr() }

// wait waits for a log line with that message, from line number `from` on, and returns
// it and the number of the one after it.
func (p *process) wait(from int, msg string) (map[string]any, int) {
	p.t.Helper()
	return p.Line(from, msg, says(msg))
}

// count is how many log lines have that message.
func (p *process) count(msg string) int { return p.Count(says(msg)) }

func says(msg string) func(map[string]any) bool {
	return func(l map[string]any) bool { return l["msg"] == msg }
}

func (p *process) signal(s os.Signal) { p.Signal(s) }

func (p *process) kill() { p.Kill() }

// descriptors is how many the process has open.
func (p *process) descriptors() int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	check(p.t, err)
	return len(entries)
}

// server is a running server, which can be started again on the same addresses.
type server struct {
	*process
	within      []string
	home        string
	http, https string
	token       string
	args        []string
	listening   int // sockets that it has without visitors and agents
}

// startServer runs a server; host is the address that it listens on.
func startServer(t *testing.T, within []string, host string, extra ...string) *server {
	t.Helper()
	s := &server{home: t.TempDir(), within: within}
	s.args = append([]string{
		"server", "--domain", "localhost", "--admin", "off", "--tcp-host", host,
		"--tcp-ports", harness.Ports(20), "--data", s.home,
	}, extra...)
	s.run(t, host+":0", host+":0")
	token, err := exec.Command(culvert, "token", "create", "--data", s.home).Output()
	check(t, err)
	s.token = strings.TrimSpace(string(token))
	return s
}

func (s *server) run(t *testing.T, http, https string) {
	t.Helper()
	s.process = start(t, s.within, s.home, nil, append(s.args, "--http", http, "--https", https)...)
	l, _ := s.wait(0, "server ready")
	s.http, s.https = l["http"].(string), l["https"].(string)
	s.listening = 0
	_ = s.connections()
}

// restart runs the server again on the same addresses.
func (s *server) restart() {
	s.t.Helper()
	s.run(s.t, s.http, s.https)
}

// agent runs an agent that dials the server at that address, and waits for its
// endpoint's URL.
func (s *server) agent(home, address string, args ...string) (*process, string) {
	s.t.Helper()
	p := start(s.t, s.within, home, []string{"CULVERT_TOKEN=" + s.token, "CULVERT_SERVER=" + address, "CULVERT_API=off"}, args...)
	l, _ := p.wait(0, "endpoint online")
	return p, l["url"].(string)
}

// visitorAddress is where the visitors of a URL connect to.
func (s *server) visitorAddress(url string) string {
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(url, "tcp://"))
	host, _, _ := net.SplitHostPort(s.http)
	return net.JoinHostPort(host, port)
}

// host is the host of an HTTP URL.
func host(url string) string {
	_, rest, _ := strings.Cut(url, "://")
	name, _, _ := strings.Cut(rest, ":")
	return name
}

// stopFor stops the process for so long.
func (p *process) stopFor(d time.Duration) {
	p.signal(syscall.SIGSTOP)
	<-time.After(d)
	p.signal(syscall.SIGCONT)
}
