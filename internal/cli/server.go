package cli

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/config"
	"github.com/culvert-tunnel/culvert/internal/server"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/version"
)

// serverFlags are the flags of culvert server.
type serverFlags struct {
	config       string
	ports        ports
	grace, drain wait
	cfg          server.Config
	log          logFlags
}

func newServer(env *Env) *cobra.Command {
	f := serverFlags{ports: ports{First: 20000, Last: 20999}, grace: wait(registry.DefaultGrace), drain: wait(30 * time.Second)}
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the public side",
		Long: `Run the public side: accept agents, and visitors for them.

The first start on an empty data directory makes a token and prints the agent
command to paste. Without --cert and --key the server signs its own certificates;
agents trust it by the fingerprint in their token. SIGTERM or Ctrl-C drains: visitors
may finish; a second one exits at once.`,
		Example: `  culvert server --domain tunnel.example.com
  culvert server --config /etc/culvert/server.yml
  culvert server --domain tunnel.example.com --cert chain.pem --key key.pem`,
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, env) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.config, "config", "", "configuration file (YAML)")
	fs.StringVar(&f.cfg.Domain, "domain", "localhost", "domain below which endpoints get their names")
	fs.StringVar(&f.cfg.HTTP, "http", ":80", "address for visitors' HTTP; off for none")
	fs.StringVar(&f.cfg.HTTPS, "https", ":443", "address for visitors' TLS and for agents")
	fs.StringArrayVar(&f.cfg.Links, "link", nil, "further address for agents alone; may be repeated")
	fs.StringVar(&f.cfg.Admin, "admin", "127.0.0.1:4041", "address of /healthz and /readyz; off for none")
	fs.StringVar(&f.cfg.TCPHost, "tcp-host", "", "address that tcp endpoints listen on; all by default")
	fs.Var(&f.ports, "tcp-ports", "ports for tcp endpoints; off for none")
	fs.StringVar(&f.cfg.DataDir, "data", "", "data directory (default "+defaultData(env)+")")
	fs.StringVar(&f.cfg.CertFile, "cert", "", "file with the certificate chain for the domain and its names (PEM)")
	fs.StringVar(&f.cfg.KeyFile, "key", "", "file with the certificate's key (PEM)")
	fs.StringVar(&f.cfg.Node, "node", "", "name of this node (default: the host's name)")
	fs.StringVar(&f.cfg.Region, "region", "", "region that agents are told")
	fs.Var(&f.grace, "grace", "how long names and visitors wait for an agent that is gone")
	fs.Var(&f.drain, "drain", "how long visitors may finish after SIGTERM")
	f.log.add(cmd)
	return cmd
}

func defaultData(env *Env) string {
	dirs, err := config.FindDirs(env.LookupEnv)
	if err != nil {
		return "none"
	}
	return dirs.Data
}

func (f *serverFlags) run(cmd *cobra.Command, env *Env) error {
	var file config.Settings
	if v, _ := env.LookupEnv(config.EnvName("config")); f.config == "" {
		f.config = v
	}
	if f.config != "" {
		var err error
		if file, err = config.LoadServer(f.config, env.LookupEnv); err != nil {
			return usageError{err}
		}
	}
	if err := overlay(cmd, env, file); err != nil {
		return err
	}
	cfg, err := f.serverConfig(env)
	if err != nil {
		return err
	}
	cfg.Ready = func(r server.Ready) { greet(env, cfg, r) }
	s, err := server.New(cfg)
	if errors.Is(err, server.ErrConfig) {
		return usageError{err}
	}
	if err != nil {
		return err
	}
	return s.Run(cmd.Context())
}

// serverConfig checks the flags.
func (f *serverFlags) serverConfig(env *Env) (server.Config, error) {
	cfg := f.cfg
	for _, address := range []*string{&cfg.HTTP, &cfg.Admin} {
		if *address == "off" {
			*address = ""
		}
	}
	if cfg.HTTPS == "" || cfg.HTTPS == "off" {
		return cfg, usagef("--https is needed: agents come in there")
	}
	if (cfg.CertFile == "") != (cfg.KeyFile == "") {
		return cfg, usagef("--cert and --key go together")
	}
	if cfg.DataDir == "" {
		dirs, err := config.FindDirs(env.LookupEnv)
		if err != nil {
			return cfg, usageError{err}
		}
		cfg.DataDir = dirs.Data
	}
	var err error
	if cfg.DataDir, err = filepath.Abs(cfg.DataDir); err != nil {
		return cfg, fmt.Errorf("find the data directory: %w", err)
	}
	cfg.TCPPorts = registry.PortRange(f.ports)
	cfg.Grace, cfg.Drain = time.Duration(f.grace), time.Duration(f.drain)
	if cfg.Logger, err = f.log.logger(env); err != nil {
		return cfg, err
	}
	cfg.Version = version.String()
	return cfg, nil
}

// greet prints the agent command to paste, on the first start.
func greet(env *Env, cfg server.Config, r server.Ready) {
	if cfg.Domain == "localhost" {
		cfg.Logger.Warn("the domain is localhost: only this machine reaches names below it; set --domain")
	}
	if r.Token == nil {
		return
	}
	data := ""
	if cfg.DataDir != defaultData(env) {
		data = " --data " + shellQuote(cfg.DataDir)
	}
	ca := ""
	if r.NeedsCA {
		ca = " --ca " + shellQuote(filepath.Base(cfg.CertFile)) // its own certificate, or that of its CA, both do
		cfg.Logger.Warn("agents can't trust the given certificate by themselves: give each its file, and name it with --ca", "cert", cfg.CertFile)
	}
	_, _ = fmt.Fprintf(env.Stdout, `
This server is new, so it made a first token. Where your service runs, paste

    CULVERT_TOKEN=%s culvert http 3000 --server %s%s

with your service's port in place of 3000. The token is not shown again; make
others with: culvert token create%s

`, r.Token.Reveal(), publicAddress(cfg.Domain, r.HTTPS), ca, data)
}

// publicAddress is what agents dial, without the port where it is the usual one.
func publicAddress(domain string, a net.Addr) string {
	t, ok := a.(*net.TCPAddr)
	if !ok || t.Port == 443 {
		return domain
	}
	return net.JoinHostPort(domain, strconv.Itoa(t.Port))
}

// shellQuote quotes s for a POSIX shell if that is needed.
func shellQuote(s string) string {
	s = filepath.Clean(s)
	if strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("/._-", r)
	}) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
