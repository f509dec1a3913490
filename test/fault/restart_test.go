package fault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// get fetches /hello of a name once.
func get(ctx context.Context, address, name string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/hello", nil)
	if err != nil {
		return err
	}
	req.Host = name
	req.Close = true
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if res.StatusCode != http.StatusOK || string(b) != "hello" {
		return errors.Join(err, fmt.Errorf("%s %s", res.Status, res.Header.Get("Culvert-Error")))
	}
	return err
}

// TestKills: a server that is killed and started again has its agents back with the
// same names and ports, and serves the visitors who came in before they were.
func TestKills(t *testing.T) {
	s := startServer(t, nil, "127.0.0.1")
	site := newWebsite(t.Context(), t)
	up := serveTCP(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	web, webURL := s.agent(t.TempDir(), s.https, "http", site.port(), "--no-redirect")
	raw, rawURL := s.agent(t.TempDir(), s.https, "tcp", up)
	var back []time.Duration
	for range *kills {
		atWeb, atRaw := web.count("endpoint online"), raw.count("endpoint online")
		s.kill()
		s.restart()
		began := time.Now()
		check(t, get(t.Context(), s.http, host(webURL))) // the first request waits
		back = append(back, time.Since(began))
		if got := online(web, atWeb); got != webURL {
			t.Fatalf("the http endpoint came back as %s", got)
		}
		if got := online(raw, atRaw); got != rawURL {
			t.Fatalf("the tcp endpoint came back as %s", got)
		}
		c, err := net.DialTimeout("tcp", s.visitorAddress(rawURL), patience)
		check(t, err)
		_, err = c.Write([]byte("ping"))
		check(t, err)
		_, err = io.ReadFull(c, make([]byte, 4))
		check(t, err)
		_ = c.Close()
	}
	slices.Sort(back)
	t.Logf("%d kills: from listening to the first answer %v median, %v p99", len(back), back[len(back)/2], back[len(back)*99/100])
}

// online waits for the n-th further endpoint that comes online, and returns its URL.
func online(p *process, n int) string {
	p.t.Helper()
	at := 0
	for range n {
		_, at = p.wait(at, "endpoint online")
	}
	l, _ := p.wait(at, "endpoint online")
	return l["url"].(string)
}

// TestGhost: the link of a machine that vanished is still open here when its agent
// comes back as another process. It has its names at once.
func TestGhost(t *testing.T) {
	s := startServer(t, nil, "127.0.0.1")
	b := newBreaker(t, s.https)
	site := newWebsite(t.Context(), t)
	home := t.TempDir()
	old, url := s.agent(home, b.address(), "http", site.port(), "--no-redirect", "--name", "app")
	b.cut(silent)
	old.kill()
	if _, again := s.agent(home, s.https, "http", site.port(), "--no-redirect", "--name", "app"); again != url {
		t.Errorf("came back as %s instead of %s", again, url)
	}
	if s.count("link lost") != 0 {
		t.Error("the server had noticed the loss before: nothing was shown")
	}
	check(t, get(t.Context(), s.http, host(url)))
}

// TestTwoRuns: of two processes of one agent the newer has the names; the older is told
// and stops.
func TestTwoRuns(t *testing.T) {
	s := startServer(t, nil, "127.0.0.1")
	site := newWebsite(t.Context(), t)
	home := t.TempDir()
	older, url := s.agent(home, s.https, "http", site.port(), "--no-redirect", "--name", "app")
	if _, again := s.agent(home, s.https, "http", site.port(), "--no-redirect", "--name", "app"); again != url {
		t.Errorf("the newer run has %s instead of %s", again, url)
	}
	select {
	case <-older.done:
	case <-time.After(patience):
		t.Fatal("the older run goes on")
	}
	if code := older.cmd.ProcessState.ExitCode(); code != 4 {
		t.Errorf("the older run exited with %d\n%s", code, older.output())
	}
	check(t, get(t.Context(), s.http, host(url)))
}

// TestLinks: a session of several links is cut link by link, and all at once, and loses
// nothing.
func TestLinks(t *testing.T) {
	s := startServer(t, nil, "127.0.0.1")
	b := newBreaker(t, s.https)
	traffic := startTraffic(t, s, b.address(), some, "--links", "4")
	for _, a := range traffic.agents {
		at := 0
		for range 3 {
			_, at = a.wait(at, "further link")
		}
	}
	for range *cuts / 4 {
		before := s.count("link resumed")
		n := b.cutOne()
		if n == 0 {
			t.Fatal("no link to cut")
		}
		resumed(t, s, before+n-2)
	}
	before := s.count("link resumed")
	n := b.cut(reset)
	if n != 8 {
		t.Errorf("%d links instead of 8", n)
	}
	resumed(t, s, before+n-2)
	traffic.stop()
	if n := s.count("agent connected"); n != 2 {
		t.Errorf("%d sessions instead of 2", n)
	}
}

// cutOne resets one link and returns how many that were.
func (b *breaker) cutOne() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for p := range b.pairs {
		p.end(reset)
		return 1
	}
	return 0
}

