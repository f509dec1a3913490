package e2e

import (
	"context"
	"encoding/xml"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestH2Spec: what h2spec asks of a server, the edge does: frames, states, flow control,
// header compression, malformed requests.
func TestH2Spec(t *testing.T) {
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-mod=mod", "-o", dir+"/", "github.com/summerwind/h2spec/cmd/h2spec")
	build.Dir = "../../tools"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build h2spec: %v\n%s", err, out)
	}
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, strings.Repeat("x", 100_000)) // more than a window
	}))
	t.Cleanup(up.Close)
	n := startServer(t)
	_, _ = n.publish("http", up.Listener.Addr().String(), "--name", "app")

	// Its server name is its host, which it must find in a file of hosts of its own.
	hosts, report := filepath.Join(dir, "hosts"), filepath.Join(dir, "report.xml")
	check(t, os.WriteFile(hosts, []byte("127.0.0.1 app.localhost\n"), 0o600))
	_, port, _ := net.SplitHostPort(n.https)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--map-root-user", "--mount", "sh", "-c", `mount --bind "$1" /etc/hosts && shift && exec "$@"`, "sh",
		hosts, filepath.Join(dir, "h2spec"), "-t", "-k", "-h", "app.localhost", "-p", port, "-j", report, "-o", "2")
	out, _ := cmd.CombinedOutput() // its exit code is judged by the report
	b, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("h2spec gives no report: %v\n%s", err, out)
	}
	failed, cases := h2specFailures(t, b)
	t.Logf("%d cases", cases)
	if cases < 140 {
		t.Errorf("h2spec ran only %d cases\n%s", cases, out)
	}
	if len(failed) > 0 {
		t.Errorf("failed: %q\n%s", failed, out)
	}
}

func h2specFailures(t *testing.T, report []byte) (failed []string, cases int) {
	t.Helper()
	var r struct {
		Suites []struct {
			Package string `xml:"package,attr"`
			Cases   []struct {
				Name    string    `xml:"classname,attr"`
				Failure *struct{} `xml:"failure"`
				Error   *struct{} `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	check(t, xml.Unmarshal(report, &r))
	for _, s := range r.Suites {
		for _, c := range s.Cases {
			cases++
			if c.Failure != nil || c.Error != nil {
				failed = append(failed, s.Package+": "+c.Name)
			}
		}
	}
	return failed, cases
}
