package cli

import (
	"bufio"
	"context"
	"errors"
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
	var server, tokenFile string
	cmd := &cobra.Command{
		Use:   "login [TOKEN]",
		Short: "Save server and token for later",
		Long: `Save server and token for later commands of this user.

Without TOKEN it is read from --token-file, from CULVERT_TOKEN or from standard input,
which keeps it out of the list of processes and of the shell's history.`,
		Example: `  culvert login --server tunnel.example.com
  culvert login --server tunnel.example.com --token-file token.txt
  ssh server culvert token create | culvert login --server tunnel.example.com`,
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
			return login(cmd.Context(), env, server, tokenFile, args)
		},
	}
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.Flags().StringVar(&server, "server", "", "server to dial: host or host:port")
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "file that holds the token")
	return cmd
}

func login(ctx context.Context, env *Env, server, tokenFile string, args []string) error {
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
	text, err := loginToken(ctx, env, tokenFile, args)
	if err != nil {
		return err
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

// loginToken finds the token: argument, file, environment, standard input.
func loginToken(ctx context.Context, env *Env, tokenFile string, args []string) (string, error) {
	switch {
	case len(args) == 1 && tokenFile != "":
		return "", usagef("TOKEN and --token-file exclude each other")
	case len(args) == 1 && args[0] != "-":
		return args[0], nil
	case tokenFile != "":
		return readTokenFile(tokenFile)
	}
	if text, _ := env.LookupEnv(config.EnvName("token")); text != "" && len(args) == 0 {
		return text, nil
	}
	// Nothing interrupts the reading of standard input, so it is left behind when the
	// user does; the process ends then. A terminal gets its echo back before.
	type answer struct {
		text string
		err  error
	}
	restore := func() {}
	if f, ok := env.Stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		if state, err := term.GetState(int(f.Fd())); err == nil {
			restore = func() { _ = term.Restore(int(f.Fd()), state) }
		}
	}
	read := make(chan answer, 1)
	go func() {
		text, err := readToken(env)
		read <- answer{text, err}
	}()
	select {
	case a := <-read:
		return a.text, a.err
	case <-ctx.Done():
		restore()
		_, _ = fmt.Fprintln(env.Stderr)
		return "", errInterrupted
	}
}

var errInterrupted = errors.New("interrupted: nothing was saved")

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
