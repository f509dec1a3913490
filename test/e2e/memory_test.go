package e2e

import (
	"os"
	"testing"
	"time"
)

// TestIdleAgentIsSmall: an agent that has visitors, with all it has by default, takes less
// than 25 MiB when it is left alone, pages of the binary among them, which the server's half
// makes large. It takes more until it has settled.
func TestIdleAgentIsSmall(t *testing.T) {
	if os.Getenv("CULVERT_TEST_RACE") != "" {
		t.Log("the race detector's memory is not the agent's")
		return
	}
	t.Parallel()
	n := startServer(t)
	p := start(t, t.TempDir(), []string{"CULVERT_TOKEN=" + n.token, "CULVERT_SERVER=" + n.https, "CULVERT_API=127.0.0.1:0"}, "http", newUpstream(t).port())
	l, _ := p.wait(0, "endpoint online", online)
	for range 20 {
		n.curl(l.str("url"))
	}
	var all int64
	eventually(t, "an agent below 25 MiB", func() bool {
		all = memory(t, p.cmd.Process.Pid, "VmRSS:")
		return all < 25<<20
	})
	for range 20 {
		n.curl(l.str("url"))
	}
	all = memory(t, p.cmd.Process.Pid, "VmRSS:")
	t.Logf("%d KiB, %d of its own", all>>10, memory(t, p.cmd.Process.Pid, "RssAnon:")>>10)
	if all >= 25<<20 {
		t.Errorf("%d KiB with visitors again", all>>10)
	}
}

// TestIdleServerIsSmall: a server with a store of its own, alone or as one that others may
// join, has less than 80 MiB of memory, pages of the binary among them.
func TestIdleServerIsSmall(t *testing.T) {
	if os.Getenv("CULVERT_TEST_RACE") != "" {
		t.Log("the race detector's memory is not the server's")
		return
	}
	for _, extra := range [][]string{nil, {"--peer", "127.0.0.1:0"}} {
		began := time.Now()
		n := startServer(t, extra...)
		ready := time.Since(began)
		eventually(t, "a server below 80 MiB", func() bool { return memory(t, n.cmd.Process.Pid, "VmRSS:") < 80<<20 })
		t.Logf("%v: ready after %v, %d KiB, %d of its own", extra, ready, memory(t, n.cmd.Process.Pid, "VmRSS:")>>10, memory(t, n.cmd.Process.Pid, "RssAnon:")>>10)
		if ready > 10*time.Second { // 1.5 s where nothing else runs
			t.Errorf("%v: ready only after %v", extra, ready)
		}
	}
}
