package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// subject is a running tunnel.
type subject struct {
	name      string
	address   string // for visitors
	processes []*exec.Cmd
}

func (s *subject) stop() {
	for _, p := range s.processes {
		_ = p.Process.Signal(syscall.SIGKILL)
		_ = p.Wait()
	}
}

// cpu is the processor time that the tunnel's processes have used.
func (s *subject) cpu() time.Duration {
	total := time.Duration(0)
	for _, p := range s.processes {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
		if err != nil {
			continue
		}
		// proc(5): the command's name may hold anything, so fields count from its end;
		// utime and stime are the 14th and 15th, in hundredths of seconds.
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		for _, f := range fields[11:13] {
			n, _ := strconv.ParseInt(f, 10, 64)
			total += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return total
}

// spawn starts a process of the subject.
func (s *subject) spawn(ctx context.Context, env []string, binary string, args ...string) (io.Reader, error) {
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), env...)
	out, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	_ = w.Close()
	s.processes = append(s.processes, cmd)
	return out, nil
}

// start starts a tunnel to the upstream for each binary, and for frp if it is there.
func start(ctx context.Context, dir string, binaries []string, upstream string) ([]*subject, error) {
	var all []*subject
	for i, b := range binaries {
		name := "culvert"
		if len(binaries) > 1 {
			name = filepath.Base(b)
		}
		s := &subject{name: name}
		all = append(all, s)
		if err := startCulvert(ctx, s, b, filepath.Join(dir, strconv.Itoa(i)), 23100+100*i, upstream); err != nil {
			return all, fmt.Errorf("start %s: %w", b, err)
		}
	}
	server, err := exec.LookPath("frps")
	client, err2 := exec.LookPath("frpc")
	if err != nil || err2 != nil {
		return all, nil //nolint:nilerr // no rival here
	}
	s := &subject{name: "frp"}
	all = append(all, s)
	return all, startFRP(ctx, s, server, client, dir, upstream)
}

func startCulvert(ctx context.Context, s *subject, binary, dir string, ports int, upstream string) error {
	out, err := s.spawn(ctx, nil, binary, "server", "--data", dir, "--http", "off", "--https", "127.0.0.1:0", "--admin", "off",
		"--tcp-host", "127.0.0.1", "--tcp-ports", fmt.Sprintf("%d-%d", ports, ports+99), "--log-format", "json")
	if err != nil {
		return err
	}
	lines := follow(out)
	ready, err := lines.find("server ready")
	if err != nil {
		return err
	}
	token, err := lines.token()
	if err != nil {
		return err
	}
	out, err = s.spawn(ctx, []string{"CULVERT_TOKEN=" + token}, binary, "tcp", upstream, "--server", ready["https"].(string),
		"--state", dir+"-agent", "--log-format", "json")
	if err != nil {
		return err
	}
	online, err := follow(out).find("endpoint online")
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(strings.TrimPrefix(online["url"].(string), "tcp://"))
	s.address = "127.0.0.1:" + port
	return err
}

// log is the output of a process.
type log struct{ lines <-chan string }

func follow(r io.Reader) log {
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for scan := bufio.NewScanner(r); scan.Scan(); {
			select {
			case lines <- scan.Text():
			default: // nobody reads any more
			}
		}
	}()
	return log{lines}
}

// find waits for the line with that message.
func (l log) find(msg string) (map[string]any, error) {
	timeout := time.After(10 * time.Second)
	var seen []string
	for {
		select {
		case line, ok := <-l.lines:
			var m map[string]any
			if json.Unmarshal([]byte(line), &m) == nil && m["msg"] == msg {
				return m, nil
			}
			if seen = append(seen, line); !ok {
				return nil, fmt.Errorf("it ended: %s", strings.Join(seen, "\n"))
			}
		case <-timeout:
			return nil, fmt.Errorf("no %q in time: %s", msg, strings.Join(seen, "\n"))
		}
	}
}

// token waits for the first token.
func (l log) token() (string, error) {
	timeout := time.After(10 * time.Second)
	for {
		select {
		case line := <-l.lines:
			if _, after, ok := strings.Cut(line, "CULVERT_TOKEN="); ok {
				return strings.Fields(after)[0], nil
			}
		case <-timeout:
			return "", fmt.Errorf("no token in time")
		}
	}
}

// startFRP starts frp with its defaults: TLS to the server, one connection with
// Yamux.
func startFRP(ctx context.Context, s *subject, server, client, dir, upstream string) error {
	_, port, err := net.SplitHostPort(upstream)
	if err != nil {
		return err
	}
	const bind, remote = 27100, 27101
	serverFile, clientFile := filepath.Join(dir, "frps.toml"), filepath.Join(dir, "frpc.toml")
	if err := os.WriteFile(serverFile, fmt.Appendf(nil, "bindAddr = \"127.0.0.1\"\nbindPort = %d\n", bind), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(clientFile, fmt.Appendf(nil, `serverAddr = "127.0.0.1"
serverPort = %d
[[proxies]]
name = "bench"
type = "tcp"
localIP = "127.0.0.1"
localPort = %s
remotePort = %d
`, bind, port, remote), 0o600); err != nil {
		return err
	}
	out, err := s.spawn(ctx, nil, server, "-c", serverFile)
	if err != nil {
		return err
	}
	follow(out)
	if err := await(fmt.Sprintf("127.0.0.1:%d", bind)); err != nil {
		return fmt.Errorf("start frps: %w", err)
	}
	if out, err = s.spawn(ctx, nil, client, "-c", clientFile); err != nil {
		return err
	}
	follow(out)
	s.address = fmt.Sprintf("127.0.0.1:%d", remote)
	if err := await(s.address); err != nil {
		return fmt.Errorf("start frpc: %w", err)
	}
	return nil
}

// await waits until somebody listens on address.
func await(address string) error {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			return c.Close()
		}
		if time.Now().After(end) {
			return err
		}
	}
}
