package cli

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/config"
)

// imported is what culvert config import did.
type imported struct {
	File      string            `json:"file"` // that was written
	From      string            `json:"from"`
	Endpoints []checkedEndpoint `json:"endpoints"`
	Left      []string          `json:"not_carried_over"`
}

func newConfigImport(env *Env) *cobra.Command {
	var to, server, output string
	var force bool
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Make a configuration of ngrok's or frp's",
		Long: `Make an agent's configuration of one of ngrok (version 2 or 3) or of frpc (TOML, YAML or
JSON), and say what could not be carried over. Tokens are not: theirs are of no use here.`,
		Example: `  culvert config import ~/.config/ngrok/ngrok.yml
  culvert config import frpc.toml --server tunnel.example.com --to culvert.yml`,
		Args: exactly(1, "one file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := overlay(cmd, env, nil); err != nil {
				return err
			}
			in, err := config.Import(args[0])
			if err != nil {
				return usageError{err}
			}
			done := imported{File: to, From: in.From, Endpoints: []checkedEndpoint{}, Left: in.Left}
			if server != "" {
				in.Agent.Server = config.Texts{server}
			}
			all := in.Agent.Endpoints
			in.Agent.Endpoints = nil
			for _, e := range all {
				built, err := buildEndpoint(e)
				if err != nil {
					done.Left = append(done.Left, fmt.Sprintf("endpoint %s: %v", e.Name, err))
					continue
				}
				in.Agent.Endpoints = append(in.Agent.Endpoints, e)
				done.Endpoints = append(done.Endpoints, checkedEndpoint{e.Name, string(built.Spec.Kind), e.URL, e.Upstream})
			}
			if len(in.Agent.Endpoints) == 0 {
				return usagef("%s has no endpoint that could be carried over", args[0])
			}
			text, err := config.Write(in.Agent)
			if err != nil {
				return err
			}
			if err := writeNew(to, text, force); err != nil {
				return err
			}
			return printData(env, output, done, func(w io.Writer) { showImported(w, done) })
		},
	}
	cmd.Flags().StringVar(&to, "to", configFile, "file to write")
	cmd.Flags().StringVar(&server, "server", "", "Culvert server to write into it (default: that of culvert login)")
	cmd.Flags().BoolVar(&force, "force", false, "replace a file that is there")
	addOutput(cmd, &output)
	return cmd
}

func showImported(w io.Writer, done imported) {
	_, _ = fmt.Fprintf(w, "Wrote %s with %d endpoints of %s.\n", done.File, len(done.Endpoints), done.From)
	if len(done.Left) > 0 {
		_, _ = fmt.Fprintln(w, "Not carried over as it was:")
	}
	for _, l := range done.Left {
		_, _ = fmt.Fprintf(w, "  %s\n", l)
	}
}

// writeNew writes a configuration that only its user may read, as a token may come
// into it. It replaces a file only if that is asked for.
func writeNew(path string, text []byte, force bool) error {
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if force {
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if os.IsExist(err) {
		return usagef("%s is there already: choose another name, or replace it with --force", path)
	}
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	_, err = f.Write(text)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}
