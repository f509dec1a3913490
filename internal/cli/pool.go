package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/config"
	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// What users call endpoint.LeastBusy and endpoint.NotSticky.
const (
	leastBusy = "least-busy"
	notSticky = "off"
)

// addPooling adds the flags of an endpoint that shares its name.
func addPooling(cmd *cobra.Command, p *config.Pooling, kind endpoint.Kind) {
	fs := cmd.Flags()
	fs.BoolVar(&p.Pool, "pool", false, "share the URL with other agents of this token that say so too: each visitor gets one of them")
	addChoice(cmd, &p.Balance, "balance", "", "with --pool, how visitors are spread", leastBusy, string(endpoint.RoundRobin))
	if kind == endpoint.HTTP {
		addChoice(cmd, &p.Sticky, "sticky", "", "with --pool, let a visitor stay with the agent that he had, known by a cookie or his address", notSticky, string(endpoint.StickyByCookie), string(endpoint.StickyByAddress))
	} else {
		addChoice(cmd, &p.Sticky, "sticky", "", "with --pool, let a visitor stay with the agent that he had, known by his address", notSticky, string(endpoint.StickyByAddress))
	}
	fs.IntVar(&p.Weight, "weight", 1, "with --pool, this agent's share against those of the others; 1 to 100")
	if kind == endpoint.UDP {
		return
	}
	fs.StringVar(&p.HealthPath, "health-path", "", "with --pool, ask the upstream for this path, and send no visitors here while it does not answer with 2xx or 3xx")
	fs.BoolVar(&p.HealthConnect, "health-connect", false, "with --pool, connect to the upstream, and send no visitors here while that fails")
	fs.StringVar(&p.HealthInterval, "health-interval", "", "time between checks (default: 10s)")
	fs.StringVar(&p.HealthTimeout, "health-timeout", "", "how long a check may take (default: 5s)")
}

// parsePooling reads how a name is shared as the user wrote it.
func parsePooling(c config.Pooling) (endpoint.Pool, error) {
	p := endpoint.Pool{Shared: c.Pool, Sticky: endpoint.Sticky(c.Sticky), Balance: endpoint.Balance(c.Balance), Weight: c.Weight}
	if c.Balance == leastBusy {
		p.Balance = endpoint.LeastBusy
	}
	if c.Sticky == notSticky {
		p.Sticky = endpoint.NotSticky
	}
	if p.Weight == 1 {
		p.Weight = 0 // the same
	}
	p.Check.Path, p.Check.Connect = c.HealthPath, c.HealthConnect
	var err error
	for _, d := range []struct {
		key, text string
		to        *time.Duration
	}{{"health interval", c.HealthInterval, &p.Check.Every}, {"health time-out", c.HealthTimeout, &p.Check.Timeout}} {
		if d.text == "" {
			continue
		}
		var perr error
		if *d.to, perr = time.ParseDuration(d.text); perr != nil || *d.to <= 0 {
			err = errors.Join(err, fmt.Errorf("%s %q: write a duration such as 10s", d.key, d.text))
		}
	}
	return p, err
}
