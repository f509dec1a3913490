package rival

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/culvert-tunnel/culvert/bench/line"
)

// Command is a process to be started.
type Command struct {
	Path string
	Args []string
	Env  []string // beyond this process's own
	// Listens, if set, is an address that the process takes connections at when it can
	// be used.
	Listens string
}

// Process is a running one. Its output is kept as far as it helps to see why it ended.
type Process struct {
	cmd   *exec.Cmd
	tail  *tail
	ended chan struct{}
}

// startTimeout bounds how long a process may take to listen.
const startTimeout = 15 * time.Second

// Start starts a process on host and waits until it can be used.
func (c Command) Start(ctx context.Context, host line.Host) (*Process, error) {
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Env = append(os.Environ(), c.Env...)
	// It must not outlive this program, whatever ends that.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := &Process{cmd: cmd, tail: &tail{}, ended: make(chan struct{})}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = host.Start(cmd)
	_ = w.Close()
	if err != nil {
		_ = r.Close()
		return nil, err
	}
	go func() {
		p.tail.follow(r)
		_ = r.Close()
		_ = cmd.Wait()
		close(p.ended)
	}()
	if c.Listens == "" {
		return p, nil
	}
	if err := p.await(ctx, host, c.Listens); err != nil {
		p.Stop()
		return nil, fmt.Errorf("%s: %w: %s", c.Path, err, lastLines(p.tail.String()))
	}
	return p, nil
}

func (p *Process) await(ctx context.Context, host line.Host, address string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		c, err := host.Dial(ctx, address)
		if err == nil {
			return c.Close()
		}
		select {
		case <-p.ended:
			return errors.New("it ended")
		case <-ctx.Done():
			return fmt.Errorf("nobody listens on %s", address)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Stop kills the process and its children and waits for its end.
func (p *Process) Stop() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.ended
}

// Find waits for a line of output that holds text.
func (p *Process) Find(ctx context.Context, text string, timeout time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		if line, ok := p.tail.find(text); ok {
			return line, nil
		}
		select {
		case <-p.ended:
			return "", fmt.Errorf("%s ended: %s", p.cmd.Path, lastLines(p.tail.String()))
		case <-ctx.Done():
			return "", fmt.Errorf("%s said no %q: %s", p.cmd.Path, text, lastLines(p.tail.String()))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// CPU is the processor time that the process and its children have used.
func (p *Process) CPU() time.Duration {
	total := time.Duration(0)
	for _, pid := range p.tree() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// proc(5): the command's name may hold anything, so fields count from its end;
		// utime and stime are the 14th and 15th, in hundredths of seconds.
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		for _, f := range fields[11:13] {
			n, _ := strconv.ParseInt(f, 10, 64)
			total += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return total
}

// Memory of a process and its children, in bytes, what they share with each other or with
// other processes in proportion.
type Memory struct {
	All int64 // what is resident (Pss of proc(5))
	// Own is what they have written (Pss_Anon): all but the pages of their program, of which
	// each has the less the more processes run it.
	Own int64
}

// Memory is what the process occupies.
func (p *Process) Memory() Memory {
	var total Memory
	for _, pid := range p.tree() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue
		}
		for l := range strings.Lines(string(b)) {
			f := strings.Fields(l)
			if len(f) != 3 {
				continue
			}
			n, _ := strconv.ParseInt(f[1], 10, 64)
			switch f[0] {
			case "Pss:":
				total.All += n << 10
			case "Pss_Anon:":
				total.Own += n << 10
			}
		}
	}
	return total
}

// tree lists the process and its children: nginx and HAProxy work in those.
func (p *Process) tree() []int {
	pids := []int{p.cmd.Process.Pid}
	for i := 0; i < len(pids); i++ {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pids[i], pids[i]))
		for f := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// tail keeps the first and the last lines of an output.
type tail struct {
	mu struct {
		sync.Mutex
		lines []string
	}
}

const tailLines = 60

func (t *tail) follow(r io.Reader) {
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		t.mu.Lock()
		if len(t.mu.lines) >= tailLines {
			t.mu.lines = append(t.mu.lines[:tailLines/2], t.mu.lines[tailLines/2+1:]...)
		}
		t.mu.lines = append(t.mu.lines, scan.Text())
		t.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, r) // a line that is too long
}

func (t *tail) find(text string) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.mu.lines {
		if strings.Contains(l, text) {
			return l, true
		}
	}
	return "", false
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.mu.lines, "\n")
}

// ports finds n free ports in a row on host, below those that systems give to who dials.
func ports(ctx context.Context, host line.Host, n int) (int, error) {
	const lowest, highest = 10_000, 32_000
	for range 200 {
		first := lowest + rand.IntN(highest-lowest-n) //nolint:gosec // chance, not a secret
		if free(ctx, host, first, n) {
			return first, nil
		}
	}
	return 0, fmt.Errorf("no %d free ports in a row on %s", n, host.IP())
}

func free(ctx context.Context, host line.Host, first, n int) bool {
	for port := first; port < first+n; port++ {
		l, err := host.Listen(ctx, at(host, port))
		if err != nil {
			return false
		}
		_ = l.Close()
	}
	return true
}

// Output runs the process to its end and returns what it printed.
func (c Command) Output(ctx context.Context, host line.Host) (string, error) {
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Env = append(os.Environ(), c.Env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := host.Start(cmd); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", c.Path, err, lastLines(out.String()))
	}
	return out.String(), nil
}

// lastLines is the end of an output, where programs say what went wrong.
func lastLines(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	s = strings.Join(lines[max(0, len(lines)-3):], " / ")
	return s[:min(len(s), 500)]
}
