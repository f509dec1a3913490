package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/culvert-tunnel/culvert/test/harness"
)

// member is an upstream that says who it is, and can be made unwell.
type member struct {
	*httptest.Server
	ill  atomic.Bool
	seen atomic.Int64
}

func newMember(t *testing.T, name string) *member {
	t.Helper()
	m := &member{}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			if m.ill.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return
		}
		m.seen.Add(1)
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprintf(w, "%s %d", name, n)
	}))
	t.Cleanup(m.Close)
	return m
}

func (m *member) address() string { return m.Listener.Addr().String() }

// visit makes a request and returns the answer's body, or else what came instead.
func visit(ctx context.Context, c *http.Client, method, url string, body io.Reader) string {
	r, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err.Error()
	}
	res, err := c.Do(r)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return fmt.Sprint(res.Status, " ", res.Header.Get("Culvert-Error"), " ", err)
	}
	return string(b)
}

// TestPool: agents that ask for it share a name of each kind; one whose upstream refuses or
// is ill gets no visitors, and those who met it do not notice.
func TestPool(t *testing.T) {
	n := startServer(t)
	ctx := t.Context()

	t.Run("who may", func(t *testing.T) {
		up := newMember(t, "a").address()
		n.publish("http", up, "--name", "who", "--pool")
		token, _ := n.culvert("token", "create")
		for want, p := range map[string]*process{
			"is a pool of other agents": n.agent(t.TempDir(), "http", up, "--name", "who"),
			"taken by another agent":    n.with(token).agent(t.TempDir(), "http", up, "--name", "who", "--pool"),
		} {
			if code := p.exit(); code != 4 || !strings.Contains(p.errors(), want) {
				t.Errorf("exit code %d, not for %q:\n%s", code, want, p.errors())
			}
		}
		other := n.agent(t.TempDir(), "http", up, "--name", "who", "--pool", "--compress")
		other.wait(0, "the refusal", func(l logLine) bool { return l.str("code") == "pool_mismatch" })
		token, _ = n.culvert("token", "create", "--no-pool")
		if code, said := n.with(token).refused("http", up, "--name", "mine", "--pool"); code != 4 || !strings.Contains(said, "not_allowed") {
			t.Errorf("a token without pools: %d %s", code, said)
		}
	})
	t.Run("in turn", func(t *testing.T) {
		_, url := n.publish("http", newMember(t, "a").address(), "--name", "turn", "--pool", "--balance", "round-robin")
		n.publish("http", newMember(t, "b").address(), "--name", "turn", "--pool", "--balance", "round-robin")
		n.publish("http", harness.FreeAddress(t), "--name", "turn", "--pool", "--balance", "round-robin")
		for _, h2 := range []bool{false, true} {
			c, got := n.visitor(h2), make(map[string]int)
			for range 20 {
				got[visit(ctx, c, http.MethodGet, url, nil)]++
				// What reached nobody may be sent again, whatever it is.
				got[visit(ctx, c, http.MethodPost, url, bytes.NewReader(make([]byte, 100)))]++
				got[visit(ctx, c, http.MethodPost, url, io.LimitReader(zeros{}, 1<<20))]++
			}
			for answer, count := range got {
				if who, _, _ := strings.Cut(answer, " "); who != "a" && who != "b" || count < 5 {
					t.Errorf("%d times %s", count, answer)
				}
			}
		}
	})
	t.Run("by cookie", func(t *testing.T) {
		_, url := n.publish("http", newMember(t, "a").address(), "--name", "cookie", "--pool", "--sticky", "cookie")
		n.publish("http", newMember(t, "b").address(), "--name", "cookie", "--pool", "--sticky", "cookie")
		had := make(map[string]bool)
		for i := range 12 {
			c := n.visitor(i%2 == 0)
			var err error
			c.Jar, err = cookiejar.New(nil)
			check(t, err)
			first := visit(ctx, c, http.MethodGet, url, nil)
			had[first] = true
			for range 5 {
				if got := visit(ctx, c, http.MethodGet, url, nil); got != first {
					t.Errorf("%s, then %s", first, got)
				}
			}
		}
		if len(had) != 2 || !had["a 0"] || !had["b 0"] {
			t.Errorf("%v", had)
		}
	})
	t.Run("checks", func(t *testing.T) {
		ill, well := newMember(t, "ill"), newMember(t, "well")
		args := []string{"--name", "checks", "--pool", "--health-path", "/healthz", "--health-interval", "1s"}
		agent, url := n.publish(append([]string{"http", ill.address()}, args...)...)
		n.publish(append([]string{"http", well.address()}, args...)...)
		c := n.visitor(false)
		only := func(who string) bool {
			for range 10 {
				if visit(ctx, c, http.MethodGet, url, nil) != who+" 0" {
					return false
				}
			}
			return true
		}
		ill.ill.Store(true)
		agent.wait(0, "the check", func(l logLine) bool { return strings.HasPrefix(l.str("msg"), "upstream is not well") })
		eventually(t, "the other alone", func() bool { return only("well") })
		if out, _ := n.culvert("status"); !strings.Contains(out, "down") {
			t.Errorf("nothing is down:\n%s", out)
		}
		ill.ill.Store(false)
		eventually(t, "both again", func() bool { return !only("well") })
	})
	t.Run("tcp", func(t *testing.T) {
		say := func(who string) string {
			return serveTCP(t, func(c *net.TCPConn) { _, _ = io.WriteString(c, who) })
		}
		_, url := n.publish("tcp", say("a"), "--url", "tcp://:"+portOf(t, n, 0), "--pool")
		n.publish("tcp", say("b"), "--url", url, "--pool", "--weight", "3")
		n.publish("tcp", harness.FreeAddress(t), "--url", url, "--pool")
		got := make(map[string]int)
		for range 24 {
			c := dial(t, tcpAddress(url))
			b, err := io.ReadAll(c)
			if err != nil {
				t.Error(err)
			}
			got[string(b)]++
		}
		if got["a"] == 0 || got["b"] == 0 || len(got) != 2 {
			t.Errorf("%v", got)
		}
	})
	t.Run("tls", func(t *testing.T) {
		ca := newAuthority(t)
		for _, who := range []string{"a", "b"} {
			n.publish("tls", serveTLS(t, ca.issue("db.example.com"), who), "--url", "tls://db.example.com", "--pool")
		}
		n.publish("tls", harness.FreeAddress(t), "--url", "tls://db.example.com", "--pool")
		got := make(map[string]int)
		for range 12 {
			v := tls.Client(dial(t, n.https), &tls.Config{ServerName: "db.example.com", RootCAs: ca.pool()})
			b, err := io.ReadAll(v)
			if err != nil {
				t.Error(err)
			}
			got[string(b)]++
		}
		if len(got) != 2 || got["a db.example.com"] == 0 || got["b db.example.com"] == 0 {
			t.Errorf("%v", got)
		}
	})
	t.Run("udp", func(t *testing.T) {
		a := serveUDP(t, "127.0.0.1:0", func(s string) string { return "a " + s })
		b := serveUDP(t, "127.0.0.1:0", func(s string) string { return "b " + s })
		_, url := n.publish("udp", a.LocalAddr().String(), "--url", "udp://:"+portOf(t, n, 1), "--pool")
		n.publish("udp", b.LocalAddr().String(), "--url", url, "--pool")
		got := make(map[string]bool)
		for range 8 {
			c, err := net.Dial("udp", strings.TrimPrefix(tcpAddress(strings.Replace(url, "udp", "tcp", 1)), "udp://"))
			check(t, err)
			first := ask(t, c, "who")
			got[first] = true
			for range 3 {
				if again := ask(t, c, "who"); again != first { // a flow stays
					t.Errorf("%s, then %s", first, again)
				}
			}
			check(t, c.Close())
		}
		if len(got) != 2 {
			t.Errorf("%v", got)
		}
	})
}

