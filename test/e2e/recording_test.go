package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/test/recording"
)

// recorder takes frames of a terminal, which a reader is to see for so long.
type recorder struct {
	*tmux
	frames []recording.Frame
}

// keep keeps what the terminal shows now.
func (r *recorder) keep(d time.Duration) {
	f := recording.Frame{Text: r.run("capture-pane", "-e", "-p"), For: d}
	var shown int
	if _, err := fmt.Sscan(r.run("display-message", "-p", "#{cursor_x} #{cursor_y} #{cursor_flag}"), &f.X, &f.Y, &shown); err != nil {
		r.t.Errorf("the cursor: %v", err)
	}
	f.NoPoint = shown == 0
	r.frames = append(r.frames, f)
}

// types enters a command, key by key.
func (r *recorder) types(command string) {
	r.t.Helper()
	for i := range command {
		r.run("send-keys", "-l", command[i:i+1])
		if typed := strings.TrimRight(command[:i+1], " "); typed != "" {
			r.waitFor("$ " + typed)
		}
		r.keep(55 * time.Millisecond)
	}
	r.keep(500 * time.Millisecond)
	r.keys("Enter")
}

// shows waits for texts, and keeps the terminal.
func (r *recorder) shows(d time.Duration, texts ...string) {
	r.t.Helper()
	r.waitFor(texts...)
	r.keep(d)
}

// TestRecording: what a newcomer sees who tries the demo, then publishes a service, all by
// the programs themselves. make pictures keeps it, for the README.
func TestRecording(t *testing.T) {
	pictures := os.Getenv("CULVERT_PICTURES")
	var more []string
	domain := "localhost"
	if pictures != "" { // in a network of its own, where all ports are free
		domain = "tunnel.example.com"
		more = []string{"--domain", domain, "--http", "127.0.0.1:80", "--https", "127.0.0.1:443", "--node", "fra-1", "--region", "eu"}
	}
	n := startServer(t, more...)
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/favicon.ico":
			w.WriteHeader(http.StatusNotFound)
		case "/hooks/payment":
			w.WriteHeader(http.StatusNoContent)
			return
		}
		_, _ = io.WriteString(w, "hello")
	}))
	if pictures != "" {
		check(t, up.Listener.Close())
		l, err := net.Listen("tcp", "127.0.0.1:3000")
		check(t, err)
		up.Listener = l
	}
	up.Start()
	t.Cleanup(up.Close)
	port := up.URL[strings.LastIndex(up.URL, ":")+1:]
	host, at := "app."+domain, n.https
	if pictures != "" {
		at = domain
	} else {
		host += at[strings.LastIndex(at, ":"):]
	}

	env := []string{"CULVERT_TOKEN=" + n.token, "CULVERT_SERVER=" + at, "CULVERT_LOG_FORMAT=text", "TMPDIR=/tmp"}
	r := &recorder{tmux: startTmux(t, t.TempDir(), env, [2]string{"104", "26"})}
	r.run("set-option", "status", "off")
	r.keys("PS1='$ '; clear", "Enter")
	r.waitUntil("a prompt alone", func(s string) bool { return strings.HasPrefix(s, "$") && strings.TrimSpace(s) == "$" })
	r.keep(time.Second)
	r.types("culvert demo")
	r.shows(6*time.Second, "Culvert demo", "hello.localhost", "tcp://", "Ctrl-C stops the demo.")
	r.keys("C-c")
	r.shows(time.Second, "Stopping.\n$")
	r.keys("clear", "Enter")
	r.waitUntil("a prompt alone", func(s string) bool { return strings.TrimSpace(s) == "$" })
	r.types("culvert http " + port + " --name app")
	r.shows(1500*time.Millisecond, "● online", "https://"+host, "None yet.", "Inspector")
	for i, visit := range [][]string{{"GET", "/"}, {"GET", "/style.css"}, {"GET", "/favicon.ico"}, {"POST", "/hooks/payment"}, {"GET", "/orders?page=2"}} {
		n.curl("-o", "/dev/null", "-X", visit[0], "https://"+host+visit[1])
		r.shows(900*time.Millisecond, visit[1], fmt.Sprintf("%d request", i+1))
	}
	still := len(r.frames) - 1
	r.keep(1500 * time.Millisecond)
	r.keys("q")
	r.shows(3*time.Second, "▀▀", "https://"+host)
	r.keys("Escape")
	r.shows(1500*time.Millisecond, "/orders", "Traffic")
	r.keys("C-c")
	r.waitUntil("a prompt", func(s string) bool { return strings.HasSuffix(strings.TrimSpace(s), "$") })
	r.keep(2 * time.Second)

	if pictures != "" {
		f, err := os.Create(filepath.Join(pictures, "terminal.svg"))
		check(t, err)
		check(t, recording.SVG(f, "A terminal: culvert demo prints URLs to try; culvert http 3000 shows its URL and the requests that come in", 104, 26, still, r.frames))
		check(t, f.Close())
	}
}
