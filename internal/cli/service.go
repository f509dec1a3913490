package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/kardianos/service"
	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/config"
)

func newService(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "service",
		Short: "Run an agent or a server as a service of this machine",
		Long: `Run an agent or a server as a service of this machine: under systemd, launchd or the
service manager of Windows. Root's is the machine's, anybody else's is the user's own.`,
		Example: `  culvert service install
  culvert service install server --config /etc/culvert/server.yml
  culvert service status
  culvert service uninstall`,
		Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newServiceInstall(env), newServiceUninstall(env), newServiceStatus(env), newServiceRun(env))
	return cmd
}

// serviceFlags say which service is meant.
type serviceFlags struct {
	name   string
	user   bool
	server bool // of the argument
}

func (f *serviceFlags) add(cmd *cobra.Command) {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 || len(args) == 1 && args[0] != "server" && args[0] != "agent" {
			return usagef("%s takes agent or server: see %s --help", cmd.CommandPath(), cmd.CommandPath())
		}
		f.server = len(args) == 1 && args[0] == "server"
		return nil
	}
	cmd.ValidArgs = []string{"agent", "server"}
	cmd.Flags().StringVar(&f.name, "name", "", "name of the service (default culvert-agent or culvert-server)")
	cmd.Flags().BoolVar(&f.user, "user", os.Geteuid() != 0, "the user's own service, not the machine's")
	cmd.Flags().Lookup("user").DefValue = "unless run by root"
}

func (f *serviceFlags) serviceName() string {
	switch {
	case f.name != "":
		return f.name
	case f.server:
		return "culvert-server"
	}
	return "culvert-agent"
}

// installed is the service as the machine's manager knows it.
func (f *serviceFlags) installed(c service.Config) (service.Service, error) {
	c.Name = f.serviceName()
	if strings.ContainsFunc(c.Name, func(r rune) bool { return r <= ' ' || strings.ContainsRune(`/\@%"'`, r) }) {
		return nil, usagef("--name %q: use letters, digits and hyphens", c.Name)
	}
	if c.Option == nil {
		c.Option = service.KeyValue{}
	}
	c.Option["UserService"] = f.user
	s, err := service.New(nothing{}, &c)
	if err != nil {
		return nil, fmt.Errorf("find the machine's service manager: %w", err)
	}
	return s, nil
}

// nothing is a program that only install and its like know.
type nothing struct{}

func (nothing) Start(service.Service) error { return nil }
func (nothing) Stop(service.Service) error  { return nil }

func newServiceInstall(env *Env) *cobra.Command {
	var f serviceFlags
	var path, as string
	var show bool
	cmd := &cobra.Command{
		Use:   "install [agent|server]",
		Short: "Install and start a service",
		Long: `Install and start a service that runs culvert start, or culvert server, with a
configuration file. The file is checked before. A service does not see your shell's
environment, and the machine's not your login: server and token must stand in the file,
the latter as token_file or ${file:…}.`,
		Example: `  culvert service install --config /etc/culvert/culvert.yml
  culvert service install server --config /etc/culvert/server.yml
  culvert service install --print`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := overlay(cmd, env, nil); err != nil {
				return err
			}
			p, err := f.program(env, cmd, path, as)
			if err != nil {
				return err
			}
			if show {
				_, _ = io.WriteString(env.Stdout, p.systemdUnit())
				return nil
			}
			return f.install(env, p)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&path, "config", "", "configuration file (default: as for culvert start; a server's must be named)")
	cmd.Flags().StringVar(&as, "as", "", "user that the machine's service runs as (default root)")
	cmd.Flags().BoolVar(&show, "print", false, "print the systemd unit and change nothing")
	return cmd
}

// program checks the configuration and says what the service is to run.
func (f *serviceFlags) program(env *Env, cmd *cobra.Command, path, as string) (program, error) {
	p := program{server: f.server, user: f.user, as: as, name: f.serviceName()}
	var err error
	if f.server && path == "" {
		return p, usagef("name the server's configuration with --config")
	}
	if p.config, err = findConfig(env, cmd, path); err != nil {
		return p, err
	}
	if p.config, err = filepath.Abs(p.config); err != nil {
		return p, err
	}
	// What the service will see: nothing but where the user is at home.
	bare := *env
	bare.LookupEnv = func(k string) (string, bool) {
		if strings.HasPrefix(k, "CULVERT_") || !f.user {
			return "", false
		}
		return env.LookupEnv(k)
	}
	c, err := checkFile(&bare, p.config)
	if err != nil {
		return p, fmt.Errorf("%w: a service sees no variables of your shell", err)
	}
	if (c.Kind == "server") != f.server {
		return p, usagef("%s is the configuration of %s %s: install that with culvert service install %s", p.config, article(c.Kind), c.Kind, c.Kind)
	}
	if f.server {
		settings, err := config.LoadServer(p.config, bare.LookupEnv)
		if err != nil {
			return p, usageError{err}
		}
		_, p.placed = settings["data"]
	} else {
		file, _, err := config.LoadAgent(p.config, bare.LookupEnv)
		if err != nil {
			return p, usageError{err}
		}
		p.placed = file.State != ""
		token := file.Token
		if file.TokenFile != "" {
			token = "in the file"
		}
		if _, _, err := config.Find(bare.LookupEnv, strings.Join(file.Server, ","), token); err != nil {
			return p, usagef("%s names no server and token, and the service has no login: write server and token_file there", p.config)
		}
	}
	if p.binary, err = os.Executable(); err == nil {
		p.binary, err = filepath.EvalSymlinks(p.binary)
	}
	return p, err
}

