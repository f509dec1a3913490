package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/server/admin"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

func newToken(env *Env) *cobra.Command {
	var f adminFlags
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke tokens",
		Long:  "Make, list and revoke the tokens of agents and of administrators.\n\n" + adminHelp,
		Example: `  culvert token create --label laptop
  culvert token list --data /var/lib/culvert`,
		Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f.add(cmd, env)
	cmd.AddCommand(newTokenCreate(env, &f), newTokenList(env, &f), newTokenRevoke(env, &f))
	return cmd
}

func newTokenCreate(env *Env, f *adminFlags) *cobra.Command {
	var in admin.Rights
	var expires lifetime
	var output string
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token and print it, this once",
		Long: `Make a token and print it, this once.

Without --allow its agents may bind everything that is free. The limits of sessions,
connections and bandwidth hold for each node of a cluster by itself, that of endpoints for
all of them together. When a token expires or is revoked, its agents' sessions end.`,
		Example: `  culvert token create --label laptop
  culvert token create --allow 'https://*.alice.example.com' --allow tcp:20000-20009 --max-endpoints 10 --expires 30d
  culvert token create --label guest --expires 12h --max-sessions 1 --max-connections 50 --bandwidth 10MB --no-pool
  culvert token create --admin --label monitoring`,
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.client(cmd, env)
			if err != nil {
				return err
			}
			if expires > 0 {
				in.Expires = time.Now().Add(time.Duration(expires)).UTC().Truncate(time.Second)
			}
			var out admin.CreatedToken
			if err := c.call(cmd.Context(), http.MethodPost, "/tokens", in, &out); err != nil {
				return err
			}
			return printData(env, output, out, func(w io.Writer) { _, _ = fmt.Fprintln(w, out.Token) })
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&in.Label, "label", "", "what the token is for")
	fs.StringArrayVar(&in.Allow, "allow", nil, "what it may bind, such as https://*.example.com, tls://db.example.com, tcp:20000-20009; may be repeated (default: everything)")
	fs.Var(amount{&in.MaxEndpoints}, "max-endpoints", "endpoints that all its agents may have together")
	fs.Var(amount{&in.MaxSessions}, "max-sessions", "agents that may be connected to a node at once")
	fs.Var(amount{&in.MaxConnections}, "max-connections", "visitors' connections through a node at once")
	fs.Var(rate{&in.Bandwidth}, "bandwidth", "bytes per second in each direction that visitors of its agents at a node may move together, such as 10MB or 80Mbit")
	fs.BoolVar(&in.NoPool, "no-pool", false, "its agents may not share a name (--pool)")
	fs.Var(&expires, "expires", "how long it lives, such as 12h or 30d")
	fs.BoolVar(&in.Admin, "admin", false, "for the admin API, and not for agents")
	addOutput(cmd, &output)
	return cmd
}

func newTokenList(env *Env, f *adminFlags) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the tokens, without their secrets",
		Example: `  culvert token list --output json`,
		Args:    exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.client(cmd, env)
			if err != nil {
				return err
			}
			var list []admin.Token
			if err := c.call(cmd.Context(), http.MethodGet, "/tokens", nil, &list); err != nil {
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
	_, _ = fmt.Fprintln(t, "ID\tCREATED\tEXPIRES\tLABEL\tMAY BIND\tLIMITS")
	for _, tok := range list {
		allow := strings.Join(tok.Allow, " ")
		switch {
		case tok.Admin:
			allow = "nothing: for administration"
		case tok.Join:
			allow = "nothing: for servers that join"
		case allow == "":
			allow = "everything"
		}
		expires := "never"
		switch {
		case tok.Expired:
			expires = "expired"
		case !tok.Expires.IsZero():
			expires = tok.Expires.Format(time.RFC3339)
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", tok.ID, tok.Created.Format(time.RFC3339), expires,
			tunnel.Clean(tok.Label), tunnel.Clean(allow), limits(tok.Rights))
	}
	_ = t.Flush()
}

func limits(r admin.Rights) string {
	var parts []string
	for _, l := range []struct {
		n    int
		what string
	}{{r.MaxEndpoints, "endpoints"}, {r.MaxSessions, "sessions"}, {r.MaxConnections, "connections"}} {
		if l.n > 0 {
			parts = append(parts, strconv.Itoa(l.n)+" "+l.what)
		}
	}
	if r.Bandwidth > 0 {
		parts = append(parts, strconv.FormatUint(r.Bandwidth, 10)+" bytes/s")
	}
	if r.NoPool {
		parts = append(parts, "no pools")
	}
	return strings.Join(parts, ", ")
}

func newTokenRevoke(env *Env, f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "revoke ID",
		Short:   "Revoke a token and end its agents' sessions",
		Example: `  culvert token revoke h3na2hlish`,
		Args:    exactly(1, "the id of a token, as culvert token list shows it"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client(cmd, env)
			if err != nil {
				return err
			}
			return c.revoke(cmd.Context(), args[0])
		},
	}
}

// revoke takes an id, or a whole token for people who have just that at hand.
func (c *adminClient) revoke(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/tokens/"+url.PathEscape(tokenID(id)), nil, nil)
}

func tokenID(s string) string {
	if parts := strings.Split(s, "_"); len(parts) >= 3 && parts[0] == "cvt" {
		return parts[1]
	}
	return s
}

// amount is a flag for a limit.
type amount struct{ to *int }

func (a amount) String() string {
	if a.to == nil || *a.to == 0 {
		return "no limit"
	}
	return strconv.Itoa(*a.to)
}
func (amount) Type() string { return "number" }
func (a amount) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return errors.New("write a number of at least 1")
	}
	*a.to = n
	return nil
}

// rate is a flag for bytes per second.
type rate struct{ to *uint64 }

func (r rate) String() string {
	if r.to == nil || *r.to == 0 {
		return "no limit"
	}
	return strconv.FormatUint(*r.to, 10)
}
func (rate) Type() string { return "bandwidth" }
func (r rate) Set(s string) error {
	n, err := parseBandwidth(s)
	if err == nil && n == 0 {
		err = errBandwidth
	}
	*r.to = n
	return err
}

// lifetime is a flag for a long time.
type lifetime time.Duration

func (l *lifetime) String() string {
	if *l == 0 {
		return "for ever"
	}
	return time.Duration(*l).String()
}
func (*lifetime) Type() string { return "duration" }
func (l *lifetime) Set(s string) error {
	d, err := time.ParseDuration(s)
	if days, isDays := strings.CutSuffix(s, "d"); isDays {
		var n int
		n, err = strconv.Atoi(days)
		if n > 100*365 {
			err = strconv.ErrRange
		}
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d < time.Second {
		return errors.New("write a duration such as 12h or 30d")
	}
	*l = lifetime(d)
	return nil
}
