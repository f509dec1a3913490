// Package e2e runs the built binary, server and agents as processes of their own,
// and visits them with clients that are not ours.
package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/test/harness"
)

var binary string

func TestMain(m *testing.M) { harness.Main(m, &binary) }

// patience bounds every wait for something that must happen.
const patience = 20 * time.Second

// logLine is a line of JSON logs.
type logLine map[string]any

func (l logLine) str(key string) string { s, _ := l[key].(string); return s }

// process is a running culvert.
type process struct {
	*harness.Process
	t   *testing.T
	cmd *exec.Cmd
}

// start runs culvert with args in an environment of its own below home.
func start(t *testing.T, home string, env []string, args ...string) *process {
	t.Helper()
	return startCommand(t, home, env, exec.Command(binary, args...))
}

// startShell runs a line of shell likewise, in home, with culvert in its path.
func startShell(t *testing.T, home string, env []string, line string) *process {
	t.Helper()
	cmd := exec.Command("sh", "-c", line)
	cmd.Dir = home
	return startCommand(t, home, env, cmd)
}

// transportVariable has agents come by a transport; the only variable that they inherit.
const transportVariable = "CULVERT_TRANSPORT"

func startCommand(t *testing.T, home string, env []string, cmd *exec.Cmd) *process {
	t.Helper()
	if by := os.Getenv(transportVariable); by != "" {
		env = append([]string{transportVariable + "=" + by}, env...)
	}
	return &process{
		harness.Start(t, patience, cmd, append([]string{
			"HOME=" + home, "PATH=" + filepath.Dir(binary) + ":" + os.Getenv("PATH"), "CULVERT_LOG_FORMAT=json",
		}, env...)...), t, cmd,
	}
}

func (p *process) out() string    { return p.Stdout() }
func (p *process) errors() string { return p.Stderr() }

// count returns how many log lines fit.
func (p *process) count(fits func(logLine) bool) int {
	return p.Count(func(l map[string]any) bool { return fits(l) })
}

// wait waits for a log line that fits, from line number `from` on, and returns it
// and the number of the one after it.
func (p *process) wait(from int, what string, fits func(logLine) bool) (logLine, int) {
	p.t.Helper()
	return p.Line(from, what, func(l map[string]any) bool { return fits(l) })
}

func msg(m string) func(logLine) bool {
	return func(l logLine) bool { return l.str("msg") == m }
}

// waitOut waits until stdout holds s.
func (p *process) waitOut(s string) { p.t.Helper(); p.Prints(s) }

func (p *process) signal(s os.Signal) { p.Signal(s) }

func (p *process) kill() { p.Kill() }

// exit waits for the end and returns the exit code.
func (p *process) exit() int { p.t.Helper(); return p.Exit() }

// node is a running server.
type node struct {
	*process
	home, data  string
	http, https string // addresses
	token       string
	args, env   []string
}

// startServer runs a server on free ports.
func startServer(t *testing.T, extra ...string) *node {
	t.Helper()
	return startServerIn(t, nil, extra...)
}

// startServerIn runs one in an environment.
func startServerIn(t *testing.T, env []string, extra ...string) *node {
	t.Helper()
	n := &node{home: t.TempDir(), env: env}
	n.data = filepath.Join(n.home, "da ta")
	ports := harness.Ports(50)
	n.args = append([]string{
		"server", "--domain", "localhost", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0",
		"--tcp-host", "127.0.0.1", "--tcp-ports", ports,
		"--udp-ports", ports, "--data", n.data, "--log-level", "debug",
	}, extra...)
	n.process = start(t, n.home, n.env, n.args...)
	n.ready()
	n.waitOut("The token is not shown again")
	for f := range strings.FieldsSeq(n.out()) {
		if v, ok := strings.CutPrefix(f, "CULVERT_TOKEN="); ok {
			n.token = v
		}
	}
	return n
}

