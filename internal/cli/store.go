package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/server"
)

func newStore(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Back up the state of a server or cluster, and restore it",
		Long: `Back up the state of a server or cluster, and restore it: tokens, reserved names, accounts
and certificates of ACME, and the CA that agents trust. What is live comes back by itself.`,
		Example: `  culvert store backup culvert.backup
  culvert store restore culvert.backup --data /var/lib/culvert`,
		Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newStoreBackup(env), newStoreRestore(env))
	return cmd
}

func newStoreBackup(env *Env) *cobra.Command {
	var f adminFlags
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write a backup to a file while the server runs",
		Long: `Write a backup to a file, while the server runs. One does for the whole cluster. The file
(mode 0600) holds keys: keep it as safe as the server. It replaces one that is there, once it is
whole.

` + adminHelp,
		Example: `  culvert store backup culvert.backup`,
		Args:    exactly(1, "one file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client(cmd, env)
			if err != nil {
				return err
			}
			return c.backup(cmd.Context(), args[0])
		},
	}
	f.add(cmd, env)
	return cmd
}

// backup fetches a backup into a file.
func (c *adminClient) backup(ctx context.Context, path string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name()) // gone where all went well
	}()
	c.http.Timeout = 0
	if err := c.fetch(ctx, "/backup", f); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	if err := server.CheckBackup(f); err != nil {
		return fmt.Errorf("the server broke off: see its log, and try again: %w", err)
	}
	if err := errors.Join(f.Sync(), os.Rename(f.Name(), path)); err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	return nil
}

// fetch copies an answer as it is.
func (c *adminClient) fetch(ctx context.Context, path string, to io.Writer) error {
	res, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close() //nolint:errcheck // read
	if _, err := io.Copy(to, res.Body); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return nil
}

func newStoreRestore(env *Env) *cobra.Command {
	f := newServerFlags()
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make a new data directory from a backup",
		Long: `Make a new data directory from a backup, while no server runs on it; with --etcd, an etcd
that has no keys of this cluster. Give it the flags or the configuration file of culvert server,
then start that as always. The other servers of a cluster join it anew, with new data directories.`,
		Example: `  culvert store restore culvert.backup
  culvert store restore culvert.backup --config /etc/culvert/server.yml`,
		Args: exactly(1, "one file, which culvert store backup has written"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := f.load(cmd, env)
			if err != nil {
				return err
			}
			file, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("read the backup: %w", err)
			}
			defer file.Close() //nolint:errcheck // read
			if err := server.Restore(cmd.Context(), cfg, file); err != nil {
				return fmt.Errorf("restore %s into %s: %w", args[0], cfg.DataDir, err)
			}
			return nil
		},
	}
	f.add(cmd, env)
	return cmd
}
