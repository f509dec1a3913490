package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/config"
)

func newStart(env *Env) *cobra.Command {
	var f agentFlags
	var path string
	cmd := &cobra.Command{
		Use:   "start [NAME…]",
		Short: "Publish the endpoints of a configuration file",
		Long: `Publish the endpoints of a configuration file together: all of them, or those that
are named.

A change of the file's endpoints is applied as soon as it is saved, on SIGHUP and on
culvert reload. Endpoints that it leaves alone keep their visitors; a file with a
fault changes nothing. Other settings, such as the server, need a restart.`,
		Example: `  culvert start
  culvert start web ssh --config culvert.yml`,
		RunE: func(cmd *cobra.Command, names []string) error {
			found, err := findConfig(env, cmd, path)
			if err != nil {
				return err
			}
			l := newLive(env, found, names)
			endpoints, settings, err := l.load()
			if err != nil {
				return err
			}
			if err := overlay(cmd, env, settings); err != nil {
				return err
			}
			if l.state, err = stateDir(env, f.state); err != nil {
				return err
			}
			return f.run(cmd.Context(), env, endpoints, l.run)
		},
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, have []string, _ string) ([]string, cobra.ShellCompDirective) {
		found, err := findConfig(env, cmd, path)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		file, _, err := config.LoadAgent(found, env.LookupEnv)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, e := range file.Endpoints {
			if !slices.Contains(have, e.Name) {
				names = append(names, cobra.CompletionWithDesc(e.Name, e.Upstream))
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	addConfig(cmd, &path)
	f.add(cmd)
	return cmd
}

// configFile is the usual name of an agent's configuration.
const configFile = "culvert.yml"

// addConfig adds the flag for an agent's configuration file.
func addConfig(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "config", "", "configuration file (default: "+configFile+" here, else that of ~/.config/culvert)")
}

// findConfig finds an agent's configuration file: that of the flag, of the
// environment, the one here, the user's own.
func findConfig(env *Env, cmd *cobra.Command, flag string) (string, error) {
	if v, _ := env.LookupEnv(config.EnvName("config")); v != "" && !cmd.Flags().Changed("config") {
		flag = v
	}
	if flag != "" {
		return flag, nil
	}
	places := []string{configFile}
	if dirs, err := config.FindDirs(env.LookupEnv); err == nil {
		places = append(places, filepath.Join(dirs.Config, configFile))
	}
	for _, p := range places {
		if _, err := os.Stat(p); !config.Missing(err) {
			return p, nil
		}
	}
	return "", usagef("no configuration: write %s with culvert config init, or name a file with --config", configFile)
}

// loadEndpoints reads a configuration file and builds its endpoints, or those that
// are named.
func loadEndpoints(env *Env, path string, names []string) (config.Agent, []agent.Endpoint, config.Settings, error) {
	file, settings, err := config.LoadAgent(path, env.LookupEnv)
	if config.Missing(err) {
		return file, nil, nil, usagef("%w: write one with culvert config init, or name another with --config", err)
	}
	if err != nil {
		return file, nil, nil, usageError{err}
	}
	endpoints, err := pick(file.Endpoints, names)
	return file, endpoints, settings, err
}

// pick builds the named endpoints, all without names. It tells all faults at once.
func pick(all []config.Endpoint, names []string) ([]agent.Endpoint, error) {
	for _, n := range names {
		if !slices.ContainsFunc(all, func(e config.Endpoint) bool { return e.Name == n }) {
			return nil, usagef("the configuration has no endpoint %q", n)
		}
	}
	var endpoints []agent.Endpoint
	var faults []error
	for _, e := range all {
		if len(names) > 0 && !slices.Contains(names, e.Name) {
			continue
		}
		built, err := buildEndpoint(e)
		if err != nil {
			faults = append(faults, usageError{e.Fault(fmt.Sprintf("endpoint %q: %v", e.Name, err))})
			continue
		}
		endpoints = append(endpoints, built)
	}
	return endpoints, errors.Join(faults...)
}
