package cli

import (
	"fmt"
	"io"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/server/admin"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

func newCert(env *Env) *cobra.Command {
	var f adminFlags
	var output string
	cmd := &cobra.Command{
		Use:     "cert",
		Short:   "List the server's certificates",
		Long:    "List the server's certificates.\n\n" + adminHelp,
		Example: `  culvert cert list`,
		Args:    noCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	list := &cobra.Command{
		Use:   "list",
		Short: "List given certificates and those by ACME, with what is wrong",
		Example: `  culvert cert list
  culvert cert list --output json`,
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.client(cmd, env)
			if err != nil {
				return err
			}
			var list []admin.Certificate
			if err := c.call(cmd.Context(), http.MethodGet, "/certificates", nil, &list); err != nil {
				return err
			}
			return printData(env, output, list, func(w io.Writer) { printCertificates(w, list) })
		},
	}
	f.add(cmd, env)
	addOutput(list, &output)
	cmd.AddCommand(list)
	return cmd
}

func printCertificates(w io.Writer, list []admin.Certificate) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "HOST\tSOURCE\tSTATE\tEXPIRES\tISSUER\tERROR")
	for _, c := range list {
		expires := "-"
		if !c.Expires.IsZero() {
			expires = c.Expires.Format(time.RFC3339)
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", tunnel.Clean(c.Host), c.Source, c.State, expires, tunnel.Clean(c.Issuer), tunnel.Clean(c.Error))
	}
	_ = t.Flush()
}
