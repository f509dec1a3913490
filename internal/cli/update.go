package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/semver"

	"github.com/culvert-tunnel/culvert/internal/tunnel"
	"github.com/culvert-tunnel/culvert/internal/version"
)

func newUpdate(env *Env) *cobra.Command {
	var from, output string
	cmd := &cobra.Command{
		Use:   "update",
		Short: "Say whether there is a newer version",
		Long: `Say whether there is a newer version. Nothing is downloaded: update with what you
installed with.

It asks the URL of --url, or of CULVERT_UPDATE_URL, and nobody else; Culvert never asks
by itself. The answer is JSON with the latest version as version or, as GitHub's releases
have it, as tag_name.`,
		Example: `  culvert update --url https://api.github.com/repos/culvert-tunnel/culvert/releases/latest
  culvert update --output json`,
		Args:              exactly(0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if v, _ := env.LookupEnv("CULVERT_UPDATE_URL"); from == "" {
				from = v
			}
			if err := overlay(cmd, env, nil); err != nil {
				return err
			}
			if from == "" {
				return usagef("name where to ask with --url or CULVERT_UPDATE_URL: Culvert asks nobody by itself")
			}
			latest, err := latestVersion(cmd.Context(), from)
			if err != nil {
				return err
			}
			have := version.String()
			newer := semver.Compare("v"+have, "v"+latest) < 0
			return printData(env, output, map[string]any{"version": have, "latest": latest, "newer": newer}, func(w io.Writer) {
				if !semver.IsValid("v" + have) {
					_, _ = fmt.Fprintf(w, "The latest version is %s; this is %s, which was not released.\n", latest, have)
				} else if newer {
					_, _ = fmt.Fprintf(w, "%s is there; this is %s. Update with what you installed it with.\n", latest, have)
				} else {
					_, _ = fmt.Fprintf(w, "%s is the latest version.\n", have)
				}
			})
		},
	}
	cmd.Flags().StringVar(&from, "url", "", "where to ask (https)")
	addOutput(cmd, &output)
	return cmd
}

var errNoVersion = errors.New("the answer has no version: it must be JSON with version or tag_name, such as 1.2.3")

// latestVersion asks for the latest version, without a v before it.
func latestVersion(ctx context.Context, from string) (string, error) {
	u, err := url.Parse(from)
	if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
		return "", usagef("--url %q: write an https URL", from)
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return "", usagef("--url %q: write an https URL", from)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask for the latest version: %w", err)
	}
	defer res.Body.Close() //nolint:errcheck // read
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("ask for the latest version: %s answered %s", u.Host, res.Status)
	}
	var answer struct {
		Version string `json:"version"`
		TagName string `json:"tag_name"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&answer); err != nil {
		return "", fmt.Errorf("ask for the latest version: %w", errNoVersion)
	}
	latest := strings.TrimPrefix(answer.Version, "v")
	if latest == "" {
		latest = strings.TrimPrefix(answer.TagName, "v")
	}
	if !semver.IsValid("v" + latest) {
		return "", fmt.Errorf("ask for the latest version: %w", errNoVersion)
	}
	return tunnel.Clean(latest), nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
