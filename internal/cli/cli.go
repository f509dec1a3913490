// Package cli is the command line: one file per subcommand, all of them thin. It
// reads what the user says through package config and runs server or agent.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/lmittmann/tint"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/config"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
	"github.com/culvert-tunnel/culvert/internal/version"
)

// Exit codes.
const (
	exitOK       = 0
	exitFailed   = 1 // anything else
	exitUsage    = 2 // the command line or a configuration file is wrong
	exitRefused  = 3 // the server refused the agent, or is not the one to trust
	exitEndpoint = 4 // the server refused an endpoint, or another run took the last one over
)

// Env is the world a command runs in.
type Env struct {
	Args      []string // without the program's name
	Stdin     io.Reader
	Stdout    io.Writer
	Stderr    io.Writer
	LookupEnv config.LookupEnv

	// BeforeExit, if set, is given what must be done before the process ends without
	// waiting for Run, and nil when that is no longer so.
	BeforeExit func(func())
}

// usageError is a fault of the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// Run runs the command in env and returns the exit code. The end of ctx stops it
// in an orderly way.
func Run(ctx context.Context, env Env) int {
	root := newRoot(&env)
	root.SetArgs(env.Args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	_, _ = fmt.Fprintf(env.Stderr, "culvert: %s\n", strings.ReplaceAll(explain(err), "\n", "; ")) // errors.Join's
	return exitCode(err)
}

func exitCode(err error) int {
	var usage usageError
	var file *config.Error
	var refusal *tunnel.RefusalError
	var bind *tunnel.BindError
	switch {
	case errors.As(err, &refusal), link.Untrusted(err):
		return exitRefused
	case errors.As(err, &bind), errors.Is(err, agent.ErrNoEndpoints):
		return exitEndpoint
	case errors.As(err, &usage), errors.As(err, &file):
		return exitUsage
	}
	return exitFailed
}

// explain adds what to do to errors that don't say it themselves.
func explain(err error) string {
	var refusal *tunnel.RefusalError
	switch {
	case errors.Is(err, link.ErrWrongNode):
		return err.Error() + ": check --server and the token; whoever answers there may be an impostor"
	case link.Untrusted(err):
		return err.Error() + ": use a token with a fingerprint, or name the server's CA with --ca"
	case errors.As(err, &refusal) && (refusal.Code == tunnel.CodeTokenInvalid || refusal.Code == tunnel.CodeTokenExpired):
		return refusal.Error() + "; then run: culvert login"
	}
	return err.Error()
}

func newRoot(env *Env) *cobra.Command {
	root := &cobra.Command{
		Use:   "culvert",
		Short: "Put a service that sits behind NAT on a public URL",
		Long: `Culvert puts a service that sits behind NAT on a public URL.

A server on a public host accepts agents that dial out to it; visitors reach the
agents' services by host name, TLS server name or port.

Every flag can also be set in the environment: --tcp-ports as CULVERT_TCP_PORTS.
Flags win over the environment, which wins over configuration files.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 the server refused
the agent or can't be trusted; 4 the server refused an endpoint, or a newer run of
the same agent took the last one over.`,
		Example: `  culvert demo
  culvert server --domain tunnel.example.com
  culvert http 3000 --server tunnel.example.com`,
		Version:       version.String(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("culvert {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w: see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(
		newDemo(env), newServer(env), newHTTP(env), newTCP(env), newTLS(env), newUDP(env), newFile(env), newStart(env), newReload(env),
		newConfig(env), newDoctor(env), newService(env), newMan(env), newUpdate(env),
		newLogin(env), newToken(env), newName(env), newCluster(env), newStore(env), newStatus(env), newCert(env), newVersion(env),
	)
	return root
}

// noCommand refuses what should have been a subcommand.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	near := ""
	if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
		near = fmt.Sprintf(", did you mean %q?", s[0])
	}
	return usagef("unknown command %q%s: see %s --help", args[0], near, cmd.CommandPath())
}

// exactly is cobra.ExactArgs with an error that says what is missing.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return usagef("%s takes %s: see %s --help", cmd.CommandPath(), what, cmd.CommandPath())
	}
}

// logFlags are the flags of commands that log.
type logFlags struct {
	format string
	level  string
}

func (l *logFlags) add(cmd *cobra.Command) {
	if l.level == "" {
		l.level = "info"
	}
	addChoice(cmd, &l.format, "log-format", "", "log lines as text or json", "text", "json")
	addChoice(cmd, &l.level, "log-level", "", "least level that is logged: debug, info, warn or error", "debug", "info", "warn", "error")
}

// logger makes the logger that the flags ask for, on stderr.
func (l *logFlags) logger(env *Env) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.level)); err != nil {
		return nil, usageError{err}
	}
	if l.format == "json" {
		return slog.New(slog.NewJSONHandler(env.Stderr, &slog.HandlerOptions{Level: level})), nil
	}
	if f, ok := env.Stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		_, plain := env.LookupEnv("NO_COLOR")
		return slog.New(tint.NewTextHandler(f, &tint.Options{Level: level, TimeFormat: time.TimeOnly, NoColor: plain})), nil
	}
	return slog.New(slog.NewTextHandler(env.Stderr, &slog.HandlerOptions{Level: level})), nil
}

// overlay completes a command's flags from environment and file.
func overlay(cmd *cobra.Command, env *Env, file config.Settings) error {
	if err := config.Overlay(cmd.Flags(), env.LookupEnv, file); err != nil {
		return usageError{err}
	}
	return nil
}

func newVersion(env *Env) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Show the version",
		Example: `  culvert version --output json`,
		Args:    exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := overlay(cmd, env, nil); err != nil {
				return err
			}
			return printData(env, output, map[string]any{"version": version.String(), "protocol": tunnel.Version},
				func(w io.Writer) { _, _ = fmt.Fprintln(w, "culvert "+version.String()) })
		},
	}
	addOutput(cmd, &output)
	return cmd
}

func addOutput(cmd *cobra.Command, output *string) {
	addChoice(cmd, output, "output", "o", "form of the output: text or json", "text", "json")
}

// hostPort is config.HostPort for what the user wrote.
func hostPort(address, port string) (string, error) {
	a, err := config.HostPort(address, port)
	if err != nil {
		return "", usageError{err}
	}
	return a, nil
}