// portOf is one of a server's ports that no other test of it asks for.
func portOf(t *testing.T, n *node, i int) string {
	t.Helper()
	for k, a := range n.args {
		if a == "--tcp-ports" {
			var first int
			_, err := fmt.Sscanf(n.args[k+1], "%d-", &first)
			check(t, err)
			return fmt.Sprint(first + i)
		}
	}
	t.Fatal("no ports")
	return ""
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestPoolOfServers: a pool whose agents are at several servers. Visitors go to the agents of
// the server that they come to, of any other if it has none, and nobody notices when an agent
// is killed but for those whose request it had.
func TestPoolOfServers(t *testing.T) {
	nodes := startCluster(t, "--resume-window", "3s")
	a, b := newMember(t, "a"), newMember(t, "b")
	agent, _ := nodes[0].publish("http", a.address(), "--name", "pool", "--pool", "--server", nodes[0].https)
	nodes[1].publish("http", b.address(), "--name", "pool", "--pool", "--server", nodes[1].https)
	ctx := t.Context()
	url := func(i int) string {
		return "https://pool.localhost:" + nodes[i].https[strings.LastIndexByte(nodes[i].https, ':')+1:]
	}
	clients := [3]*http.Client{}
	for i, n := range nodes {
		clients[i] = n.visitor(false)
		eventually(t, "both are known", func() bool {
			out, _ := n.culvert("status")
			return strings.Count(out, "http://pool.localhost") == 2 && visit(ctx, clients[i], http.MethodGet, url(i), nil)[1:] == " 0"
		})
	}
	for range 10 {
		for i, want := range []string{"a 0", "b 0"} {
			if got := visit(ctx, clients[i], http.MethodGet, url(i), nil); got != want {
				t.Errorf("at server %d: %s", i+1, got)
			}
		}
	}
	// Who was busy when the servers last told each other gets none for a while.
	got := make(map[string]int)
	eventually(t, "both serve the server without agents", func() bool {
		got[visit(ctx, clients[2], http.MethodGet, url(2), nil)]++
		return got["a 0"] > 0 && got["b 0"] > 0
	})
	if len(got) != 2 {
		t.Errorf("at the server without agents: %v", got)
	}

	const workers = 4 // at each server
	var failed, done [2]atomic.Int64
	var known atomic.Bool // to all servers, that the agent is gone
	var later atomic.Int64
	stop := make(chan struct{})
	var tasks sync.WaitGroup
	for i := range workers * len(nodes) {
		c := nodes[i%3].visitor(false)
		tasks.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-stop:
					return
				default:
				}
				which, method, body := 0, http.MethodGet, io.Reader(nil)
				if k%2 == 1 {
					which, method, body = 1, http.MethodPost, strings.NewReader("once")
				}
				late := known.Load()
				if got := visit(ctx, c, method, url(i%3), body); got != "a 0" && got != "b 0" && got != "a 4" && got != "b 4" {
					failed[which].Add(1)
					if late {
						later.Add(1)
					}
					t.Logf("%s: %s", method, got)
				}
				done[which].Add(1)
			}
		})
	}
	requests := func(more int64) {
		from := done[0].Load() + done[1].Load()
		eventually(t, "visits", func() bool { return done[0].Load()+done[1].Load() >= from+more })
	}
	requests(100)
	agent.kill()
	from := a.seen.Load()
	requests(300)
	for _, n := range nodes {
		eventually(t, "the server knows", func() bool {
			out, _ := n.culvert("status")
			return strings.Count(out, "http://pool.localhost") == 1
		})
	}
	known.Store(true)
	requests(100)
	close(stop)
	tasks.Wait()
	// What may be sent again is; what may not was under way to the agent, one per visitor.
	if failed[0].Load() > 0 || failed[1].Load() > workers*int64(len(nodes)) || later.Load() > 0 {
		t.Errorf("failed: %d that may be sent again, %d that may not, %d of them later, of %d", failed[0].Load(), failed[1].Load(), later.Load(), done[0].Load()+done[1].Load())
	}
	if a.seen.Load() < from {
		t.Error("counting")
	}
}
