package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/agent/acme"
	"github.com/culvert-tunnel/culvert/internal/config"
	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
	"github.com/culvert-tunnel/culvert/internal/version"
)

// agentFlags are the flags of every command that runs an agent.
type agentFlags struct {
	servers              []string
	links                int
	token, tokenFile, ca string
	proxy, transport     string
	api, state           string
	inspect              inspectFlags
	drain                wait
	screen               string
	log                  logFlags
}

func (f *agentFlags) add(cmd *cobra.Command) {
	f.drain = wait(10 * time.Second)
	fs := cmd.Flags()
	fs.StringArrayVar(&f.servers, "server", nil, "server to dial: host or host:port; may be repeated: the agent serves by two of them at a time, and goes to the next when one can't be reached (default: that of culvert login)")
	fs.IntVar(&f.links, "links", 1, "connections to the server, over which visitors are spread; 1 to 16")
	fs.StringVar(&f.token, "token", "", "token; visible to other users of this machine, so prefer CULVERT_TOKEN, --token-file or culvert login")
	fs.StringVar(&f.tokenFile, "token-file", "", "file that holds the token")
	fs.StringVar(&f.ca, "ca", "", "file with the CA of a server on a private certificate (PEM)")
	f.addWay(cmd)
	fs.StringVar(&f.api, "api", "127.0.0.1:4040", "address of the inspector and the local API, or the next free port; off for none")
	f.inspect.add(cmd)
	fs.StringVar(&f.state, "state", "", "directory that keeps who this agent is")
	fs.Var(&f.drain, "drain", "how long connections may finish after SIGTERM")
	addChoice(cmd, &f.screen, "screen", "", "status screen: auto shows it on a terminal, instead of log lines as text", "auto", "off")
	f.log.add(cmd)
}

// addWay adds the flags that say how servers are reached.
func (f *agentFlags) addWay(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.proxy, "proxy", "", "proxy to dial servers through: http://, https:// or socks5://[USER:PASSWORD@]HOST[:PORT], or off; a password is visible to other users of this machine, so prefer CULVERT_PROXY or the configuration file (default: HTTPS_PROXY or ALL_PROXY, but for NO_PROXY)")
	fs.StringVar(&f.transport, "transport", string(link.Auto), "what carries the connections to servers: tls, quic, websocket, or auto for what gets through")
}

// companion runs beside an agent and must end when ctx does. Its error ends the agent.
type companion func(ctx context.Context, a *agent.Agent, log *slog.Logger) error

// run runs an agent with these endpoints until ctx ends.
func (f *agentFlags) run(ctx context.Context, env *Env, endpoints []agent.Endpoint, beside ...companion) error {
	log, err := f.log.logger(env)
	if err != nil {
		return err
	}
	var show *screenFlags
	if f.wantsScreen(env) {
		show = newScreenFlags(env, log)
		log = slog.New(show.notices.Handler())
	}
	cfg, err := f.agentConfig(env, log)
	if err != nil {
		return err
	}
	cfg.Endpoints = endpoints
	state, err := stateDir(env, f.state)
	if err != nil {
		return err
	}
	certificates := acme.New(state, log)
	cfg.Certify = certificates.Certify
	beside = append(beside, func(ctx context.Context, _ *agent.Agent, _ *slog.Logger) error { return certificates.Run(ctx) })
	return runAgent(ctx, cfg, localFlags{api: f.api, inspect: f.inspect, screen: show}, beside...)
}

// serverAndToken finds the server and what is needed to trust and to be trusted.
func (f *agentFlags) serverAndToken(env *Env) (agent.Config, error) {
	var cfg agent.Config
	if f.tokenFile != "" {
		if f.token != "" {
			return cfg, usagef("--token and --token-file exclude each other")
		}
		var err error
		if f.token, err = readTokenFile(f.tokenFile); err != nil {
			return cfg, err
		}
	}
	// Flags hold what the environment says already.
	server, token, err := config.Find(env.LookupEnv, strings.Join(f.servers, ","), f.token)
	switch {
	case errors.Is(err, config.ErrNoServer):
		return cfg, usagef("no server: name it with --server, or log in with culvert login")
	case errors.Is(err, config.ErrNoToken):
		return cfg, usageError{err}
	case err != nil:
		return cfg, err
	}
	if cfg.Servers, err = config.HostPorts(server, "443"); err != nil {
		return cfg, usageError{err}
	}
	if cfg.Token, err = tunnel.ParseToken(token); err != nil {
		return cfg, usageError{err}
	}
	if cfg.Transport, err = link.ParseTransport(f.transport); err != nil {
		return cfg, usagef("--transport: %w", err)
	}
	if cfg.Proxy, err = config.Proxies(env.LookupEnv, f.proxy, link.ParseProxy); err != nil {
		return cfg, usageError{err}
	}
	cfg.Roots, err = loadRoots(f.ca)
	return cfg, err
}

// agentConfig finds server, token and identity.
func (f *agentFlags) agentConfig(env *Env, log *slog.Logger) (agent.Config, error) {
	cfg, err := f.serverAndToken(env)
	if err != nil {
		return cfg, err
	}
	if cfg.Links = f.links; f.links < 1 || f.links > 16 {
		return cfg, usagef("--links %d: from 1 to 16", f.links)
	}
	state, err := stateDir(env, f.state)
	if err != nil {
		return cfg, err
	}
	id, err := agent.NextIdentity(state)
	if err != nil {
		return cfg, err
	}
	cfg.ID, cfg.Generation, cfg.State = id.ID, id.Generation, state
	cfg.Drain = time.Duration(f.drain)
	cfg.Logger = log
	host, _ := os.Hostname()
	cfg.Metadata = &tunnel.Metadata{Version: version.String(), Os: runtime.GOOS, Arch: runtime.GOARCH, Hostname: host}
	return cfg, nil
}

