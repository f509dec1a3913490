package fault

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSoak: all that can go wrong goes wrong, in any order, and rounds of traffic start
// and end under it. Every round is intact, and after the last the processes hold what
// they held after the first.
func TestSoak(t *testing.T) {
	// Something between that takes all and passes nothing on is noticed late by who still
	// has much to send, slowly: visitors wait for that.
	s := startServer(t, nil, "127.0.0.1", "--resume-window", "60s", "--grace", "60s", "--admin", "127.0.0.1:0")
	b := newBreaker(t, s.https)
	end := time.Now().Add(*soak)
	round := func() {
		traffic := startTraffic(t, s, b.address(), some, "--links", strconv.Itoa(1+rand.IntN(3)))
		for range 5 + rand.IntN(10) {
			<-time.After(time.Duration(rand.IntN(400)) * time.Millisecond)
			b.breakSomething(s, traffic)
		}
		b.rate.Store(0)
		traffic.stop()
		for _, a := range traffic.agents {
			a.signal(syscall.SIGTERM)
			<-a.done
			if code := a.cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("an agent exited with %d\n%s", code, a.output())
			}
		}
		s.rest()
	}
	round()
	before := s.holds()
	rounds := 1
	for ; time.Now().Before(end) && !t.Failed(); rounds++ {
		round()
	}
	after := s.holds()
	for timeout := time.After(patience); after.more(before); after = s.holds() {
		select {
		case <-time.After(time.Second): // what a collection of garbage frees
			continue
		case <-timeout:
		}
		break
	}
	t.Logf("%d rounds: %+v at first, %+v at last", rounds, before, after)
	if after.more(before) || after.descriptors > before.descriptors+4 || after.threads > before.threads+16 || after.resident > 2*before.resident+64<<20 {
		t.Errorf("the server held %+v after the first round and %+v after round %d", before, after, rounds)
	}
}

// breakSomething does one of the things that happen to links and processes.
func (b *breaker) breakSomething(s *server, tr *traffic) {
	switch rand.IntN(40) {
	default:
		b.cut(reset)
	case 0, 1, 2, 3, 4, 5, 6, 7:
		b.cut(closes)
	case 8, 9, 10, 11, 12, 13, 14, 15:
		b.cut(half)
	case 16, 17, 18, 19:
		b.cutOne()
	case 20, 21, 22, 23:
		b.rate.Store(int64(1+rand.IntN(64)) << 20)
	case 24, 25, 26, 27:
		tr.agents[rand.IntN(2)].stopFor(time.Duration(rand.IntN(1500)) * time.Millisecond)
	case 28, 29:
		s.stopFor(time.Duration(rand.IntN(1500)) * time.Millisecond)
	case 30:
		b.cut(silent)
	}
}

// held is what a process holds.
type held struct {
	descriptors, threads, goroutines int
	resident, heap                   int64 // bytes
}

// more reports whether h is more than before in what a process gives back.
func (h held) more(before held) bool {
	return h.goroutines > before.goroutines+8 || h.heap > 2*before.heap+16<<20
}

func (s *server) holds() held {
	p := s.process
	h := held{descriptors: p.descriptors()}
	l, _ := s.wait(0, "server ready")
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get("http://" + l["admin"].(string) + "/metrics")
	check(p.t, err)
	defer res.Body.Close()
	metrics, err := io.ReadAll(res.Body)
	check(p.t, err)
	for line := range strings.Lines(string(metrics)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, _ := strconv.ParseFloat(value, 64)
		switch name {
		case "go_goroutines":
			h.goroutines = int(n)
		case "go_memstats_heap_alloc_bytes":
			h.heap = int64(n)
		}
	}
	if h.goroutines == 0 || h.heap == 0 {
		p.t.Fatal("the server tells no goroutines, or no heap")
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	check(p.t, err)
	for line := range strings.Lines(string(status)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "Threads:":
			h.threads = int(n)
		case "VmRSS:":
			h.resident = n << 10
		}
	}
	return h
}

// rest waits until the server's agents are gone, and what visitors kept open too. The port of
// an agent that has left is held for the grace, which is as long as our patience.
func (s *server) rest() {
	s.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(2 * patience)
	for {
		if s.count("agent connected") == s.count("agent disconnected") && s.connections() == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			left := s.sockets()
			s.signal(syscall.SIGQUIT) // what it waits for
			<-s.done
			s.t.Fatalf("%d agents came and %d went, beyond %d sockets these are left: %s",
				s.count("agent connected"), s.count("agent disconnected"), s.listening, strings.Join(left, ", "))
		}
	}
}

// connections is how many sockets the process has beyond those it listens on.
func (s *server) connections() int {
	n := len(s.sockets())
	if s.listening == 0 {
		s.listening = n
	}
	return n - s.listening
}

// sockets are the process's, as /proc/net/tcp has them if they are of TCP.
func (s *server) sockets() (all []string) {
	dir := fmt.Sprintf("/proc/%d/", s.cmd.Process.Pid)
	entries, err := os.ReadDir(dir + "fd")
	check(s.t, err)
	var table []byte
	for _, name := range []string{"net/tcp", "net/tcp6"} {
		b, _ := os.ReadFile(dir + name)
		table = append(table, b...)
	}
	for _, e := range entries {
		to, err := os.Readlink(dir + "fd/" + e.Name())
		inode, is := strings.CutPrefix(to, "socket:[")
		if err != nil || !is {
			continue
		}
		all = append(all, to)
		for line := range strings.Lines(string(table)) {
			if f := strings.Fields(line); len(f) > 9 && f[9]+"]" == inode {
				all[len(all)-1] = strings.Join(f[1:4], " ")
			}
		}
	}
	return all
}
