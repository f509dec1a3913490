package cli

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/term"

	"github.com/culvert-tunnel/culvert/internal/agent/api"
	"github.com/culvert-tunnel/culvert/internal/agent/screen"
	"github.com/culvert-tunnel/culvert/internal/version"
)

// screenFlags say where a status screen is shown, and what takes the log meanwhile.
type screenFlags struct {
	env     *Env
	in, out *os.File
	notices *screen.Notices
}

// wantsScreen reports whether the agent is to show a status screen: there must be a
// person in front of a terminal who has not asked for lines.
func (f *agentFlags) wantsScreen(env *Env) bool {
	kind, _ := env.LookupEnv("TERM")
	return f.screen == "auto" && f.log.format == "text" && screen.Fits(kind) && isTerminal(env.Stdin) && isTerminal(env.Stdout)
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// newScreenFlags makes them, with lines for what is logged while no screen is shown, and
// always if stderr is not on the terminal.
func newScreenFlags(env *Env, lines *slog.Logger) *screenFlags {
	return &screenFlags{
		env: env, in: env.Stdin.(*os.File), out: env.Stdout.(*os.File),
		notices: screen.NewNotices(lines.Handler(), !isTerminal(env.Stderr)),
	}
}

// errCutOff says that a second Ctrl-C ended the drain.
var errCutOff = errors.New("stopped at once: connections were cut off")

// around runs the agent with the screen around it: shown before it begins, gone when it
// has ended, so that what is said then is seen. A screen that fails leaves the agent be,
// and log lines take its place.
func (f *screenFlags) around(ctx context.Context, cancel context.CancelCauseFunc, local api.Config, page string) error {
	shown, hide := context.WithCancel(context.WithoutCancel(ctx))
	s := screen.New(screen.Config{
		Status: local.Agent.Status, Inspector: local.Inspector, Page: page, Version: version.String(), Notices: f.notices,
		Stop: func() { cancel(nil) },
		Abort: func() {
			cancel(nil)
			local.Agent.Abort()
		},
		In: f.in, Out: f.out, Environ: f.environ(),
	})
	if f.env.BeforeExit != nil {
		f.env.BeforeExit(s.Restore)
		defer f.env.BeforeExit(nil)
	}
	var task sync.WaitGroup
	task.Go(func() {
		if err := s.Run(shown); err != nil {
			local.Logger.Error("status screen ended: log lines take its place", "error", err)
		}
	})
	err := local.Agent.Run(ctx)
	hide()
	task.Wait()
	switch {
	case err != nil:
		return err
	case s.Aborted():
		return errCutOff
	}
	return cause(ctx)
}

// environ is what the screen must know of the environment.
func (f *screenFlags) environ() []string {
	var environ []string
	for _, name := range []string{
		"TERM", "COLORTERM", "TERM_PROGRAM", "TERM_PROGRAM_VERSION", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE",
		"TMUX", "STY", "WT_SESSION", "SSH_TTY", "GOOGLE_CLOUD_SHELL",
	} {
		if v, ok := f.env.LookupEnv(name); ok {
			environ = append(environ, name+"="+v)
		}
	}
	return environ
}
