package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/config"
	"github.com/culvert-tunnel/culvert/internal/doctor"
	"github.com/culvert-tunnel/culvert/internal/server/admin"
	"github.com/culvert-tunnel/culvert/internal/server/certs"
)

// errUnwell says that culvert doctor found a fault; the findings say which.
var errUnwell = errors.New("something does not work: see what is marked fail above")

// doctorFlags are those that both doctors have.
type doctorFlags struct {
	output, resolver string
}

func (f *doctorFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.resolver, "resolver", "", "ask this DNS server (host:port) instead of the system's")
	addOutput(cmd, &f.output)
}

// dns is the resolver to use.
func (f *doctorFlags) dns() (*net.Resolver, error) {
	if f.resolver == "" {
		return net.DefaultResolver, nil
	}
	address, err := hostPort(f.resolver, "53")
	if err != nil {
		return nil, usagef("--resolver %q: write host or host:port", f.resolver)
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}, nil
}

// examine runs an examination and shows its findings as they come.
func (f *doctorFlags) examine(ctx context.Context, env *Env, run func(context.Context, *doctor.Report)) error {
	r := &doctor.Report{Findings: []doctor.Finding{}}
	if f.output != "json" {
		r.Tell = func(f doctor.Finding) { showFinding(env.Stdout, f) }
	}
	run(ctx, r)
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if f.output == "json" {
		if err := printData(env, f.output, map[string]any{"ok": r.OK(), "findings": r.Findings}, nil); err != nil {
			return err
		}
	}
	if !r.OK() {
		return errUnwell
	}
	return nil
}

func showFinding(w io.Writer, f doctor.Finding) {
	_, _ = fmt.Fprintf(w, "%-5s %-12s %s\n", f.Status, f.Check, f.Detail)
	if f.Advice != "" {
		_, _ = fmt.Fprintf(w, "%19s→ %s\n", "", f.Advice)
	}
}

func newDoctor(env *Env) *cobra.Command {
	var f agentFlags
	var d doctorFlags
	var path, api string
	cmd := &cobra.Command{
		Use:   "doctor [UPSTREAM…]",
		Short: "Find out why an agent or a server does not work",
		Long: `Find out why an agent does not work, from the machine it runs on: name resolution,
port, TLS, token, latency, the way of a visitor through the server and back, clocks and
throughput (of at most 8 MiB); and the upstreams that are named or that stand in the
configuration file. Of an agent that runs here and ends TLS itself it shows that visitors
get the certificate whose key that agent holds. culvert doctor server examines a server's
machine.

Every finding that is not ok says what to do. The exit code is 1 if something fails.`,
		Example: `  culvert doctor
  culvert doctor 3000 --server tunnel.example.com
  culvert doctor --config culvert.yml --output json
  culvert doctor server --config /etc/culvert/server.yml`,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			var settings config.Settings
			var ups []agent.Upstream
			if found, err := findConfig(env, cmd, path); err == nil {
				var endpoints []agent.Endpoint
				if _, endpoints, settings, err = loadEndpoints(env, found, nil); err != nil {
					return err
				}
				for _, e := range endpoints {
					ups = append(ups, e.Upstream)
				}
			}
			if err := overlay(cmd, env, settings); err != nil {
				return err
			}
			for _, arg := range args {
				u, err := agent.ParseUpstream(arg, agent.UpstreamTLS{})
				if err != nil {
					return usageError{err}
				}
				ups = append(ups, u)
			}
			cfg, err := f.serverAndToken(env)
			if err != nil {
				return err
			}
			resolver, err := d.dns()
			if err != nil {
				return err
			}
			var errs []error
			var running doctor.Running
			if api != "off" {
				running = func(ctx context.Context) ([]agent.EndpointStatus, error) { return endpointsOf(ctx, api) }
			}
			for _, server := range cfg.Servers {
				examined := doctor.Agent{
					Server: server, Token: cfg.Token, Roots: cfg.Roots, Upstreams: ups, Resolver: resolver,
					Proxy: cfg.Proxy, Transport: cfg.Transport, Running: running,
				}
				errs = append(errs, d.examine(cmd.Context(), env, examined.Run))
			}
			return errors.Join(errs...)
		},
	}
	fs := cmd.Flags()
	fs.StringArrayVar(&f.servers, "server", nil, "server to dial: host or host:port; may be repeated (default: that of culvert login)")
	fs.StringVar(&f.token, "token", "", "token; visible to other users of this machine, so prefer CULVERT_TOKEN, --token-file or culvert login")
	fs.StringVar(&f.tokenFile, "token-file", "", "file that holds the token")
	fs.StringVar(&f.ca, "ca", "", "file with the CA of a server on a private certificate (PEM)")
	f.addWay(cmd)
	fs.StringVar(&api, "api", "127.0.0.1:4040", "address of the local API of an agent that runs; off for none")
	addConfig(cmd, &path)
	d.add(cmd)
	cmd.AddCommand(newDoctorServer(env))
	return cmd
}

// endpointsOf asks an agent's local API.
func endpointsOf(ctx context.Context, address string) ([]agent.EndpointStatus, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/api/endpoints", nil)
	if err != nil {
		return nil, err
	}
	res, err := (&http.Client{Timeout: apiTimeout, Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close() //nolint:errcheck // it was read
	var st agent.Status
	err = json.NewDecoder(io.LimitReader(res.Body, 16<<20)).Decode(&st)
	return st.Endpoints, err
}

const apiTimeout = 5 * time.Second

func newDoctorServer(env *Env) *cobra.Command {
	f := newServerFlags()
	var d doctorFlags
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Find out why a server does not work",
		Long: `Find out why a server does not work, on its machine and as its user: DNS of the domain
and of the names below it, ports, certificates and when they expire, the data directory
and its disk, the limit of open files. Give it the flags or the configuration file of
culvert server. It may run while the server does.

Every finding that is not ok says what to do. The exit code is 1 if something fails.`,
		Example: `  culvert doctor server --domain tunnel.example.com
  culvert doctor server --config /etc/culvert/server.yml --output json`,
		Args:              exactly(0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.load(cmd, env)
			if err != nil {
				return err
			}
			resolver, err := d.dns()
			if err != nil {
				return err
			}
			examined := doctor.Server{
				Domain: cfg.Domain, HTTP: cfg.HTTP, HTTPS: cfg.HTTPS, Others: cfg.Links, TCPHost: cfg.TCPHost,
				TCPFirst: cfg.TCPPorts.First, TCPEnd: cfg.TCPPorts.Last, DataDir: cfg.DataDir,
				CAFile: filepath.Join(cfg.DataDir, certs.CAFile), Socket: filepath.Join(cfg.DataDir, admin.SocketFile),
				ACME: cfg.ACME.Email != "", Resolver: resolver,
			}
			for _, p := range cfg.Certs {
				examined.Given = append(examined.Given, doctor.Pair(p))
			}
			if cfg.Admin != "" {
				examined.Others = append(examined.Others, cfg.Admin)
			}
			return d.examine(cmd.Context(), env, examined.Run)
		},
	}
	f.add(cmd, env)
	d.add(cmd)
	return cmd
}
