package cli

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/culvert-tunnel/culvert/internal/config"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

func newLogin(env *Env) *cobra.Command {
	var server string
	cmd := &cobra.Command{
		Use:   "login [TOKEN]",
		Short: "Save server and token for later",
		Long: `Save server and token for later commands of this user.

Without TOKEN it is read from CULVERT_TOKEN or from standard input, which keeps it
out of the list of processes and of the shell's history.`,
		Example: `  culvert login --server tunnel.example.com`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("culvert login takes one token: see culvert login --help")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := overlay(cmd, env, nil); err != nil {
				return err
			}
			return login(env, server, args)
		},
	}
	cmd.Flags().StringVar(&server, "server", "", "server to dial: host or host:port")
	return cmd
}

func login(env *Env, server string, args []string) error {
	dirs, err := config.FindDirs(env.LookupEnv)
	if err != nil {
		return usageError{err}
	}
	old, err := config.LoadLogin(dirs)
	if err != nil {
		return err
	}
	if server == "" {
		server = old.Server
	}
	if server == "" {
		return usagef("no server: name it with --server")
	}
	if _, err := hostPort(server, "443"); err != nil {
		return err
	}
	text, ok := env.LookupEnv(config.EnvName("token"))
	switch {
	case len(args) == 1 && args[0] != "-":
		text = args[0]
	case !ok || len(args) == 1:
		if text, err = readToken(env); err != nil {
			return err
		}
	}
	token, err := tunnel.ParseToken(text)
	if err != nil {
		return usageError{err}
	}
	path, err := config.SaveLogin(dirs, config.Login{Server: server, Token: token.Reveal()})
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(env.Stderr, "Saved the token %s for %s in %s.\n", token, server, path)
	return nil
}

// readToken reads a line, unseen where standard input is a terminal.
func readToken(env *Env) (string, error) {
	if f, ok := env.Stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		_, _ = fmt.Fprint(env.Stderr, "Token: ")
		b, err := term.ReadPassword(int(f.Fd()))
		_, _ = fmt.Fprintln(env.Stderr)
		return string(b), err
	}
	line, err := bufio.NewReader(io.LimitReader(env.Stdin, 4096)).ReadString('\n')
	if line == "" && err != nil {
		return "", usagef("no token: give it as an argument or on standard input")
	}
	return strings.TrimSpace(line), nil
}