// stateDir is the directory of --state, or the usual one.
func stateDir(env *Env, flag string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	dirs, err := config.FindDirs(env.LookupEnv)
	if err != nil {
		return "", usageError{err}
	}
	return dirs.State, nil
}

// readTokenFile reads the token in a file.
func readTokenFile(path string) (string, error) {
	text, err := config.ReadSecret(path)
	if err != nil {
		return "", usagef("--token-file: %w", err)
	}
	return text, nil
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
	upstreamName         string
	upstreamInsecure     bool
	hostHeader           string
	stripPrefix          bool
	compress             bool
	redirect, noRedirect bool
	limits               config.Limits
	pool                 config.Pooling
	proxyProtocol        string
	tlsCert, tlsKey      string
	clientCA             string
	hidden, upload       bool
	e2e                  bool
	acmeEmail, acmeCA    string
	acmeCARoot           string
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
	if !kind.ByPort() {
		fs.StringVar(&f.name, "name", "", "name below the server's domain to ask for")
	}
	if kind == endpoint.HTTP {
		fs.StringVar(&f.upstreamCA, "upstream-ca", "", "file with the CA of an https:// upstream (PEM)")
		fs.StringVar(&f.upstreamName, "upstream-server-name", "", "name expected in the certificate of an https:// upstream, and sent to it (default: its host)")
		fs.BoolVar(&f.upstreamInsecure, "upstream-insecure-skip-verify", false, "accept any certificate of an https:// upstream; whoever is between can then read and change all")
		fs.StringVar(&f.hostHeader, "host-header", "", "Host that the upstream sees; rewrite for the upstream's own")
		fs.BoolVar(&f.compress, "compress", false, "let the server compress answers (zstd, brotli, gzip) that are not")
		fs.BoolVar(&f.stripPrefix, "strip-prefix", false, "let the upstream see paths without that of --url")
		fs.BoolVar(&f.redirect, "redirect", false, "always redirect the plain port to https")
		fs.BoolVar(&f.noRedirect, "no-redirect", false, "never redirect the plain port to https")
	}
	if kind != endpoint.HTTP {
		addLimits(fs, &f.limits, kind)
	}
	addPooling(cmd, &f.pool, kind)
	if kind == endpoint.HTTP {
		fs.BoolVar(&f.e2e, "e2e", false, "end visitors' TLS at the agent, with --tls-cert or a certificate by ACME: the server can't read what passes")
		fs.StringVar(&f.acmeEmail, "acme-email", "", "with --e2e, for the CA's account; its terms are agreed to by --e2e without --tls-cert")
		fs.StringVar(&f.acmeCA, "acme-ca", "", "with --e2e, URL of another CA's directory than that of Let's Encrypt")
		fs.StringVar(&f.acmeCARoot, "acme-ca-root", "", "with --e2e, file with the roots to trust when speaking to the CA (PEM)")
	}
	if kind == endpoint.TLS || kind == endpoint.HTTP {
		fs.StringVar(&f.tlsCert, "tls-cert", "", "end visitors' TLS at the agent, with the certificate chain in this file (PEM); the upstream speaks in the clear")
		fs.StringVar(&f.tlsKey, "tls-key", "", "file with the key of --tls-cert (PEM)")
		fs.StringVar(&f.clientCA, "client-ca", "", clientCAUsage[kind])
	}
	if kind == endpoint.TCP || kind == endpoint.TLS {
		fs.StringVar(&f.proxyProtocol, "proxy-protocol", "", "tell the upstream the visitor's address by the PROXY protocol: v1 or v2")
	}
	f.agent.add(cmd)
	return cmd
}

var clientCAUsage = map[endpoint.Kind]string{
	endpoint.TLS:  "with --tls-cert, require visitors to show a certificate of a CA in this file (PEM)",
	endpoint.HTTP: "require visitors to show a certificate of a CA in this file (PEM), which the server is sent, or with --e2e the agent keeps",
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
		UpstreamCA: f.upstreamCA, UpstreamServerName: f.upstreamName, UpstreamInsecureSkipVerify: f.upstreamInsecure, HostHeader: f.hostHeader, StripPrefix: f.stripPrefix, Compress: f.compress, Redirect: redirect,
		Limits: f.limits, Pooling: f.pool, ProxyProtocol: f.proxyProtocol,
		TLSCert: f.tlsCert, TLSKey: f.tlsKey, ClientCA: f.clientCA, Hidden: f.hidden, Upload: f.upload, E2E: f.e2e,
		ACMEEmail: f.acmeEmail, ACMECA: f.acmeCA, ACMECARoot: f.acmeCARoot,
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
	up, err := buildUpstream(c, spec.Kind)
	if err != nil {
		return fail(err)
	}
	if spec.Limits, err = parseLimits(c.Limits); err != nil {
		return fail(err)
	}
	if spec.Pool, err = parsePooling(c.Pooling); err != nil {
		return fail(err)
	}
	if spec.ClientCA, err = clientCA(c, spec.Kind); err != nil {
		return fail(err)
	}
	if err := matchPorts(&spec, up); err != nil {
		return fail(err)
	}
	spec.UpstreamProtocol = up.Protocol
	spec.StripPrefix, spec.Compress = c.StripPrefix, c.Compress
	spec.HostHeader = c.HostHeader
	if c.HostHeader == "rewrite" {
		spec.HostHeader = up.Address
	}
	if err := endToEnd(c, &spec); err != nil {
		return fail(err)
	}
	if err := spec.Validate(); err != nil {
		return fail(err)
	}
	return agent.Endpoint{Spec: spec, Upstream: up}, nil
}
