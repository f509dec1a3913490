package cli

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/config"
)

func newConfig(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Write, check and edit configuration files",
		Example: `  culvert config init
  culvert config check
  culvert config edit`,
		Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newConfigInit(env), newConfigCheck(env), newConfigEdit(env), newConfigImport(env))
	return cmd
}

// The files that culvert config init writes.
var (
	//go:embed init_culvert.yml
	initAgent []byte
	//go:embed init_server.yml
	initServer []byte
)

func newConfigInit(env *Env) *cobra.Command {
	var server, force bool
	cmd := &cobra.Command{
		Use:   "init [FILE]",
		Short: "Write a configuration file to start from",
		Long: `Write a configuration file to start from, with a word about every setting:
culvert.yml for an agent, or server.yml with --server.`,
		Example: `  culvert config init
  culvert config init --server /etc/culvert/server.yml`,
		Args: atMostOne("one file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := overlay(cmd, env, nil); err != nil {
				return err
			}
			path, text, next := configFile, initAgent, "culvert start"
			if server {
				path, text, next = "server.yml", initServer, "culvert server"
			}
			if len(args) == 1 {
				path = args[0]
			}
			if err := writeNew(path, text, force); err != nil {
				return err
			}
			_, _ = fmt.Fprintf(env.Stderr, "Wrote %s. Edit it, then run: %s --config %s\n", path, next, shellQuote(path))
			return nil
		},
	}
	cmd.Flags().BoolVar(&server, "server", false, "the file of a server")
	cmd.Flags().BoolVar(&force, "force", false, "replace a file that is there")
	return cmd
}

// checked is what culvert config check finds.
type checked struct {
	File      string            `json:"file"`
	Kind      string            `json:"kind"` // agent or server
	OK        bool              `json:"ok"`
	Endpoints []checkedEndpoint `json:"endpoints,omitempty"`
	Faults    []checkedFault    `json:"faults,omitempty"`
}

type checkedEndpoint struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	URL      string `json:"url,omitempty"`
	Upstream string `json:"upstream"`
}

type checkedFault struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Message string `json:"message"`
}

func newConfigCheck(env *Env) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Say whether a configuration file is in order",
		Long: `Say whether a configuration file, an agent's or a server's, is in order; with line and
column if not. Nothing is started and no server is asked.`,
		Example: `  culvert config check
  culvert config check /etc/culvert/server.yml --output json`,
		Args: atMostOne("one file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := overlay(cmd, env, nil); err != nil {
				return err
			}
			path := ""
			if len(args) == 1 {
				path = args[0]
			}
			path, err := findConfig(env, cmd, path)
			if err != nil {
				return err
			}
			c, fault := checkFile(env, path)
			if fault != nil && output != "json" {
				return fault
			}
			err = printData(env, output, c, func(w io.Writer) {
				what := "a server's"
				if c.Kind == "agent" {
					what = fmt.Sprintf("an agent's with %d endpoints", len(c.Endpoints))
					if len(c.Endpoints) == 1 {
						what = "an agent's with 1 endpoint"
					}
				}
				_, _ = fmt.Fprintf(w, "%s is in order: %s.\n", path, what)
			})
			return errors.Join(fault, err)
		},
	}
	addOutput(cmd, &output)
	return cmd
}

// checkFile judges a configuration file of either kind.
func checkFile(env *Env, path string) (checked, error) {
	c := checked{File: path, Kind: "agent"}
	isServer, err := config.IsServer(path)
	if err != nil {
		return c, usageError{err}
	}
	if isServer {
		c.Kind = "server"
		cmd := newServer(env)
		var settings config.Settings
		if settings, err = config.LoadServer(path, env.LookupEnv); err == nil {
			err = config.OverlayFile(cmd.Flags(), settings)
		}
	} else {
		var file config.Agent
		var settings config.Settings
		file, _, settings, err = loadEndpoints(env, path, nil)
		if err == nil {
			err = config.OverlayFile(newStart(env).Flags(), settings)
		}
		for _, e := range file.Endpoints {
			kind := e.Kind
			if kind == "" {
				kind, _, _ = strings.Cut(e.URL, ":")
			}
			c.Endpoints = append(c.Endpoints, checkedEndpoint{e.Name, kind, e.URL, e.Upstream})
		}
	}
	if err != nil {
		c.Faults = faults(err)
		return c, usageError{err}
	}
	c.OK = true
	return c, nil
}

