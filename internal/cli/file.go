package cli

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

func newFile(env *Env) *cobra.Command {
	var f endpointFlags
	cmd := &cobra.Command{
		Use:   "file DIR",
		Short: "Publish a directory under a host name",
		Long: `Publish a directory under a host name: files with ranges, folders by their
index.html or a listing. Nothing outside the directory is reached, by links neither, and
nothing whose name begins with a dot unless --hidden says so.`,
		Example: `  culvert file public
  culvert file . --name files --upload`,
		Args: exactly(1, "one directory"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := overlay(cmd, env, nil); err != nil {
				return err
			}
			dir, err := filepath.Abs(args[0]) // names the endpoint too
			if err != nil {
				return usageError{err}
			}
			e, err := f.endpoint(endpoint.HTTP, "file:"+dir)
			if err != nil {
				return err
			}
			return f.agent.run(cmd.Context(), env, []agent.Endpoint{e})
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.url, "url", "", "public URL to ask for")
	fs.StringVar(&f.name, "name", "", "name below the server's domain to ask for")
	fs.BoolVar(&f.hidden, "hidden", false, "serve and list names that begin with a dot, too")
	fs.BoolVar(&f.upload, "upload", false, "take files from visitors, of at most 1 GiB each; none is replaced")
	fs.BoolVar(&f.redirect, "redirect", false, "always redirect the plain port to https")
	fs.BoolVar(&f.noRedirect, "no-redirect", false, "never redirect the plain port to https")
	f.agent.add(cmd)
	return cmd
}
