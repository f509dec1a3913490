package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// liveAgent is an agent on a configuration file that is changed under it.
type liveAgent struct {
	*process
	t    *testing.T
	n    *node
	home string
	file string
}

// save writes the file as a careful editor does, or in place as a careless one.
func (l *liveAgent) save(inPlace bool, endpoints ...string) {
	l.t.Helper()
	text := "version: 1\nserver: " + l.n.https + "\nendpoints:\n"
	for _, e := range endpoints {
		text += "  - {" + e + "}\n"
	}
	path := l.file
	if !inPlace {
		path += "~"
	}
	check(l.t, os.WriteFile(path, []byte(text), 0o600))
	if !inPlace {
		check(l.t, os.Rename(path, l.file))
	}
}

// applied waits for the next change that is applied, from line number from on.
func (l *liveAgent) applied(from int) (logLine, int) {
	l.t.Helper()
	return l.wait(from, "configuration applied", msg("configuration applied"))
}

// reload runs culvert reload.
func (l *liveAgent) reload(args ...string) (string, int) {
	l.t.Helper()
	cmd := exec.CommandContext(l.t.Context(), binary, append([]string{"reload", "--config", l.file}, args...)...)
	cmd.Env = []string{"HOME=" + l.home}
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		l.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func endpointOnline(name string) func(logLine) bool {
	return func(l logLine) bool { return online(l) && l.str("name") == name }
}

// TestConfigurationAppliedLive: a visitor of one endpoint goes on transferring while
// everything around it changes, by every way to say that the file has changed.
func TestConfigurationAppliedLive(t *testing.T) {
	n := startServer(t)
	up := echo(t)
	other := serveTCP(t, func(c *net.TCPConn) { _, _ = io.WriteString(c, "other") })
	l := &liveAgent{t: t, n: n, home: t.TempDir()}
	l.file = filepath.Join(l.home, "culvert.yml")
	kept := "name: kept, kind: tcp, upstream: '" + up + "'"
	l.save(true, kept, "name: web, kind: http, label: web, upstream: '"+up+"'")
	l.process = n.agent(l.home, "start", "--config", l.file)
	first, _ := l.wait(0, "kept online", endpointOnline("kept"))
	_, at := l.wait(0, "web online", endpointOnline("web"))
	address := tcpAddress(first.str("url"))

	visitor := dial(t, address)
	transferred := func() {
		t.Helper()
		sent := []byte(strings.Repeat("x", 1<<20))
		go func() { _, _ = visitor.Write(sent) }()
		if _, err := io.ReadFull(visitor, make([]byte, len(sent))); err != nil {
			t.Fatalf("the visitor of an untouched endpoint was cut: %v", err)
		}
	}
	transferred()

	// Saved in place: one comes, one goes.
	l.save(true, kept, "name: more, kind: tcp, upstream: '"+other+"'")
	applied, at := l.applied(at)
	if fmt.Sprint(applied["added"], applied["removed"], applied["kept"]) != "[more] [web] 1" {
		t.Errorf("applied %v", applied)
	}
	more, at := l.wait(at, "more online", endpointOnline("more"))
	if got, err := io.ReadAll(dial(t, tcpAddress(more.str("url")))); string(got) != "other" {
		t.Errorf("%q, %v", got, err)
	}
	n.wait(0, "web given back", func(l logLine) bool {
		return l.str("msg") == "endpoint released" && strings.Contains(l.str("name"), "web")
	})
	transferred()

	// A fault changes nothing and is said once, with its place.
	l.save(false, kept, "nam: more")
	fault, at := l.wait(at, "the fault", msg("configuration not applied: all goes on as before"))
	if !strings.Contains(fault.str("error"), `culvert.yml:5:6: unknown field "nam", did you mean "name"?`) {
		t.Errorf("said %v", fault)
	}
	if out, code := l.reload(); code != 2 || !strings.Contains(out, `culvert: `+l.file+`:5:6: unknown field "nam"`) {
		t.Errorf("%d: %s", code, out)
	}
	transferred()

	// Put in place as most editors do: another upstream, the port stays.
	l.save(false, kept, "name: more, kind: tcp, upstream: '"+up+"'")
	applied, at = l.applied(at)
	if fmt.Sprint(applied["moved"], applied["kept"]) != "[more] 1" || !pingable(tcpAddress(more.str("url"))) {
		t.Errorf("applied %v", applied)
	}
	if faults := l.count(msg("configuration not applied: all goes on as before")); faults != 2 { // saved, and asked for
		t.Errorf("said %d times", faults)
	}

	// On SIGHUP, and a name that this server refuses leaves the rest alone.
	l.save(true, kept, "name: more, url: 'https://localhost', upstream: '"+up+"'")
	l.signal(syscall.SIGHUP)
	applied, at = l.applied(at)
	if fmt.Sprint(applied["rebound"]) != "[more]" {
		t.Errorf("applied %v", applied)
	}
	l.wait(at, "the refusal", func(l logLine) bool { return l.str("msg") == "endpoint refused" && l.str("code") == "name_reserved" })
	transferred()

	// By culvert reload, which tells what happened.
	l.save(true, kept, "name: more, kind: tcp, upstream: '"+other+"'")
	out, code := l.reload("--output", "json")
	var done struct{ Rebound, Kept []string }
	if err := json.Unmarshal([]byte(out), &done); code != 0 || err != nil || fmt.Sprint(done.Rebound, done.Kept) != "[more] [kept]" {
		// The file may have been seen before the command came.
		if fmt.Sprint(done.Kept) != "[kept more]" {
			t.Errorf("%d: %s", code, out)
		}
	}
	l.wait(at, "more online", endpointOnline("more"))
	transferred()

	// After the link was cut, what the file says now is served.
	n.kill()
	n.restart()
	_, at = l.wait(at, "kept online again", func(l logLine) bool { return l.str("msg") == "connected" })
	l.wait(at, "kept online again", endpointOnline("kept"))
	l.wait(at, "more online again", endpointOnline("more"))
	if !pingable(address) {
		t.Error("not back")
	}

	_ = visitor.Close()
	l.signal(syscall.SIGTERM)
	if code := l.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	left, err := filepath.Glob(filepath.Join(l.home, ".local", "state", "culvert", "*.sock*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if out, code := l.reload(); code != 1 || !strings.Contains(out, "no agent of this user runs with") {
		t.Errorf("%d: %s", code, out)
	}
}
