package doctor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/url"

	"github.com/culvert-tunnel/culvert/internal/agent"
)

// proof shows of each endpoint whose TLS a running agent ends itself that visitors are
// shown the certificate whose key that agent holds: then nobody between can read them.
func (a Agent) proof(ctx context.Context, r *Report) {
	if a.Running == nil {
		return
	}
	before, err := a.Running(ctx)
	if err != nil {
		return // no agent runs, which the others say nothing of either
	}
	shown := make(map[string]string) // by name: to us, as a visitor
	for _, e := range before {
		u, err := url.Parse(e.URL)
		if err != nil || e.Kind != "tls" || e.State != "online" {
			continue
		}
		port := u.Port()
		if port == "" {
			port = "443"
		}
		chain, err := presented(ctx, a.Resolver, net.JoinHostPort(u.Hostname(), port), u.Hostname())
		switch {
		case err != nil && e.CertSHA256 != "":
			r.add("proof", Fail, "see that the name points to the server, and that its port can be reached from here",
				"%s can't be visited: %s", e.URL, plain(err))
		case err == nil && len(chain) > 0:
			sum := sha256.Sum256(chain[0].Raw)
			shown[e.Name] = hex.EncodeToString(sum[:])
		}
	}
	after, err := a.Running(ctx) // the certificate may have come, or been renewed, meanwhile
	if err != nil {
		return
	}
	for _, e := range after {
		switch seen := shown[e.Name]; {
		case seen == "" || e.CertSHA256 == "":
		case seen == e.CertSHA256:
			r.add("proof", OK, "", "%s shows the certificate whose key the agent here holds (SHA-256 %s)", e.URL, seen)
		default:
			r.add("proof", Fail, "find out who answers there: whoever it is can read the visitors of this address",
				"%s shows another certificate (SHA-256 %s) than the agent here holds the key of (%s)", e.URL, seen, e.CertSHA256)
		}
	}
}

// Running tells the endpoints of an agent that runs on this machine.
type Running func(context.Context) ([]agent.EndpointStatus, error)
