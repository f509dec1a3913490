package harness

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is a running command, what it prints, and its lines of JSON logs.
type Process struct {
	Cmd  *exec.Cmd
	Done chan struct{} // closed when it has ended
	Code int           // after Done

	t        testing.TB
	patience time.Duration

	mu      sync.Mutex
	stdout  bytes.Buffer
	stderr  bytes.Buffer
	lines   []map[string]any
	changed chan struct{}
}

// Start runs cmd with env as its whole environment until the test ends, which fails if the
// process panics or races. patience bounds every wait for something that must happen.
func Start(t testing.TB, patience time.Duration, cmd *exec.Cmd, env ...string) *Process {
	t.Helper()
	p := &Process{t: t, patience: patience, Cmd: cmd, Done: make(chan struct{}), changed: make(chan struct{})}
	cmd.Env = env
	stdout, err := cmd.StdoutPipe()
	Check(t, err)
	stderr, err := cmd.StderrPipe()
	Check(t, err)
	Check(t, cmd.Start())
	var readers sync.WaitGroup
	readers.Go(func() { p.read(stdout, &p.stdout) })
	readers.Go(func() { p.read(stderr, &p.stderr) })
	go func() {
		readers.Wait()
		err := cmd.Wait()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			p.Code = exit.ExitCode()
		}
		close(p.Done)
	}()
	t.Cleanup(func() {
		p.Kill()
		if s := p.Stderr(); strings.Contains(s, "DATA RACE") || strings.Contains(s, "panic:") {
			t.Errorf("%v\n%s", cmd, s)
		}
		if t.Failed() {
			t.Logf("%v\n%s%s", cmd, end(p.Stdout()), end(p.Stderr()))
		}
	})
	return p
}

// end is the end of a long text.
func end(s string) string { return s[max(0, len(s)-64<<10):] }

func (p *Process) read(r io.Reader, into *bytes.Buffer) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var l map[string]any
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

// Stdout is what it has printed so far.
func (p *Process) Stdout() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stdout.String()
}

// Stderr is what it has printed there so far.
func (p *Process) Stderr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

// Count returns how many log lines fit.
func (p *Process) Count(fits func(map[string]any) bool) int {
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

// Line waits for a log line that fits, from line number `from` on, and returns it and the
// number of the one after it.
func (p *Process) Line(from int, what string, fits func(map[string]any) bool) (map[string]any, int) {
	p.t.Helper()
	var found map[string]any
	p.until(what, func() bool {
		for ; from < len(p.lines); from++ {
			if fits(p.lines[from]) {
				found = p.lines[from]
				from++
				return true
			}
		}
		return false
	})
	return found, from
}

// Prints waits until stdout holds s.
func (p *Process) Prints(s string) {
	p.t.Helper()
	p.until(s, func() bool { return strings.Contains(p.stdout.String(), s) })
}

// until waits until has is true, which is asked with mu held, after each line.
func (p *Process) until(what string, has func() bool) {
	p.t.Helper()
	timeout := time.NewTimer(p.patience)
	defer timeout.Stop()
	ended := false
	for {
		p.mu.Lock()
		changed, ok := p.changed, has()
		p.mu.Unlock()
		if ok {
			return
		}
		if ended {
			p.t.Fatalf("process ended with %d without: %s", p.Code, what)
		}
		select {
		case <-changed:
		case <-p.Done:
			ended = true
		case <-timeout.C:
			p.t.Fatalf("not printed in time: %s", what)
		}
	}
}

// Signal sends a signal.
func (p *Process) Signal(s os.Signal) { _ = p.Cmd.Process.Signal(s) }

// Kill ends the process, and returns when it has ended.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.Done
}

// Exit waits for the end and returns the exit code.
func (p *Process) Exit() int {
	p.t.Helper()
	select {
	case <-p.Done:
		return p.Code
	case <-time.After(p.patience):
		p.t.Fatal("process did not end in time")
		return -1
	}
}
