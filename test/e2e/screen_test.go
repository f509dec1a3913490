package e2e

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tmux is a real terminal that a command runs in.
type tmux struct {
	t      *testing.T
	socket string
}

// startTmux runs a shell in a terminal of a size.
func startTmux(t *testing.T, home string, env []string, size [2]string) *tmux {
	t.Helper()
	x := &tmux{t: t, socket: filepath.Join(t.TempDir(), "tmux")}
	cmd := exec.CommandContext(t.Context(), "tmux", "-S", x.socket, "-f", "/dev/null", "new-session", "-d", "-x", size[0], "-y", size[1], "env", "-u", "TMUX", "sh")
	cmd.Env = append([]string{"HOME=" + home, "PATH=" + filepath.Dir(binary) + ":/usr/bin:/bin", "PS1=READY ", "TERM=xterm-256color", "LC_ALL=C.UTF-8"}, env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("tmux: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the terminal at the end:\n%s", x.screen())
		}
		_ = exec.Command("tmux", "-S", x.socket, "kill-server").Run()
	})
	x.waitFor("READY")
	return x
}

func (x *tmux) run(args ...string) string {
	out, _ := exec.Command("tmux", append([]string{"-S", x.socket}, args...)...).CombinedOutput()
	return string(out)
}

func (x *tmux) screen() string { return x.run("capture-pane", "-p") }

func (x *tmux) keys(keys ...string) { x.run(append([]string{"send-keys"}, keys...)...) }

// waitFor waits until the terminal shows all of these.
func (x *tmux) waitFor(texts ...string) string {
	x.t.Helper()
	return x.waitUntil(strings.Join(texts, ", "), func(s string) bool {
		for _, text := range texts {
			if !strings.Contains(s, text) {
				return false
			}
		}
		return true
	})
}

// terminate sends SIGTERM to what the shell runs.
func (x *tmux) terminate() {
	x.t.Helper()
	out, err := exec.Command("pgrep", "-P", strings.TrimSpace(x.run("display-message", "-p", "#{pane_pid}"))).Output()
	check(x.t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	check(x.t, err)
	p, err := os.FindProcess(pid)
	check(x.t, err)
	check(x.t, p.Signal(syscall.SIGTERM))
}

func (x *tmux) waitUntil(what string, fits func(string) bool) string {
	x.t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-ticker.C {
		if s := x.screen(); fits(s) {
			return s
		}
	}
	x.t.Fatalf("the terminal does not show: %s", what)
	return ""
}

// TestScreen: in a real terminal the agent shows what there is to know, through a
// restart of the server and changes of the window, and gives the terminal back.
func TestScreen(t *testing.T) {
	n := startServer(t)
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/missing" {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, "hello")
	}))
	t.Cleanup(up.Close)
	env := []string{"CULVERT_TOKEN=" + n.token, "CULVERT_SERVER=" + n.https, "CULVERT_API=127.0.0.1:0"}
	x := startTmux(t, t.TempDir(), env, [2]string{"100", "30"})
	upstream := strings.TrimPrefix(up.URL, "http://")
	x.keys("culvert http "+upstream+" --name app; echo ended $?", "Enter")
	url := "https://app.localhost:" + n.https[strings.LastIndex(n.https, ":")+1:]
	x.waitFor("● online", url, upstream, "TLS", "None yet.", "http://127.0.0.1:")
	// A visitor is carried, and tries to write over the screen.
	n.curl("-g", "-o", "/dev/null", url+"/%1b[2J-orders?x=1")
	n.curl("-o", "/dev/null", url+"/missing", "-X", "DELETE")
	x.waitFor("● online", "✓ up", "200  GET     /%1b[2J-orders?x=1", "404  DELETE  /missing", "2 requests")
	x.keys("q")
	x.waitFor("▀▀", url)
	x.keys("?")
	x.waitFor("copy the chosen URL")
	x.keys("Escape")
	x.run("resize-window", "-x", "40", "-y", "10")
	small := x.waitUntil("a frame of 40 × 10", func(s string) bool { return strings.Count(s, "\n") == 10 && strings.Contains(s, "keys") })
	if !strings.Contains(small, "online") || !strings.Contains(small, url) || !strings.Contains(small, "404") {
		t.Errorf("40 × 10:\n%s", small)
	}
	x.run("resize-window", "-x", "100", "-y", "30")
	x.waitFor("Inspector")

	n.kill()
	x.waitFor("● reconnecting", "Connection lost at")
	n.restart()
	x.waitFor("● online", url)
	x.keys("C-c")
	x.waitFor("ended 0")
	x.keys("stty -a | tr ' ' '\\n' | grep -cx -e icanon -e echo", "Enter")
	x.waitUntil("a terminal as it was", func(s string) bool { return strings.Contains(s, "\n2\n") })
	if s := x.screen(); strings.Contains(s, "online") {
		t.Errorf("left on the terminal:\n%s", s)
	}
}

// TestScreenDrains: Ctrl-C shows who may finish, the next one ends it; SIGTERM twice does
// the same, and the terminal is as it was each time.
func TestScreenDrains(t *testing.T) {
	n := startServer(t)
	up := serveTCP(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	env := []string{"CULVERT_TOKEN=" + n.token, "CULVERT_SERVER=" + n.https, "CULVERT_API=off"}
	x := startTmux(t, t.TempDir(), env, [2]string{"100", "30"})
	for _, stop := range []func(){
		func() { x.keys("C-c") },
		func() { x.terminate() },
	} {
		x.keys("clear; culvert tcp "+up+"; echo ended $?", "Enter")
		shown := x.waitFor("● online", "tcp://")
		at := strings.Index(shown, "tcp://")
		visitor := dial(t, tcpAddress(strings.Fields(shown[at:])[0]))
		_, err := io.WriteString(visitor, "x")
		check(t, err)
		_, err = io.ReadFull(visitor, make([]byte, 1))
		check(t, err)
		stop()
		x.waitFor("● stopping", "1 connection may finish", "stop at once")
		stop()
		x.waitFor("ended 1")
		x.keys("clear; stty -a | tr ' ' '\\n' | grep -cx -e icanon -e echo", "Enter")
		x.waitUntil("a terminal as it was", func(s string) bool { return strings.HasPrefix(s, "2\n") })
		_ = visitor.Close()
	}
}

// TestScreenOff: where nobody wants a screen, there are log lines.
func TestScreenOff(t *testing.T) {
	n := startServer(t)
	for _, how := range []string{"TERM=dumb culvert", "CULVERT_SCREEN=off culvert", "CULVERT_LOG_FORMAT=json culvert"} {
		x := startTmux(t, t.TempDir(), []string{"CULVERT_TOKEN=" + n.token, "CULVERT_SERVER=" + n.https, "CULVERT_API=off"}, [2]string{"100", "30"})
		x.keys(how+" tcp 9; echo ended $?", "Enter")
		x.waitFor("endpoint online")
		x.keys("C-c")
		x.waitFor("agent draining", "ended 0")
	}
}
