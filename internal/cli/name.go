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
)

func newName(env *Env) *cobra.Command {
	var f adminFlags
	cmd := &cobra.Command{
		Use:   "name",
		Short: "Reserve names for tokens",
		Long: `Reserve names for tokens: nobody else may bind them, also while no agent serves them.

A name is written https://app.example.com, tls://db.example.com or tcp://:20022; one word
is a name below the server's domain. ` + adminHelp,
		Example: `  culvert name reserve https://app.example.com --token h3na2hlish
  culvert name list`,
		Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f.add(cmd, env)
	cmd.AddCommand(newNameReserve(env, &f), newNameList(env, &f), newNameRelease(env, &f))
	return cmd
}

func newNameReserve(env *Env, f *adminFlags) *cobra.Command {
	var token, output string
	cmd := &cobra.Command{
		Use:     "reserve NAME",
		Short:   "Keep a name for a token's agents",
		Example: `  culvert name reserve app --token h3na2hlish`,
		Args:    exactly(1, "one name, such as https://app.example.com"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client(cmd, env)
			if err != nil {
				return err
			}
			if token == "" {
				return usagef("name the token that shall have it with --token: see culvert token list")
			}
			var out admin.Name
			in := admin.NewName{Name: args[0], Token: tokenID(token)}
			if err := c.call(cmd.Context(), http.MethodPost, "/names", in, &out); err != nil {
				return err
			}
			return printData(env, output, out, func(w io.Writer) { _, _ = fmt.Fprintln(w, out.Name) })
		},
	}
	cmd.Flags().StringVar(&token, "token", "", "id of the token")
	addOutput(cmd, &output)
	return cmd
}

func newNameList(env *Env, f *adminFlags) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the names that belong to tokens",
		Long: `List the names that belong to tokens: reserved ones, and domains that another token gets
only by showing that they are its owner's.`,
		Example: `  culvert name list --output json`,
		Args:    exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.client(cmd, env)
			if err != nil {
				return err
			}
			var list []admin.Name
			if err := c.call(cmd.Context(), http.MethodGet, "/names", nil, &list); err != nil {
				return err
			}
			return printData(env, output, list, func(w io.Writer) { printNames(w, list) })
		},
	}
	addOutput(cmd, &output)
	return cmd
}

func printNames(w io.Writer, list []admin.Name) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "NAME\tTOKEN\tSINCE\tHOW")
	for _, n := range list {
		how := "had it last"
		if n.Kept {
			how = "reserved"
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", n.Name, n.Token, n.Created.Format(time.RFC3339), how)
	}
	_ = t.Flush()
}

func newNameRelease(env *Env, f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "release NAME",
		Short:   "Give a name up: whoever comes first may bind it",
		Example: `  culvert name release https://app.example.com`,
		Args:    exactly(1, "one name, as culvert name list shows it"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client(cmd, env)
			if err != nil {
				return err
			}
			return c.call(cmd.Context(), http.MethodDelete, "/names/"+url.PathEscape(args[0]), nil, nil)
		},
	}
}
