package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
)

// Of the cases about limits (9) and compression (12, 13), which move gigabytes, one of each
// kind is enough without this flag.
var autobahn = flag.Bool("autobahn", false, "all of Autobahn's cases, which takes many minutes")

// autobahnRunner drives Autobahn's own case files; its first runner is for Python 2.
const autobahnRunner = "../../bin/autobahn/bin/kosoku"

// TestAutobahn: Autobahn's cases end through the tunnel as they do directly, and well, but
// for what the upstream's library does not know of.
func TestAutobahn(t *testing.T) {
	if _, err := os.Stat(autobahnRunner); err != nil {
		t.Skip("Autobahn's cases could not be installed (test/install-deps)")
	}
	up := httptest.NewServer(http.HandlerFunc(echoStrictly))
	t.Cleanup(up.Close)
	n := startServer(t)
	direct := up.Listener.Addr().String()
	_, _ = n.publish("http", direct, "--url", "http://127.0.0.1")

	cases := strings.Fields("1.* 2.* 3.* 4.* 5.* 6.* 7.* 10.*" +
		" 9.1.1 9.1.2 9.2.1 9.2.2 9.3.7 9.4.7 9.5.6 9.6.6 9.7.1 9.8.1" +
		" 12.1.1 12.1.3 12.2.1 12.3.1 12.4.1 12.5.1 13.1.1 13.2.1 13.3.1 13.4.1 13.5.1 13.6.1 13.7.1")
	if *autobahn {
		cases = []string{"*"}
	}
	// Some verdicts depend on how fast the machine is: those that differ are asked for again.
	for attempt := 1; ; attempt++ {
		var here, there map[string]autobahnVerdict
		var runs sync.WaitGroup
		runs.Go(func() { here = runAutobahn(t, direct, cases) })
		runs.Go(func() { there = runAutobahn(t, n.http, cases) })
		runs.Wait()
		if t.Failed() {
			return
		}
		if attempt == 1 {
			t.Logf("%d cases", len(here))
			if len(here) < 260 || len(here) != len(there) {
				t.Fatalf("%d cases directly, %d through the tunnel", len(here), len(there))
			}
		}
		cases = nil
		for id, v := range here {
			if there[id] != v || !v.good() && id != badReason {
				cases = append(cases, id)
				t.Logf("%s: directly %+v, through the tunnel %+v", id, v, there[id])
			}
		}
		slices.Sort(cases)
		switch {
		case len(cases) == 0:
			return
		case attempt == 4:
			t.Fatalf("cases that end otherwise, or not well: %q", cases)
		}
	}
}

// badReason is the case of a close frame whose reason is no UTF-8, at which the library of
// the upstream does not look.
const badReason = "7.5.1"

// autobahnVerdict is what became of a case.
type autobahnVerdict struct {
	Behavior, BehaviorClose string
	RemoteCloseCode         int
}

func (v autobahnVerdict) good() bool {
	fine := []string{"OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED"} // the last: extensions that the upstream doesn't offer
	return slices.Contains(fine, v.Behavior) && slices.Contains(fine, v.BehaviorClose)
}

// runAutobahn runs cases against a server.
func runAutobahn(t *testing.T, address string, cases []string) map[string]autobahnVerdict {
	t.Helper()
	dir := t.TempDir()
	args := []string{"--parallelism", "4", "--outdir", dir}
	for _, c := range cases {
		args = append(args, "--include", c)
	}
	limit := 10 * time.Minute
	if *autobahn {
		limit = time.Hour
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	out, _ := exec.CommandContext(ctx, autobahnRunner, append(args, address)...).CombinedOutput() // its exit code is judged by the report
	b, err := os.ReadFile(filepath.Join(dir, "index.json"))
	var servers map[string]map[string]autobahnVerdict
	if err == nil {
		err = json.Unmarshal(b, &servers)
	}
	if err != nil || len(servers) != 1 {
		t.Errorf("no report about one server: %v\n%s", err, out)
		return nil
	}
	for _, verdicts := range servers {
		return verdicts
	}
	return nil
}

// echoStrictly is echoMessages for texts that are UTF-8, of which the library leaves the
// judgement to others.
func echoStrictly(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionContextTakeover, CompressionThreshold: 1})
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(-1)
	for {
		kind, message, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if kind == websocket.MessageText && !utf8.Valid(message) {
			_ = c.Close(websocket.StatusInvalidFramePayloadData, "")
			return
		}
		if c.Write(r.Context(), kind, message) != nil {
			return
		}
	}
}
