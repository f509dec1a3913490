package cli

import (
	"fmt"
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
		Long:  "Publish the endpoints of a configuration file together: all of them, or those that are named.",
		Example: `  culvert start
  culvert start web ssh --config culvert.yml`,
		RunE: func(cmd *cobra.Command, names []string) error {
			if v, _ := env.LookupEnv(config.EnvName("config")); v != "" && !cmd.Flags().Changed("config") {
				path = v
			}
			file, settings, err := config.LoadAgent(path, env.LookupEnv)
			if config.Missing(err) {
				return usagef("%w: write one, or name it with --config", err)
			}
			if err != nil {
				return usageError{err}
			}
			if err := overlay(cmd, env, settings); err != nil {
				return err
			}
			endpoints, err := pick(file.Endpoints, names)
			if err != nil {
				return err
			}
			return f.run(cmd.Context(), env, endpoints)
		},
	}
	cmd.ValidArgsFunction = func(_ *cobra.Command, have []string, _ string) ([]string, cobra.ShellCompDirective) {
		file, _, err := config.LoadAgent(path, env.LookupEnv)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, e := range file.Endpoints {
			if !slices.Contains(have, e.Name) {
				names = append(names, e.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	cmd.Flags().StringVar(&path, "config", "culvert.yml", "configuration file (YAML)")
	f.add(cmd)
	return cmd
}

// pick builds the named endpoints, all without names.
func pick(all []config.Endpoint, names []string) ([]agent.Endpoint, error) {
	for _, n := range names {
		if !slices.ContainsFunc(all, func(e config.Endpoint) bool { return e.Name == n }) {
			return nil, usagef("the configuration has no endpoint %q", n)
		}
	}
	var endpoints []agent.Endpoint
	for _, e := range all {
		if len(names) > 0 && !slices.Contains(names, e.Name) {
			continue
		}
		built, err := buildEndpoint(e)
		if err != nil {
			return nil, usageError{e.Fault(fmt.Sprintf("endpoint %q: %v", e.Name, err))}
		}
		endpoints = append(endpoints, built)
	}
	return endpoints, nil
}