// startTwo runs two servers that have the same tokens and CA.
func startTwo(t *testing.T, extra ...string) (a, b *server) {
	t.Helper()
	all := startAlike(t, 2, extra...)
	return all[0], all[1]
}

// startAlike runs servers that have the same tokens and CA: the first one's state, at rest,
// is that of the others too. extra is for the first alone.
func startAlike(t *testing.T, n int, extra ...string) []*server {
	t.Helper()
	a := startServer(t, nil, "127.0.0.1", extra...)
	a.signal(syscall.SIGTERM)
	<-a.done
	all := []*server{a}
	for range n - 1 {
		b := &server{home: t.TempDir(), token: a.token}
		check(t, exec.Command("cp", "-r", a.home+"/.", b.home).Run())
		b.args = []string{"server", "--domain", "localhost", "--admin", "off", "--data", b.home}
		b.run(t, "127.0.0.1:0", "127.0.0.1:0")
		all = append(all, b)
	}
	a.run(t, "127.0.0.1:0", "127.0.0.1:0") // the others may have its ports
	return all
}

// TestTwoServers: when the one server is gone for good, the agent serves at the other.
func TestTwoServers(t *testing.T) {
	a, b := startTwo(t)
	site := newWebsite(t.Context(), t)
	agent, url := a.agent(t.TempDir(), a.https+","+b.https, "http", site.port(), "--no-redirect")
	check(t, get(t.Context(), a.http, host(url)))
	a.kill()
	_, at := agent.wait(0, "endpoint online")
	if l, _ := agent.wait(at, "endpoint online"); host(l["url"].(string)) != host(url) {
		t.Errorf("at the other server it is %v instead of %s", l["url"], url)
	}
	check(t, get(t.Context(), b.http, host(url)))
}

// TestStopped: a process that is stopped for a while, as by a sleeping laptop, goes on
// where it was.
func TestStopped(t *testing.T) {
	t.Parallel()
	s := startServer(t, nil, "127.0.0.1")
	traffic := startTraffic(t, s, s.https, some)
	for _, p := range []*process{traffic.agents[0], s.process, traffic.agents[1]} {
		p.stopFor(3 * time.Second)
	}
	traffic.agents[0].stopFor(15 * time.Second) // the server gives the link up meanwhile
	traffic.stop()
	if n := s.count("agent connected"); n != 2 {
		t.Errorf("%d sessions instead of 2", n)
	}
}

// TestSlow: a link that is slow, but alive, is never given up, though pings wait behind
// bulk.
func TestSlow(t *testing.T) {
	t.Parallel()
	s := startServer(t, nil, "127.0.0.1")
	b := newBreaker(t, s.https)
	b.rate.Store(64 << 10)
	up := serveTCP(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	agent, url := s.agent(t.TempDir(), b.address(), "tcp", up)
	var sent atomic.Int64
	var tasks sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
	defer cancel()
	for range 4 {
		c, err := net.DialTimeout("tcp", s.visitorAddress(url), patience)
		check(t, err)
		context.AfterFunc(ctx, func() { _ = c.Close() })
		tasks.Go(func() {
			for buf := make([]byte, 64<<10); ; {
				n, err := c.Write(buf)
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
	}
	<-ctx.Done()
	tasks.Wait()
	if n := s.count("link lost") + agent.count("link interrupted") + agent.count("link resumed"); n != 0 || sent.Load() == 0 {
		t.Errorf("the link was given up %d times, with %d bytes sent", n, sent.Load())
	}
}
