package cli

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/server/admin"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// overview is what culvert status prints.
type overview struct {
	Status    admin.Status     `json:"status"`
	Nodes     []admin.Node     `json:"nodes"`
	Sessions  []admin.Session  `json:"sessions"`
	Endpoints []admin.Endpoint `json:"endpoints"`
}

func newStatus(env *Env) *cobra.Command {
	var f adminFlags
	var output string
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show a server: its nodes, agents and endpoints",
		Long:    "Show how a server is, its nodes, agents and endpoints.\n\n" + strings.Replace(adminHelp, "They speak", "It speaks", 1),
		Example: `  culvert status`,
		Args:    exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.client(cmd, env)
			if err != nil {
				return err
			}
			var o overview
			for path, to := range map[string]any{"/status": &o.Status, "/nodes": &o.Nodes, "/sessions": &o.Sessions, "/endpoints": &o.Endpoints} {
				if err := c.call(cmd.Context(), http.MethodGet, path, nil, to); err != nil {
					return err
				}
			}
			return printData(env, output, o, func(w io.Writer) { printStatus(w, o) })
		},
	}
	f.add(cmd, env)
	addOutput(cmd, &output)
	return cmd
}

func printStatus(w io.Writer, o overview) {
	s := o.Status
	state := "ready"
	if s.Problem != "" {
		state = s.Problem
	}
	_, _ = fmt.Fprintf(w, "%s (%s), %s, up since %s: %s\n", s.Node, s.Domain, s.Version, s.Since.Format(time.RFC3339), state)
	kind := s.Store.Kind
	if s.Store.Role != "" {
		kind += " (" + s.Store.Role + ")"
	}
	_, _ = fmt.Fprintf(w, "store: %s, %d KiB", kind, s.Store.Bytes>>10)
	for _, a := range s.Store.Alarms {
		_, _ = fmt.Fprintf(w, ", alarm %s", a)
	}
	_, _ = fmt.Fprintf(w, "\nvisitors: %d, streams to agents: %d\n", s.Visits, s.Streams)

	names := make(map[string]string)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "\nNODE\tREGION\tVERSION\tSINCE")
	for _, n := range o.Nodes {
		names[n.ID] = n.Name
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", n.Name, n.Region, n.Version, n.Since.Format(time.RFC3339))
	}
	_ = t.Flush()
	_, _ = fmt.Fprintln(t, "\nAGENT\tTOKEN\tVERSION\tSINCE\tENDPOINTS")
	for _, a := range o.Sessions {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\n", tunnel.Clean(a.Agent), a.Token, tunnel.Clean(a.Version), a.Since.Format(time.RFC3339), a.Endpoints)
	}
	_ = t.Flush()
	_, _ = fmt.Fprintln(t, "\nENDPOINT\tAGENT\tNODE\tSINCE\tPOOL")
	for _, e := range o.Endpoints {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", e.Name, tunnel.Clean(e.Agent), names[e.Node], e.Since.Format(time.RFC3339), membership(e))
	}
	_ = t.Flush()
}

// membership says how an endpoint is in its pool.
func membership(e admin.Endpoint) string {
	if !e.Pool {
		return ""
	}
	text := fmt.Sprintf("weight %d", e.Weight)
	if e.Down {
		text += ", down"
	}
	return text
}
