package doctor_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/doctor"
	"github.com/culvert-tunnel/culvert/test/harness"
)

// TestProof: the certificate shown at the public address is the agent's, or is not.
func TestProof(t *testing.T) {
	shown := certificate(t, nil, time.Now().Add(24*time.Hour), "app.example.com")
	_, port, _ := net.SplitHostPort(impostor(t, shown))
	sum := sha256.Sum256(shown.der)
	own := hex.EncodeToString(sum[:])
	other := strings.Repeat("ab", 32)
	nobody := harness.FreeAddress(t)
	_, nobodysPort, _ := net.SplitHostPort(nobody)
	url := "https://app.example.com:" + port
	for name, tc := range map[string]struct {
		before, after agent.EndpointStatus
		err           error
		want          string // empty: no finding
	}{
		"the agent's": {
			before: agent.EndpointStatus{URL: url, CertSHA256: own}, after: agent.EndpointStatus{URL: url, CertSHA256: own},
			want: "ok proof: " + url + " shows the certificate whose key the agent here holds (SHA-256 " + own + ")",
		},
		"known after a visit": {
			before: agent.EndpointStatus{URL: url}, after: agent.EndpointStatus{URL: url, CertSHA256: own}, want: "ok proof: ",
		},
		"somebody else's": {
			before: agent.EndpointStatus{URL: url, CertSHA256: other}, after: agent.EndpointStatus{URL: url, CertSHA256: other},
			want: "fail proof: " + url + " shows another certificate",
		},
		"TLS ends behind the agent": {before: agent.EndpointStatus{URL: url}, after: agent.EndpointStatus{URL: url}},
		"out of reach": {
			before: agent.EndpointStatus{URL: "https://app.example.com:" + nobodysPort, CertSHA256: own},
			after:  agent.EndpointStatus{URL: "https://app.example.com:" + nobodysPort, CertSHA256: own},
			want:   "fail proof: https://app.example.com:" + nobodysPort + " can't be visited",
		},
		"no agent runs": {err: errors.New("connection refused")},
	} {
		t.Run(name, func(t *testing.T) {
			answers := []agent.EndpointStatus{tc.before, tc.after}
			asked := 0
			a := doctor.Agent{
				Server: nobody, Resolver: resolver(t, map[string]string{"app.example.com": "127.0.0.1"}), Now: time.Now,
				Running: func(context.Context) ([]agent.EndpointStatus, error) {
					e := answers[min(asked, 1)]
					e.Name, e.Kind, e.State = "app", "tls", "online"
					asked++
					return []agent.EndpointStatus{e}, tc.err
				},
			}
			lines, _ := findings(t, a.Run)
			if tc.want != "" {
				expect(t, lines, tc.want)
			} else if strings.Contains(lines, "proof") {
				t.Error(lines)
			}
		})
	}
}
