package fault

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/test/harness"
)

// setClock is a program's own: when it is told to, it reads by how many seconds its time of
// day is to be wrong, and answers.
const setClock = `package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func init() {
	binary, _ := os.Executable()
	path := fmt.Sprintf("%s.%d", binary, os.Getpid())
	set := make(chan os.Signal, 1)
	signal.Notify(set, syscall.SIGUSR2)
	go func() {
		for range set {
			b, _ := os.ReadFile(path)
			_, _ = fmt.Sscan(string(b), &time.WrongBy)
			_ = os.Remove(path)
		}
	}()
}
`

// buildWithClock builds culvert with a time of day that can be set for one process alone, as
// the system's would be: what is measured from one moment to another goes on as ever.
func buildWithClock(t *testing.T) string {
	t.Helper()
	where, err := exec.Command("go", "list", "-f", "{{.Dir}}", "time", "github.com/culvert-tunnel/culvert/cmd/culvert").Output()
	check(t, err)
	dirs := strings.Fields(string(where))
	before, err := os.ReadFile(filepath.Join(dirs[0], "time.go"))
	check(t, err)
	const reads = "\tsec, nsec, mono := runtimeNow()\n\tif mono == 0 {"
	if strings.Count(string(before), reads) != 1 {
		t.Fatal("package time reads the clock in a way that is not known here")
	}
	dir := t.TempDir()
	after := strings.Replace(string(before), reads, strings.Replace(reads, "\n", "\n\tsec += WrongBy\n", 1), 1) +
		"\n// WrongBy is how many seconds Now is off.\nvar WrongBy int64\n"
	check(t, os.WriteFile(filepath.Join(dir, "time.go"), []byte(after), 0o600))
	check(t, os.WriteFile(filepath.Join(dir, "clock.go"), []byte(setClock), 0o600))
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {
		filepath.Join(dirs[0], "time.go"):  filepath.Join(dir, "time.go"),
		filepath.Join(dirs[1], "clock.go"): filepath.Join(dir, "clock.go"),
	}})
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600))
	binary := filepath.Join(dir, "culvert")
	out, err := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary,
		"github.com/culvert-tunnel/culvert/cmd/culvert").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

// setClock makes the process's time of day wrong by so much.
func (p *process) setClock(by time.Duration) {
	p.t.Helper()
	path := fmt.Sprintf("%s.%d", p.cmd.Path, p.cmd.Process.Pid)
	check(p.t, os.WriteFile(path, []byte(strconv.Itoa(int(by.Seconds()))), 0o600))
	p.signal(syscall.SIGUSR2)
	harness.Eventually(p.t, "the process to take its clock", func() bool {
		_, err := os.Stat(path)
		return errors.Is(err, fs.ErrNotExist)
	})
}

// TestClocks: the clocks of server and agents are set, forwards and back, by seconds and by
// weeks, under traffic. Nobody notices; a link that is cut meanwhile is resumed, a new agent
// is served, and one whose clock says that the server's certificate is not valid yet is there
// as soon as its clock is right again.
func TestClocks(t *testing.T) {
	if !*clocks {
		t.Skip("builds everything again: -clocks, which make fault gives")
	}
	ordinary := culvert
	t.Cleanup(func() { culvert = ordinary })
	culvert = buildWithClock(t)
	s := startServer(t, nil, "127.0.0.1")
	b := newBreaker(t, s.https)
	traffic := startTraffic(t, s, b.address(), some)
	cut := func() {
		before := s.count("link resumed")
		b.cut(reset)
		resumed(t, s, before)
	}
	const day = 24 * time.Hour
	site := newWebsite(t.Context(), t)
	settings := []struct{ server, agents time.Duration }{
		{server: time.Hour},
		{server: -time.Hour / 2, agents: time.Hour / 2},
		{server: 20 * day, agents: 20 * day},
		{agents: 20 * day},
		{server: -20 * day},
		{server: 45 * time.Second, agents: -45 * time.Second},
		{},
	}
	for i, to := range settings {
		s.setClock(to.server)
		for _, a := range traffic.agents {
			a.setClock(to.agents)
		}
		<-time.After(time.Second)
		check(t, get(t.Context(), s.http, host(traffic.web)))
		cut()
		another, url := s.agent(t.TempDir(), s.https, "http", site.port(), "--no-redirect", "--name", "another-"+strconv.Itoa(i))
		check(t, get(t.Context(), s.http, host(url)))
		another.signal(syscall.SIGTERM)
		<-another.done
	}
	web := traffic.agents[1]
	before := s.count("link resumed")
	web.setClock(-365 * day)
	b.cut(reset)
	s.resumes(before + 1) // the other agent's
	<-time.After(3 * time.Second)
	if n := s.count("link resumed"); n != before+1 {
		t.Errorf("%d links resumed, by an agent too that can't trust the server", n-before)
	}
	web.setClock(0)
	resumed(t, s, before)
	traffic.stop()
	if n := s.count("agent connected"); n != len(traffic.agents)+len(settings) {
		t.Errorf("%d sessions, so an agent lost its own", n)
	}
}
