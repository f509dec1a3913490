package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/config"
)

func newReload(env *Env) *cobra.Command {
	var path, state, output string
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Apply a changed configuration file to the running agent",
		Long: `Apply a changed configuration file to the agent that culvert start runs with it.

The agent sees for itself when the file is saved; this does it at once and tells what
changed, or what is wrong with the file.`,
		Example: `  culvert reload
  culvert reload --config /etc/culvert/culvert.yml --output json`,
		Args:              exactly(0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := findConfig(env, cmd, path)
			if err != nil {
				return err
			}
			// Only for where the agent keeps its socket. What is wrong with the file is
			// for the agent to say, whose environment may be another.
			_, settings, err := config.LoadAgent(file, env.LookupEnv)
			if err != nil {
				settings = nil
			}
			if err := overlay(cmd, env, settings); err != nil {
				return err
			}
			dir, err := stateDir(env, state)
			if err != nil {
				return err
			}
			socket, err := socketPath(dir, file)
			if err != nil {
				return err
			}
			done, err := askReload(cmd.Context(), socket, file)
			if err != nil {
				return err
			}
			return printData(env, output, done, func(w io.Writer) { showReloaded(w, done) })
		},
	}
	addConfig(cmd, &path)
	cmd.Flags().StringVar(&state, "state", "", "directory that keeps who the agent is, if culvert start has one")
	addOutput(cmd, &output)
	return cmd
}

// askReload asks the agent behind a socket.
func askReload(ctx context.Context, socket, file string) (reloaded, error) {
	var done reloaded
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent/reload", nil)
	if err != nil {
		return done, err
	}
	res, err := client.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return done, fmt.Errorf("no agent of this user runs with %s: start it with culvert start, or name its --config and --state", file)
	case err != nil:
		return done, fmt.Errorf("ask the agent: %w", err)
	}
	defer res.Body.Close() //nolint:errcheck // read
	body := io.LimitReader(res.Body, 1<<20)
	if res.StatusCode == http.StatusUnprocessableEntity {
		var fault struct{ Message string }
		if err := json.NewDecoder(body).Decode(&fault); err != nil {
			return done, fmt.Errorf("read the agent's answer: %w", err)
		}
		return done, usagef("%s", fault.Message)
	}
	if res.StatusCode != http.StatusOK {
		return done, fmt.Errorf("the agent answered %s", res.Status)
	}
	if err := json.NewDecoder(body).Decode(&done); err != nil {
		return done, fmt.Errorf("read the agent's answer: %w", err)
	}
	return done, nil
}

// showReloaded prints what changed, a line for each kind of change.
func showReloaded(w io.Writer, r reloaded) {
	for _, line := range []struct {
		what  string
		names []string
	}{
		{"added", r.Added},
		{"removed", r.Removed},
		{"asked for anew", r.Rebound},
		{"to another upstream", r.Moved},
		{"kept", r.Kept},
		{"needs a restart", r.NeedsRestart},
	} {
		if len(line.names) > 0 {
			_, _ = fmt.Fprintf(w, "%-20s %s\n", line.what, strings.Join(line.names, " "))
		}
	}
}
