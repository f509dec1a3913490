package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/server/admin"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

func newToken(env *Env) *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke agents' tokens",
		Long: `Make, list and revoke agents' tokens.

These commands speak to the running server through a unix socket in its data
directory, so they run on the server's machine as the server's user.`,
		Example: `  culvert token create --label laptop
  culvert token list --data /var/lib/culvert`,
		Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&data, "data", "", "the server's data directory (default "+defaultData(env)+")")
	client := func(cmd *cobra.Command) (*adminClient, error) {
		if err := overlay(cmd, env, nil); err != nil {
			return nil, err
		}
		if data == "" {
			data = defaultData(env)
		}
		return newAdminClient(data), nil
	}
	cmd.AddCommand(newTokenCreate(env, client), newTokenList(env, client), newTokenRevoke(env, client))
	return cmd
}

type clientFunc func(*cobra.Command) (*adminClient, error)

func newTokenCreate(env *Env, client clientFunc) *cobra.Command {
	var in admin.NewToken
	var output string
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token and print it, this once",
		Example: `  culvert token create --label laptop
  culvert token create --allow 'https://*.alice.example.com' --allow tcp:20000-20009`,
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			var out admin.CreatedToken
			if err := c.call(cmd.Context(), http.MethodPost, "/api/v1/tokens", in, &out); err != nil {
				return err
			}
			return printData(env, output, out, func(w io.Writer) { _, _ = fmt.Fprintln(w, out.Token) })
		},
	}
	cmd.Flags().StringVar(&in.Label, "label", "", "what the token is for")
	cmd.Flags().StringArrayVar(&in.Allow, "allow", nil, "what it may bind, such as https://*.example.com, tls://db.example.com, tcp:20000-20009; may be repeated (default: everything)")
	addOutput(cmd, &output)
	return cmd
}

func newTokenList(env *Env, client clientFunc) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the tokens, without their secrets",
		Example: `  culvert token list --output json`,
		Args:    exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			var list []admin.Token
			if err := c.call(cmd.Context(), http.MethodGet, "/api/v1/tokens", nil, &list); err != nil {
				return err
			}
			return printData(env, output, list, func(w io.Writer) { printTokens(w, list) })
		},
	}
	addOutput(cmd, &output)
	return cmd
}

func printTokens(w io.Writer, list []admin.Token) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "ID\tCREATED\tLABEL\tMAY BIND")
	for _, tok := range list {
		allow := strings.Join(tok.Allow, " ")
		if allow == "" {
			allow = "everything"
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", tok.ID, tok.Created.Format(time.RFC3339), tunnel.Clean(tok.Label), tunnel.Clean(allow))
	}
	_ = t.Flush()
}

func newTokenRevoke(_ *Env, client clientFunc) *cobra.Command {
	return &cobra.Command{
		Use:     "revoke ID",
		Short:   "Revoke a token and end its agents' sessions",
		Example: `  culvert token revoke h3na2hlish`,
		Args:    exactly(1, "the id of a token, as culvert token list shows it"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			return c.revoke(cmd.Context(), args[0])
		},
	}
}

// revoke takes an id, or a whole token for people who have just that at hand.
func (c *adminClient) revoke(ctx context.Context, id string) error {
	if parts := strings.Split(id, "_"); len(parts) >= 3 && parts[0] == "cvt" {
		id = parts[1]
	}
	return c.call(ctx, http.MethodDelete, "/api/v1/tokens/"+url.PathEscape(id), nil, nil)
}
