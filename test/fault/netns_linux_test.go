package fault

import (
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// noticed is how long a half-open link may stay unnoticed.
const noticed = 12 * time.Second

// namespaces are two network namespaces with a line between them, the server in the one
// and the agent in the other.
type namespaces struct {
	t             *testing.T
	server, agent string
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s (root is needed): %v\n%s", strings.Join(args, " "), err, out)
	}
}

func newNamespaces(t *testing.T) *namespaces {
	t.Helper()
	id := fmt.Sprintf("%x", time.Now().UnixNano()&0xffffff)
	n := &namespaces{t: t, server: "cvs" + id, agent: "cva" + id}
	for _, ns := range []string{n.server, n.agent} {
		ip(t, "netns", "add", ns)
		t.Cleanup(func() { ip(t, "netns", "del", ns) })
		ip(t, "-n", ns, "link", "set", "lo", "up")
	}
	ip(t, "link", "add", n.server, "netns", n.server, "type", "veth", "peer", "name", n.agent, "netns", n.agent)
	ip(t, "-n", n.server, "addr", "add", "10.99.0.1/24", "dev", n.server)
	ip(t, "-n", n.agent, "addr", "add", "10.99.0.2/24", "dev", n.agent)
	ip(t, "-n", n.server, "link", "set", n.server, "up")
	ip(t, "-n", n.agent, "link", "set", n.agent, "up")
	return n
}

func within(ns string) []string { return []string{"ip", "netns", "exec", ns} }

// blackhole has what either side sends vanish without a word, or ends that.
func (n *namespaces) blackhole(on bool) {
	n.t.Helper()
	verb := "add"
	if !on {
		verb = "del"
	}
	ip(n.t, "-n", n.server, "route", verb, "blackhole", "10.99.0.2/32")
	ip(n.t, "-n", n.agent, "route", verb, "blackhole", "10.99.0.1/32")
}

// TestHalfOpen: a link whose network swallows everything is given up by both sides in
// time, idle and under full load, and everything goes on when the network is back.
func TestHalfOpen(t *testing.T) {
	t.Parallel()
	for _, load := range []bool{false, true} {
		t.Run(fmt.Sprintf("load=%v", load), func(t *testing.T) {
			n := newNamespaces(t)
			s := startServer(t, within(n.server), "10.99.0.1")
			s.within = within(n.agent)
			args := []string{"tcp", "127.0.0.1:9"} // nobody visits
			var visitor *exec.Cmd
			if load {
				bulk := serveIn(t, n.agent, "cat /dev/zero")
				args = []string{"tcp", bulk}
			}
			agent, url := s.agent(t.TempDir(), s.https, args...)
			if load {
				visitor = exec.Command("ip", append([]string{"netns", "exec", n.server}, "socat", "-u", "TCP:"+s.visitorAddress(url), "STDOUT")...)
				out, err := visitor.StdoutPipe()
				check(t, err)
				check(t, visitor.Start())
				t.Cleanup(func() { _ = visitor.Process.Kill(); _ = visitor.Wait() })
				_, err = io.CopyN(io.Discard, out, 64<<20)
				check(t, err)
				go func() { _, _ = io.Copy(io.Discard, out) }()
			}
			n.blackhole(true)
			began := time.Now()
			noticing := make(chan time.Duration)
			go func() {
				agent.wait(0, "link interrupted")
				noticing <- time.Since(began)
			}()
			s.wait(0, "link lost")
			atServer := time.Since(began)
			atAgent := <-noticing
			t.Logf("noticed by the server after %v, by the agent after %v", atServer, atAgent)
			n.blackhole(false)
			agent.wait(0, "link resumed")
			s.wait(0, "link resumed")
			if max(atServer, atAgent) > noticed+time.Second { // of a busy machine
				t.Errorf("noticed after %v and %v", atServer, atAgent)
			}
		})
	}
}

// serveIn runs a command for each connection to a port in a namespace.
func serveIn(t *testing.T, ns, command string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free here is free there
	check(t, err)
	address := l.Addr().String()
	_ = l.Close()
	_, port, _ := net.SplitHostPort(address)
	cmd := exec.Command("ip", "netns", "exec", ns, "socat", "TCP-LISTEN:"+port+",bind=127.0.0.1,fork,reuseaddr", "SYSTEM:"+command)
	check(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return address
}
