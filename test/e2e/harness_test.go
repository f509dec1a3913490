// Package e2e runs the built binary, server and agents as processes of their own,
// and visits them with clients that are not ours.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "culvert-e2e-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "culvert")
	args := []string{"build", "-o", binary}
	if os.Getenv("CULVERT_TEST_RACE") != "" {
		args = append(args, "-race") // what the processes race on shows in their exit codes and on stderr
	}
	out, err := exec.Command("go", append(args, "../../cmd/culvert")...).CombinedOutput()
	if err != nil {
		panic(fmt.Sprintf("build culvert: %v\n%s", err, out))
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// patience bounds every wait for something that must happen.
const patience = 20 * time.Second

// logLine is a line of JSON logs.
type logLine map[string]any

func (l logLine) str(key string) string { s, _ := l[key].(string); return s }

// process is a running culvert.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	code int           // after done

	mu      sync.Mutex
	stdout  bytes.Buffer
	stderr  bytes.Buffer
	lines   []logLine
	changed chan struct{}
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

func startCommand(t *testing.T, home string, env []string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, done: make(chan struct{}), changed: make(chan struct{})}
	p.cmd.Env = append([]string{"HOME=" + home, "PATH=" + filepath.Dir(binary) + ":" + os.Getenv("PATH"), "CULVERT_LOG_FORMAT=json"}, env...)
	stdout, err := p.cmd.StdoutPipe()
	check(t, err)
	stderr, err := p.cmd.StderrPipe()
	check(t, err)
	check(t, p.cmd.Start())
	var readers sync.WaitGroup
	readers.Go(func() { p.read(stdout, &p.stdout) })
	readers.Go(func() { p.read(stderr, &p.stderr) })
	go func() {
		readers.Wait()
		err := p.cmd.Wait()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			p.code = exit.ExitCode()
		}
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if s := p.errors(); strings.Contains(s, "DATA RACE") || strings.Contains(s, "panic:") {
			t.Errorf("%v\n%s", cmd, s)
		}
		if t.Failed() {
			t.Logf("%v\n%s%s", cmd, p.out(), p.errors())
		}
	})
	return p
}

func (p *process) read(r io.Reader, into *bytes.Buffer) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var l logLine
		parsed := json.Unmarshal(s.Bytes(), &l) == nil
		p.mu.Lock()
		into.Write(s.Bytes())
		into.WriteByte('\n')
		if parsed {
			p.lines = append(p.lines, l)
		}
		close(p.changed)
		p.changed = make(chan struct{})
		p.mu.Unlock()
	}
}

func (p *process) out() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stdout.String()
}

func (p *process) errors() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

// count returns how many log lines fit.
func (p *process) count(fits func(logLine) bool) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, l := range p.lines {
		if fits(l) {
			n++
		}
	}
	return n
}

// wait waits for a log line that fits, from line number `from` on, and returns it
// and the number of the one after it.
func (p *process) wait(from int, what string, fits func(logLine) bool) (logLine, int) {
	p.t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	ended := false
	for {
		p.mu.Lock()
		changed := p.changed
		for i := from; i < len(p.lines); i++ {
			if fits(p.lines[i]) {
				l := p.lines[i]
				p.mu.Unlock()
				return l, i + 1
			}
		}
		p.mu.Unlock()
		if ended {
			p.t.Fatalf("process ended with %d without: %s", p.code, what)
		}
		select {
		case <-changed:
		case <-p.done:
			ended = true
		case <-timeout.C:
			p.t.Fatalf("no log line in time: %s", what)
		}
	}
}

func msg(m string) func(logLine) bool {
	return func(l logLine) bool { return l.str("msg") == m }
}

// waitOut waits until stdout holds s.
func (p *process) waitOut(s string) {
	p.t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		p.mu.Lock()
		changed, has := p.changed, strings.Contains(p.stdout.String(), s)
		p.mu.Unlock()
		if has {
			return
		}
		select {
		case <-changed:
		case <-timeout.C:
			p.t.Fatalf("%q not printed in time", s)
		}
	}
}

func (p *process) signal(s os.Signal) { _ = p.cmd.Process.Signal(s) }

func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// exit waits for the end and returns the exit code.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.code
	case <-time.After(patience):
		p.t.Fatal("process did not end in time")
		return -1
	}
}

// node is a running server.
type node struct {
	*process
	home, data  string
	http, https string // addresses
	token       string
	args        []string
}

// Each server of the run gets 50 ports for tcp endpoints, below the ephemeral ones.
var nextPorts atomic.Int64

// startServer runs a server on free ports.
func startServer(t *testing.T, extra ...string) *node {
	t.Helper()
	n := &node{home: t.TempDir()}
	n.data = filepath.Join(n.home, "da ta")
	first := 20000 + (int64(os.Getpid())*50+nextPorts.Add(50))%12000
	n.args = append([]string{
		"server", "--domain", "localhost", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0",
		"--tcp-host", "127.0.0.1", "--tcp-ports", fmt.Sprintf("%d-%d", first, first+49), "--data", n.data, "--log-level", "debug",
	}, extra...)
	n.process = start(t, n.home, nil, n.args...)
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
	n.http, n.https = l.str("http"), l.str("https")
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
	n.process = start(n.t, n.home, nil, args...)
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

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls until ok, for what shows no event.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("not in time: %s", what)
		}
	}
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
