package cli

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/culvert-tunnel/culvert/internal/version"
)

func newMan(env *Env) *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write manual pages",
		Long:  "Write a manual page for each command into a directory, which is made if it is not there.",
		Example: `  culvert man man1
  culvert man /usr/local/share/man/man1`,
		Args: exactly(1, "one directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil { //nolint:gosec // for everyone to read
				return err
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true // the same pages from the same program
			header := &doc.GenManHeader{Title: "CULVERT", Section: "1", Source: "Culvert " + version.String(), Manual: "Culvert", Date: &time.Time{}}
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return fmt.Errorf("write manual pages: %w", err)
			}
			_, _ = fmt.Fprintf(env.Stderr, "Wrote manual pages into %s. Read one with: man -l %s/culvert.1\n", args[0], shellQuote(args[0]))
			return nil
		},
	}
}