// faults lists the faults in an error that may be several.
func faults(err error) []checkedFault {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		var all []checkedFault
		for _, e := range several.Unwrap() {
			all = append(all, faults(e)...)
		}
		return all
	}
	if e, ok := errors.AsType[*config.Error](err); ok {
		return []checkedFault{{e.File, e.Line, e.Column, e.Message}}
	}
	return []checkedFault{{Message: err.Error()}}
}

func newConfigEdit(env *Env) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "edit",
		Short: "Edit the configuration file and check it before it counts",
		Long: `Edit a copy of the configuration file with $VISUAL or $EDITOR. It takes the file's
place only once it is in order; with a fault you are asked whether to edit on.`,
		Example: `  culvert config edit
  EDITOR=nano culvert config edit --config /etc/culvert/culvert.yml`,
		Args:              exactly(0, "no arguments; name the file with --config"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := findConfig(env, cmd, path)
			if err != nil {
				return err
			}
			return editConfig(cmd.Context(), env, found)
		},
	}
	addConfig(cmd, &path)
	return cmd
}

func editConfig(ctx context.Context, env *Env, path string) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // a link stays one
	}
	before, err := os.ReadFile(path)
	if err != nil {
		return usagef("%w: write one with culvert config init", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	// Beside the file, so that relative paths lead where they will, with its ending
	// for the editor.
	f, err := os.CreateTemp(filepath.Dir(path), ".edit-*-"+filepath.Base(path))
	if err != nil {
		return fmt.Errorf("copy configuration: %w", err)
	}
	draft := f.Name()
	defer os.Remove(draft) //nolint:errcheck // gone after the rename
	_, err = f.Write(before)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Chmod(draft, info.Mode().Perm())
	}
	if err != nil {
		return fmt.Errorf("copy configuration: %w", err)
	}
	for {
		if err := runEditor(ctx, env, draft); err != nil {
			return err
		}
		after, err := os.ReadFile(draft)
		if err != nil {
			return fmt.Errorf("read what was edited: %w", err)
		}
		if bytes.Equal(before, after) {
			_, _ = fmt.Fprintln(env.Stderr, "Nothing changed.")
			return nil
		}
		_, fault := checkFile(env, draft)
		if fault == nil {
			break
		}
		message := strings.ReplaceAll(fault.Error(), draft, path)
		_, _ = fmt.Fprintf(env.Stderr, "%s\nEdit on? [Y/n] ", message)
		answer, err := readLine(env.Stdin)
		if err != nil || strings.HasPrefix(strings.ToLower(answer), "n") {
			return usagef("%s: %s is as it was", message, path)
		}
	}
	if err := os.Rename(draft, path); err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	_, _ = fmt.Fprintf(env.Stderr, "Saved %s. An agent that runs with it applies the change by itself.\n", path)
	return nil
}

// readLine reads one line without taking what follows it.
func readLine(r io.Reader) (string, error) {
	var line []byte
	b := make([]byte, 1)
	for len(line) < 1024 {
		n, err := r.Read(b)
		if n == 1 && b[0] == '\n' {
			break
		}
		line = append(line, b[:n]...)
		if err != nil {
			return string(line), err
		}
	}
	return strings.TrimSpace(string(line)), nil
}

// runEditor runs the user's editor, a line of shell as for every program that asks
// for one.
func runEditor(ctx context.Context, env *Env, path string) error {
	editor := ""
	for _, name := range []string{"VISUAL", "EDITOR"} {
		if v, _ := env.LookupEnv(name); v != "" && editor == "" {
			editor = v
		}
	}
	if editor == "" {
		editor = "vi"
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", editor+` "$1"`, "sh", path) //nolint:gosec // the user's own word
	cmd.Stdin, cmd.Stdout, cmd.Stderr = env.Stdin, env.Stdout, env.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run the editor %s: %w: name another in EDITOR", editor, err)
	}
	return nil
}

// atMostOne lets a command take one argument or none.
func atMostOne(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usagef("%s takes %s: see %s --help", cmd.CommandPath(), what, cmd.CommandPath())
		}
		return nil
	}
}