func article(noun string) string {
	if strings.HasPrefix(noun, "a") {
		return "an"
	}
	return "a"
}

// install gives the service to the manager and starts it.
func (f *serviceFlags) install(env *Env, p program) error {
	args := p.args()
	if service.Platform() == "windows-service" {
		args = append([]string{"service", "run", "--"}, args...)
	}
	s, err := f.installed(service.Config{
		DisplayName: "Culvert " + p.kind(), Description: p.description(), UserName: p.as, Executable: p.binary, Arguments: args,
		Option: service.KeyValue{"SystemdScript": strings.ReplaceAll(p.systemdUnit(), "{{", "{ {"), "RunAtLoad": true, "OnFailure": "restart"},
	})
	if err != nil {
		return err
	}
	if err := s.Install(); err != nil {
		return fmt.Errorf("install %s: %w: see culvert service status, and uninstall it first to change it", p.name, err)
	}
	if err := s.Start(); err != nil {
		return fmt.Errorf("start %s: %w: it is installed; its log says why", p.name, err)
	}
	_, _ = fmt.Fprintf(env.Stderr, "Installed and started %s under %s, with %s.\n", p.name, s.Platform(), p.config)
	return nil
}

func newServiceUninstall(env *Env) *cobra.Command {
	var f serviceFlags
	cmd := &cobra.Command{
		Use:   "uninstall [agent|server]",
		Short: "Stop and remove a service",
		Long:  "Stop and remove a service. Its configuration and its state stay.",
		Example: `  culvert service uninstall
  culvert service uninstall server`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := overlay(cmd, env, nil); err != nil {
				return err
			}
			s, err := f.installed(service.Config{})
			if err != nil {
				return err
			}
			_ = s.Stop() // it may not run
			if err := s.Uninstall(); err != nil {
				return fmt.Errorf("remove %s: %w: see culvert service status", f.serviceName(), err)
			}
			_, _ = fmt.Fprintf(env.Stderr, "Removed %s.\n", f.serviceName())
			return nil
		},
	}
	f.add(cmd)
	return cmd
}

func newServiceStatus(env *Env) *cobra.Command {
	var f serviceFlags
	var output string
	cmd := &cobra.Command{
		Use:   "status [agent|server]",
		Short: "Say whether a service is installed and runs",
		Long:  "Say whether a service is installed and runs. The exit code is 1 if it does not.",
		Example: `  culvert service status
  culvert service status server --output json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := overlay(cmd, env, nil); err != nil {
				return err
			}
			s, err := f.installed(service.Config{})
			if err != nil {
				return err
			}
			state := "stopped"
			status, err := s.Status()
			switch {
			case errors.Is(err, service.ErrNotInstalled):
				state = "not installed"
			case err != nil && s.Platform() == "linux-systemd":
				state = "failed" // one of systemd's words, no error of asking it
			case err != nil:
				return fmt.Errorf("%s tells nothing of %s, which may not be installed: %w", s.Platform(), f.serviceName(), err)
			case status == service.StatusRunning:
				state = "running"
			}
			err = printData(env, output, map[string]any{"name": f.serviceName(), "manager": s.Platform(), "state": state},
				func(w io.Writer) { _, _ = fmt.Fprintf(w, "%s is %s (%s).\n", f.serviceName(), state, s.Platform()) })
			if err == nil && state != "running" {
				err = fmt.Errorf("%s does not run: %s", f.serviceName(), map[string]string{
					"stopped": "its log says why it stopped", "failed": "its log says why", "not installed": "install it with culvert service install",
				}[state])
			}
			return err
		},
	}
	f.add(cmd)
	addOutput(cmd, &output)
	return cmd
}

// newServiceRun is what the service manager of Windows starts: it wants to be told
// that the service is up, and asks it to stop by other means than a signal.
func newServiceRun(env *Env) *cobra.Command {
	return &cobra.Command{
		Use: "run -- COMMAND…", Hidden: true, Short: "Run a command as a service of Windows",
		Example: `  culvert service run -- start --config C:\culvert.yml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			h := &hosted{env: *env, ctx: cmd.Context} //nolint:contextcheck // the manager's, and the command's
			h.env.Args = args
			s, err := service.New(h, &service.Config{Name: "culvert"})
			if err != nil {
				return err
			}
			if err := s.Run(); err != nil {
				return fmt.Errorf("run as a service: %w", err)
			}
			if h.code != exitOK {
				return fmt.Errorf("the service ended with exit code %d: its log says why", h.code)
			}
			return nil
		},
	}
}

// hosted is a command that a service manager starts and stops.
type hosted struct {
	env    Env
	ctx    func() context.Context
	cancel context.CancelFunc
	done   chan struct{}
	code   int // after done
}

func (h *hosted) Start(service.Service) error {
	ctx, cancel := context.WithCancel(h.ctx())
	h.cancel, h.done = cancel, make(chan struct{})
	go func() {
		defer close(h.done)
		h.code = Run(ctx, h.env)
	}()
	return nil
}

func (h *hosted) Stop(service.Service) error {
	h.cancel()
	<-h.done
	return nil
}
