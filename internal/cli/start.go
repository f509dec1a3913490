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
			if v, ok := env.LookupEnv(config.EnvName("config")); ok && !cmd.Flags().Changed("config") {
				path = v
			}
			file, err := config.LoadAgent(path, env.LookupEnv)
			if err != nil {
				return usageError{err}
			}
			if err := overlay(cmd, env, agentFile(file)); err != nil {
				return err
			}
			endpoints, err := pick(file.Endpoints, names)
			if err != nil {
				return err
			}
			return f.run(cmd.Context(), env, endpoints)
		},
	}
	cmd.Flags().StringVar(&path, "config", "culvert.yml", "configuration file (YAML)")
	f.add(cmd)
	return cmd
}

// agentFile returns what a file says as values of flags.
func agentFile(a config.Agent) map[string][]string {
	flags := make(map[string][]string)
	for name, v := range map[string]string{
		"server": a.Server, "token": a.Token, "token-file": a.TokenFile, "ca": a.CA, "api": a.API,
	} {
		if v != "" {
			flags[name] = []string{v}
		}
	}
	return flags
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
			return nil, usageError{fmt.Errorf("endpoint %s: %w", e.Name, err)}
		}
		endpoints = append(endpoints, built)
	}
	return endpoints, nil
}
