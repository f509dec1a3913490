package cli

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/config"
	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
	"github.com/culvert-tunnel/culvert/internal/version"
)

// agentFlags are the flags of every command that runs an agent.
type agentFlags struct {
	server, token, tokenFile, ca string
	api, state                   string
	drain                        wait
	log                          logFlags
}

func (f *agentFlags) add(cmd *cobra.Command) {
	f.drain = wait(10 * time.Second)
	fs := cmd.Flags()
	fs.StringVar(&f.server, "server", "", "server to dial: host or host:port (default: that of culvert login)")
	fs.StringVar(&f.token, "token", "", "token; visible to other users of this machine, so prefer CULVERT_TOKEN, --token-file or culvert login")
	fs.StringVar(&f.tokenFile, "token-file", "", "file that holds the token")
	fs.StringVar(&f.ca, "ca", "", "file with the CA of a server on a private certificate (PEM)")
	fs.StringVar(&f.api, "api", "127.0.0.1:4040", "address of the local API, or the next free port; off for none")
	fs.StringVar(&f.state, "state", "", "directory that keeps who this agent is")
	fs.Var(&f.drain, "drain", "how long connections may finish after SIGTERM")
	f.log.add(cmd)
}

// run runs an agent with these endpoints until ctx ends.
func (f *agentFlags) run(ctx context.Context, env *Env, endpoints []agent.Endpoint) error {
	log, err := f.log.logger(env)
	if err != nil {
		return err
	}
	cfg, err := f.agentConfig(env, log)
	if err != nil {
		return err
	}
	cfg.Endpoints = endpoints
	return runAgent(ctx, cfg, f.api)
}

// runAgent runs an agent and its local API.
func runAgent(ctx context.Context, cfg agent.Config, api string) error {
	a := agent.New(cfg)
	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	if api != "" && api != "off" {
		l, err := agent.ListenAPI(ctx, api)
		if err != nil {
			return usagef("--api %s: %w", api, err)
		}
		cfg.Logger.Info("local API ready", "url", "http://"+l.Addr().String()+"/api/endpoints")
		tasks.Go(func() {
			if err := a.ServeAPI(ctx, l); err != nil {
				cfg.Logger.Error("local API ended", "error", err)
			}
		})
	}
	return a.Run(ctx)
}

// agentConfig finds server, token and identity.
func (f *agentFlags) agentConfig(env *Env, log *slog.Logger) (agent.Config, error) {
	var cfg agent.Config
	dirs, dirsErr := config.FindDirs(env.LookupEnv)
	var login config.Login
	if dirsErr == nil {
		var err error
		if login, err = config.LoadLogin(dirs); err != nil {
			return cfg, err
		}
	}
	if f.tokenFile != "" {
		if f.token != "" {
			return cfg, usagef("--token and --token-file exclude each other")
		}
		var err error
		if f.token, err = readTokenFile(f.tokenFile); err != nil {
			return cfg, err
		}
	}
	server, token := f.server, f.token
	if server == "" {
		server = login.Server
	}
	if token == "" && (f.server == "" || f.server == login.Server) {
		token = login.Token // a login is for its server alone
	}
	if server == "" {
		return cfg, usagef("no server: name it with --server, or log in with culvert login")
	}
	if token == "" {
		return cfg, usagef("no token: set CULVERT_TOKEN, or log in with culvert login")
	}
	var err error
	if cfg.Server, err = hostPort(server, "443"); err != nil {
		return cfg, err
	}
	if cfg.Token, err = tunnel.ParseToken(token); err != nil {
		return cfg, usageError{err}
	}
	if cfg.Roots, err = loadRoots(f.ca); err != nil {
		return cfg, err
	}
	state := f.state
	if state == "" {
		if dirsErr != nil {
			return cfg, usageError{dirsErr}
		}
		state = dirs.State
	}
	id, err := agent.NextIdentity(state)
	if err != nil {
		return cfg, err
	}
	cfg.ID, cfg.Generation = id.ID, id.Generation
	cfg.Drain = time.Duration(f.drain)
	cfg.Logger = log
	host, _ := os.Hostname()
	cfg.Metadata = &tunnel.Metadata{Version: version.String(), Os: runtime.GOOS, Arch: runtime.GOARCH, Hostname: host}
	return cfg, nil
}

// readTokenFile reads the token in a file.
func readTokenFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", usagef("--token-file: %w", err)
	}
	defer f.Close() //nolint:errcheck // read
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return "", usagef("--token-file: %w", err)
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return "", usagef("--token-file: %s is empty", path)
	}
	return string(b), nil
}

