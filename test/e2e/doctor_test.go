package e2e

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestDoctor: the command finds nothing wrong with what works, and exits with 1 when
// something does not.
func TestDoctor(t *testing.T) {
	n := startServer(t)
	up := newUpstream(t)
	if p := n.agent(t.TempDir(), "doctor", up.port()); p.exit() != 0 || !strings.Contains(p.out(), "ok    visit") {
		t.Errorf("exit code %d", p.Code)
	}
	ports := ""
	for i, a := range n.args {
		if a == "--tcp-ports" {
			ports = n.args[i+1]
		}
	}
	p := n.agent(t.TempDir(), "doctor", "server", "--http", n.http, "--https", n.https, "--admin", "off", "--data", n.data, "--tcp-ports", ports, "--output", "json")
	code := p.exit()
	var report struct {
		OK       bool
		Findings []struct{ Check, Status, Detail, Advice string }
	}
	if err := json.Unmarshal([]byte(p.out()), &report); err != nil || code != 0 || !report.OK || len(report.Findings) < 6 {
		t.Errorf("exit code %d, %v", code, err)
	}
	n.kill()
	if p := n.agent(t.TempDir(), "doctor"); p.exit() != 1 || !strings.Contains(p.out(), "fail  port") || strings.Count(p.errors(), "\n") != 1 {
		t.Errorf("exit code %d", p.Code)
	}
}