func (n *node) ready() {
	n.t.Helper()
	l, _ := n.wait(0, "server ready", msg("server ready"))
	plain, secure := l.str("http"), l.str("https")
	if n.http != plain || n.https != secure { // visitors may be reading them while a successor comes
		n.http, n.https = plain, secure
	}
}

// cli runs a command of the server's user to its end.
func (n *node) cli(args ...string) string {
	n.t.Helper()
	cmd := exec.CommandContext(n.t.Context(), binary, args...)
	cmd.Env = []string{"HOME=" + n.home}
	out, err := cmd.CombinedOutput()
	if err != nil {
		n.t.Fatalf("culvert %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// restart runs the server again on the same addresses and data.
func (n *node) restart() {
	n.t.Helper()
	args := append([]string(nil), n.args...)
	for i, a := range args {
		switch a {
		case "--http":
			args[i+1] = n.http
		case "--https":
			args[i+1] = n.https
		}
	}
	n.process = start(n.t, n.home, n.env, args...)
	n.ready()
}

// agent runs an agent command against n, as the agent that lives in home.
func (n *node) agent(home string, args ...string) *process {
	n.t.Helper()
	return start(n.t, home, []string{"CULVERT_TOKEN=" + n.token, "CULVERT_SERVER=" + n.https, "CULVERT_API=off", "CULVERT_LOG_LEVEL=debug"}, args...)
}

// publish runs an agent and waits for its first endpoint's URL.
func (n *node) publish(args ...string) (*process, string) {
	n.t.Helper()
	p := n.agent(n.t.TempDir(), args...)
	l, _ := p.wait(0, "endpoint online", msg("endpoint online"))
	return p, l.str("url")
}

// tcpAddress is where a tcp:// URL leads to here.
func tcpAddress(url string) string {
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(url, "tcp://"))
	return "127.0.0.1:" + port
}

// visitor is an HTTP client that reaches n's names and trusts its CA.
func (n *node) visitor(h2 bool) *http.Client {
	n.t.Helper()
	pem, err := os.ReadFile(filepath.Join(n.data, "ca.pem"))
	check(n.t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			to := n.https
			if strings.HasSuffix(addr, n.http[strings.LastIndex(n.http, ":"):]) {
				to = n.http
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", to)
		},
		TLSClientConfig:       &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		Protocols:             new(http.Protocols),
		ExpectContinueTimeout: 5 * time.Second,
	}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetHTTP2(h2)
	n.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// curl runs curl so that it reaches n's names and trusts its CA.
func (n *node) curl(args ...string) string {
	n.t.Helper()
	out, err := exec.CommandContext(n.t.Context(), "curl", append([]string{"-sS", "--max-time", "60", "--cacert", filepath.Join(n.data, "ca.pem")}, args...)...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("curl %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// plainURL is the URL of the plain port for an https one.
func (n *node) plainURL(url string) string {
	host, _, _ := strings.Cut(strings.TrimPrefix(url, "https://"), ":")
	return "http://" + host + n.http[strings.LastIndex(n.http, ":"):]
}

// serveTCP runs an upstream that handles each connection in a goroutine.
func serveTCP(t *testing.T, handle func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		conns.Wait()
	})
	return l.Addr().String()
}

func dial(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, patience)
	check(t, err)
	t.Cleanup(func() { _ = c.Close() })
	check(t, c.SetDeadline(time.Now().Add(2*time.Minute)))
	return c.(*net.TCPConn)
}

func check(t *testing.T, err error) { t.Helper(); harness.Check(t, err) }

// eventually polls until ok, for what shows no event.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	harness.Eventually(t, what, ok)
}

// curlPlain runs curl without a CA.
func (n *node) curlPlain(url string) string {
	n.t.Helper()
	out, err := exec.CommandContext(n.t.Context(), "curl", "-sS", "--max-time", "20", url).CombinedOutput()
	if err != nil {
		n.t.Fatalf("curl %s: %v\n%s", url, err, out)
	}
	return string(out)
}