// loadRoots reads a CA file; nil without one.
func loadRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // no file means the system's roots
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, usagef("read CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, usagef("read CA: %s holds no certificate (PEM)", path)
	}
	return pool, nil
}

// endpointFlags are the flags of the commands for one endpoint.
type endpointFlags struct {
	name, url            string
	upstreamCA           string
	hostHeader           string
	redirect, noRedirect bool
	agent                agentFlags
}

// newEndpoint makes a command that serves one endpoint of a kind.
func newEndpoint(env *Env, kind endpoint.Kind, use, short, example string) *cobra.Command {
	var f endpointFlags
	cmd := &cobra.Command{
		Use:     use,
		Short:   short,
		Example: example,
		Args:    exactly(1, "one upstream, such as 3000 or host:port"),
		// An upstream is no file.
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := overlay(cmd, env, nil); err != nil {
				return err
			}
			e, err := f.endpoint(kind, args[0])
			if err != nil {
				return err
			}
			return f.agent.run(cmd.Context(), env, []agent.Endpoint{e})
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.url, "url", "", "public URL to ask for")
	if kind != endpoint.TCP {
		fs.StringVar(&f.name, "name", "", "name below the server's domain to ask for")
	}
	if kind == endpoint.HTTP {
		fs.StringVar(&f.upstreamCA, "upstream-ca", "", "file with the CA of an https:// upstream (PEM)")
		fs.StringVar(&f.hostHeader, "host-header", "", "Host that the upstream sees; rewrite for the upstream's own")
		fs.BoolVar(&f.redirect, "redirect", false, "always redirect the plain port to https")
		fs.BoolVar(&f.noRedirect, "no-redirect", false, "never redirect the plain port to https")
	}
	f.agent.add(cmd)
	return cmd
}

// endpoint reads the flags of one endpoint.
func (f *endpointFlags) endpoint(kind endpoint.Kind, upstream string) (agent.Endpoint, error) {
	if f.name != "" && f.url != "" {
		return agent.Endpoint{}, usagef("--name and --url exclude each other")
	}
	if f.redirect && f.noRedirect {
		return agent.Endpoint{}, usagef("--redirect and --no-redirect exclude each other")
	}
	var redirect *bool
	if f.redirect || f.noRedirect {
		redirect = &f.redirect
	}
	name := f.name
	if name == "" {
		name = string(kind) + "-" + upstream
	}
	return buildEndpoint(config.Endpoint{
		Name: name, URL: f.url, Kind: string(kind), Label: f.name, Upstream: upstream,
		UpstreamCA: f.upstreamCA, HostHeader: f.hostHeader, Redirect: redirect,
	})
}

// buildEndpoint turns what the user wrote of an endpoint into one. Where both are
// given, the URL must be of the kind.
func buildEndpoint(c config.Endpoint) (agent.Endpoint, error) {
	fail := func(err error) (agent.Endpoint, error) { return agent.Endpoint{}, usageError{err} }
	spec := endpoint.Spec{Kind: endpoint.Kind(c.Kind)}
	if c.URL != "" {
		var err error
		if spec, err = endpoint.ParseURL(c.URL); err != nil {
			return fail(err)
		}
		if c.Kind != "" && spec.Kind != endpoint.Kind(c.Kind) {
			return fail(fmt.Errorf("%s is the URL of a %s endpoint, not of a %s one", c.URL, spec.Kind, c.Kind))
		}
	}
	spec.Name = c.Name
	spec.Label = c.Label
	if c.Redirect != nil {
		spec.Redirect = endpoint.RedirectNever
		if *c.Redirect {
			spec.Redirect = endpoint.RedirectAlways
		}
	}
	roots, err := loadRoots(c.UpstreamCA)
	if err != nil {
		return agent.Endpoint{}, err
	}
	up, err := agent.ParseUpstream(c.Upstream, roots)
	if err != nil {
		return fail(err)
	}
	if spec.Kind != endpoint.HTTP && (up.TLS != nil || up.Protocol != "") {
		return fail(fmt.Errorf("upstream %s: https:// and h2c:// are for http endpoints", c.Upstream))
	}
	spec.UpstreamProtocol = up.Protocol
	spec.HostHeader = c.HostHeader
	if c.HostHeader == "rewrite" {
		spec.HostHeader = up.Address
	}
	if err := spec.Validate(); err != nil {
		return fail(err)
	}
	return agent.Endpoint{Spec: spec, Upstream: up}, nil
}
