package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/server/admin"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

func newCluster(env *Env) *cobra.Command {
	var f adminFlags
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Grow a server into a cluster, and look after its members",
		Long: `Grow a server into a cluster, and look after its members.

Servers with --peer keep the cluster's state together. One has it alone; a second one has
a copy and no vote, because two that both had to be there would be worse than one; from
the third on one may be lost, from the fifth on two. Servers beyond five use the others'.

` + adminHelp,
		Example: `  culvert cluster token
  culvert cluster list`,
		Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f.add(cmd, env)
	cmd.AddCommand(newClusterToken(env, &f), newClusterList(env, &f), newClusterRemove(env, &f))
	return cmd
}

func newClusterToken(env *Env, f *adminFlags) *cobra.Command {
	expires := lifetime(24 * time.Hour)
	var output string
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make a token with which servers join, and print it",
		Long: `Make a token with which servers join until it expires, and print it, this once. It gives
whoever has it all that the cluster knows: pass it on in a file, and revoke it when it is
not needed any more (culvert token revoke).`,
		Example: `  culvert cluster token > join-token
  culvert cluster token --expires 10m`,
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.client(cmd, env)
			if err != nil {
				return err
			}
			in := admin.Rights{Join: true, Label: "join", Expires: time.Now().Add(time.Duration(expires)).UTC().Truncate(time.Second)}
			var out admin.CreatedToken
			if err := c.call(cmd.Context(), http.MethodPost, "/tokens", in, &out); err != nil {
				return err
			}
			return printData(env, output, out, func(w io.Writer) { _, _ = fmt.Fprintln(w, out.Token) })
		},
	}
	cmd.Flags().Var(&expires, "expires", "how long it lives, such as 10m or 7d")
	addOutput(cmd, &output)
	return cmd
}

func newClusterList(env *Env, f *adminFlags) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the servers and their part in the cluster",
		Example: `  culvert cluster list --output json`,
		Args:    exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.client(cmd, env)
			if err != nil {
				return err
			}
			var list []admin.Member
			if err := c.call(cmd.Context(), http.MethodGet, "/members", nil, &list); err != nil {
				return err
			}
			return printData(env, output, list, func(w io.Writer) { printMembers(w, list) })
		},
	}
	addOutput(cmd, &output)
	return cmd
}

func printMembers(w io.Writer, list []admin.Member) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "NAME\tADDRESS\tPART\tSTATE\tMEMBER")
	voters, there := 0, 0
	for _, m := range list {
		name, state, part, id := m.Name, "there", m.Role, m.ID
		if m.Node == "" {
			name, state = "-", "away"
		}
		if m.Role == "voter" {
			voters++
			if m.Node != "" {
				there++
			}
		}
		if m.Leader {
			part += ", leads"
		}
		if id == "" {
			id = "-"
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", tunnel.Clean(name), tunnel.Clean(m.Address), part, state, id)
	}
	_ = t.Flush()
	_, _ = fmt.Fprintln(w, "\n"+advice(len(list), voters, there))
}

// advice says what a cluster of that size stands.
func advice(servers, voters, there int) string {
	spare := there - (voters/2 + 1)
	switch {
	case spare < 0:
		return fmt.Sprintf("Only %d of %d voters are there: what is bound is served, nothing new can be until one more is.", there, voters)
	case voters == 1 && servers == 1:
		return "One server: add two more, and any one of the three may be lost."
	case voters == 1:
		return "One server votes, the other has a copy: if the voter is lost, nothing new can be bound. Add a third."
	case spare == 0:
		return fmt.Sprintf("%d voters, %d there: if one more is lost, nothing new can be bound. Bring back or replace what is away (culvert cluster remove).", voters, there)
	}
	return fmt.Sprintf("%d voters, %d there: %d more may be lost.", voters, there, spare)
}

func newClusterRemove(env *Env, f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "remove SERVER",
		Short: "Take a server out of the cluster for good",
		Long: `Take a server out of the cluster for good, such as one whose machine is lost: what takes its
place joins as a new one. A server that runs is told, and ends. It takes the name of a server
that is there, or the address or the id of any.

Whoever has the lost machine's disk still has the cluster's certificates.`,
		Example: `  culvert cluster remove 10.0.0.3:7443`,
		Args:    exactly(1, "one server, by its name, address or id: see culvert cluster list"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client(cmd, env)
			if err != nil {
				return err
			}
			return c.call(cmd.Context(), http.MethodDelete, "/members/"+url.PathEscape(args[0]), nil, nil)
		},
	}
}
