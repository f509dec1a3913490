package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/culvert-tunnel/culvert/internal/config"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/server"
	"github.com/culvert-tunnel/culvert/internal/server/certs"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
	"github.com/culvert-tunnel/culvert/internal/version"
)

// serverFlags are the flags of culvert server.
type serverFlags struct {
	config       string
	http3        bool
	quic         bool
	ports        ports
	udpPorts     ports
	flowTimeout  wait
	proxies      []string // trusted
	others       string
	grace, drain wait
	resumeWindow wait
	certs, keys  []string
	join         []string
	joinToken    string // its file
	cfg          server.Config
	access       accessFlags
	log          logFlags
}

func newServerFlags() *serverFlags {
	defaultPorts := ports{First: 20000, Last: 20999}
	return &serverFlags{
		ports: defaultPorts, udpPorts: defaultPorts, flowTimeout: wait(time.Minute),
		grace: wait(registry.DefaultGrace), drain: wait(30 * time.Second), resumeWindow: wait(link.ResumeWindow),
	}
}

func newServer(env *Env) *cobra.Command {
	f := newServerFlags()
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the public side",
		Long: `Run the public side: accept agents, and visitors for them.

The first start on an empty data directory makes a token and prints the agent
command to paste. SIGTERM or Ctrl-C drains: visitors may finish; a second one exits at
once.

With --upgrade it takes the place of the server that runs on the same data directory: the
listening sockets go over to it, agents move, and the old one ends when its visitors have
left or --drain is over. If it can't start, the old one goes on. Sockets that systemd
passes (LISTEN_FDS) are used for the addresses they are bound to.

With --acme-email the server gets certificates by ACME for the domain and for the
hosts that agents bind; by giving the address you agree to the terms of the CA, which
is Let's Encrypt unless --acme-ca says otherwise. Without it, and without --cert and
--key, the server signs its own certificates; agents trust it by the fingerprint in
their token.`,
		Example: `  culvert server --domain tunnel.example.com
  culvert server --config /etc/culvert/server.yml
  culvert server --domain tunnel.example.com --acme-email ops@example.com
  culvert server --domain tunnel.example.com --cert chain.pem --key key.pem`,
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, env) },
	}
	f.add(cmd, env)
	return cmd
}

func (f *serverFlags) add(cmd *cobra.Command, env *Env) {
	fs := cmd.Flags()
	fs.StringVar(&f.config, "config", "", "configuration file (YAML)")
	fs.StringVar(&f.cfg.Domain, "domain", "localhost", "domain below which endpoints get their names")
	fs.StringVar(&f.cfg.HTTP, "http", ":80", "address for visitors' HTTP; off for none")
	fs.StringVar(&f.cfg.HTTPS, "https", ":443", "address for visitors' TLS and for agents")
	fs.BoolVar(&f.http3, "http3", true, "serve HTTP/3 on the UDP side of the https port")
	fs.BoolVar(&f.quic, "quic", true, "let agents come by QUIC, on the UDP sides of the https and link ports")
	fs.StringArrayVar(&f.cfg.Links, "link", nil, "further address for agents alone; may be repeated")
	fs.StringVar(&f.cfg.Admin, "admin", "127.0.0.1:4041", "address of health, metrics and the admin API; off for none")
	fs.StringVar(&f.cfg.TCPHost, "tcp-host", "", "address that tcp and udp endpoints listen on; all by default")
	fs.Var(&f.ports, "tcp-ports", "ports for tcp endpoints; off for none")
	fs.Var(&f.udpPorts, "udp-ports", "ports for udp endpoints; off for none")
	fs.StringArrayVar(&f.proxies, "proxy-protocol-from", nil, "network or address of a proxy in front of this server, whose connections begin with a PROXY header; may be repeated")
	addChoice(cmd, &f.others, "proxy-protocol-others", "", "with --proxy-protocol-from, connections from elsewhere are: serve or refuse", "serve", "refuse")
	fs.Var(&f.flowTimeout, "udp-idle-timeout", "silence that ends a visitor's flow of a udp endpoint")
	fs.IntVar(&f.cfg.MaxFlows, "udp-flows", 16_384, "how many flows udp endpoints have together at most")
	fs.IntVar(&f.cfg.MaxEndpointFlows, "udp-endpoint-flows", 1024, "how many flows each udp endpoint has at most")
	fs.BoolVar(&f.cfg.Upgrade, "upgrade", false, "take over from the server that runs on the data directory, if there is one, without refusing a connection")
	fs.StringVar(&f.cfg.DataDir, "data", "", "data directory (default "+defaultData(env)+")")
	fs.StringArrayVar(&f.cfg.Etcd.URLs, "etcd", nil, "URL of an etcd that keeps the cluster's state; may be repeated (default: a member of the server's own, in the data directory)")
	addChoice(cmd, &f.cfg.DomainProof, "domain-proof", "", "whether a domain that was one token's needs a TXT record to be another's: auto (where several tokens have agents), always or never", "auto", "always", "never")
	fs.StringVar(&f.cfg.Etcd.CAFile, "etcd-ca", "", "file with the CA of etcd's certificates (default: the system's)")
	fs.StringVar(&f.cfg.Etcd.CertFile, "etcd-cert", "", "file with the certificate that is shown to etcd")
	fs.StringVar(&f.cfg.Etcd.KeyFile, "etcd-key", "", "file with its key")
	fs.StringVar(&f.cfg.Etcd.User, "etcd-user", "", "user at etcd")
	fs.StringVar(&f.cfg.Etcd.PasswordFile, "etcd-password-file", "", "file with the user's password")
	fs.StringVar(&f.cfg.Etcd.Prefix, "etcd-prefix", "culvert/", "what the keys of this cluster begin with, in an etcd that is shared")
	fs.StringVar(&f.cfg.Peer, "peer", "off", "address for the other servers of the cluster, whose visitors come to the agents of this one by it; off for none")
	fs.StringVar(&f.cfg.PeerAdvertise, "peer-advertise", "", "host or host:port where the other servers dial this one (default: the address of --peer)")
	fs.StringArrayVar(&f.join, "join", nil, "address of a server of the cluster that this one joins on its first start; may be repeated")
	fs.StringVar(&f.joinToken, "join-token-file", "", "file with the token for that, from culvert cluster token; CULVERT_JOIN_TOKEN holds one, too")
	fs.StringVar(&f.cfg.LinkAdvertise, "link-advertise", "", "host or host:port of this server in particular, which agents of the other servers are told to come in at when theirs is gone (default: they aren't)")
	fs.StringArrayVar(&f.certs, "cert", nil, "file with a certificate chain (PEM), read again when it changes; may be repeated")
	fs.StringArrayVar(&f.keys, "key", nil, "file with the key of the --cert at the same place (PEM)")
	f.addACME(fs)
	fs.StringVar(&f.cfg.Node, "node", "", "name of this node (default: the host's name)")
	fs.StringVar(&f.cfg.Region, "region", "", "region that agents are told")
	fs.Var(&f.grace, "grace", "how long names and visitors wait for an agent that is gone")
	fs.Var(&f.resumeWindow, "resume-window", "how long a lost link to an agent may take to come back, with all connections on it")
	fs.Var(&f.drain, "drain", "how long visitors may finish after SIGTERM")
	fs.StringVar(&f.cfg.ErrorPages, "error-pages", "", "directory of pages for visitors' errors: endpoint_offline.html, 503.html, default.html")
	f.access.add(cmd)
	f.log.add(cmd)
}

// addACME adds the flags of certificates by ACME.
func (f *serverFlags) addACME(fs *pflag.FlagSet) {
	acme := &f.cfg.ACME
	fs.StringVar(&acme.Email, "acme-email", "", "get certificates by ACME with an account of this address; by giving it you agree to the CA's terms")
	fs.StringVar(&acme.CA, "acme-ca", "", "the CA: letsencrypt, letsencrypt-staging to try things out, or the URL of an ACME directory (default letsencrypt)")
	fs.StringVar(&acme.CARoot, "acme-ca-root", "", "file with the root of a private ACME CA (PEM)")
	fs.StringVar(&acme.EABKeyID, "acme-eab-key-id", "", "id of the external account that the CA asks for")
	fs.StringVar(&acme.EABKeyFile, "acme-eab-key-file", "", "file with the external account's key, base64url")
	fs.StringArrayVar(&acme.Challenges, "acme-challenges", nil, "challenge to use, http-01 or tls-alpn-01; may be repeated (default: both)")
	fs.StringVar(&acme.DNS.Server, "acme-dns-server", "", "DNS server that takes updates (RFC 2136), for a wildcard certificate of the domain")
	fs.StringVar(&acme.DNS.KeyFile, "acme-dns-key-file", "", "file with the TSIG key for updates, as tsig-keygen makes it")
	fs.StringArrayVar(&acme.DNS.Exec, "acme-dns-exec", nil, "program that makes DNS records instead, and its first arguments; may be repeated")
	fs.StringArrayVar(&acme.DNS.Resolvers, "acme-dns-resolvers", nil, "host:port of a DNS server to ask whether records have spread; may be repeated (default: the zone's own)")
}

func defaultData(env *Env) string {
	dirs, err := config.FindDirs(env.LookupEnv)
	if err != nil {
		return "none"
	}
	return dirs.Data
}

// load completes the flags from environment and file, and checks them.
func (f *serverFlags) load(cmd *cobra.Command, env *Env) (server.Config, error) {
	var file config.Settings
	if v, _ := env.LookupEnv(config.EnvName("config")); f.config == "" {
		f.config = v
	}
	if f.config != "" {
		var err error
		if file, err = config.LoadServer(f.config, env.LookupEnv); err != nil {
			return server.Config{}, usageError{err}
		}
	}
	if err := overlay(cmd, env, file); err != nil {
		return server.Config{}, err
	}
	return f.serverConfig(env)
}

func (f *serverFlags) run(cmd *cobra.Command, env *Env) error {
	cfg, err := f.load(cmd, env)
	if err != nil {
		return err
	}
	closeLog, err := f.access.open(cmd.Context(), env, &cfg)
	if err != nil {
		return err
	}
	defer closeLog()
	cfg.Sockets = activation.Files(true)
	cfg.Ready = func(r server.Ready) { greet(env, cfg, r) }
	if err := f.joinCluster(cmd.Context(), env, cfg.DataDir); err != nil {
		return err
	}
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
	cfg.NoHTTP3, cfg.NoQUIC = !f.http3, !f.quic
	for _, address := range []*string{&cfg.HTTP, &cfg.Admin, &cfg.Peer} {
		if *address == "off" {
			*address = ""
		}
	}
	if cfg.HTTPS == "" || cfg.HTTPS == "off" {
		return cfg, usagef("--https is needed: agents come in there")
	}
	if cfg.PeerAdvertise != "" && cfg.Peer == "" {
		return cfg, usagef("--peer-advertise needs --peer: nobody could come in")
	}
	for i, a := range f.join {
		f.join[i] = strings.TrimPrefix(a, "https://")
		if _, _, err := net.SplitHostPort(f.join[i]); err != nil {
			return cfg, usagef("--join %q: write the address of --peer of a server of the cluster, such as 10.0.0.1:7443", a)
		}
	}
	if len(f.join) > 0 && (cfg.Peer == "" || len(cfg.Etcd.URLs) > 0) {
		return cfg, usagef("--join needs --peer, and no --etcd: servers on one etcd find each other there")
	}
	if len(f.certs) != len(f.keys) {
		return cfg, usagef("--cert and --key go together")
	}
	for i := range f.certs {
		cfg.Certs = append(cfg.Certs, certs.Pair{Cert: f.certs[i], Key: f.keys[i]})
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
	cfg.TCPPorts, cfg.UDPPorts = registry.PortRange(f.ports), registry.PortRange(f.udpPorts)
	if cfg.Proxies.Trusted, err = parseNetworks(f.proxies); err != nil {
		return cfg, usagef("--proxy-protocol-from %w", err)
	}
	cfg.Proxies.RefuseOthers = f.others == "refuse"
	if cfg.Proxies.RefuseOthers && len(f.proxies) == 0 {
		return cfg, usagef("--proxy-protocol-others refuse needs --proxy-protocol-from: nobody could come in")
	}
	cfg.FlowTimeout = time.Duration(f.flowTimeout)
	if cfg.MaxFlows < 1 || cfg.MaxEndpointFlows < 1 {
		return cfg, usagef("--udp-flows and --udp-endpoint-flows are at least 1; --udp-ports off takes no udp endpoints")
	}
	cfg.ResumeWindow = time.Duration(f.resumeWindow)
	cfg.Grace, cfg.Drain = time.Duration(f.grace), time.Duration(f.drain)
	if cfg.Logger, err = f.log.logger(env); err != nil {
		return cfg, err
	}
	cfg.Version = version.String()
	return cfg, nil
}

// joinCluster makes the data directory, if it is new, that of a server of the cluster.
func (f *serverFlags) joinCluster(ctx context.Context, env *Env, dataDir string) error {
	if len(f.join) == 0 {
		return nil
	}
	return server.Join(ctx, dataDir, f.join, func() (tunnel.Token, error) {
		text, _ := env.LookupEnv("CULVERT_JOIN_TOKEN")
		if f.joinToken != "" {
			b, err := os.ReadFile(f.joinToken)
			if err != nil {
				return tunnel.Token{}, usagef("--join-token-file: %w", err)
			}
			text = string(b)
		}
		token, err := tunnel.ParseToken(text)
		if err != nil {
			return token, usagef("--join needs a token: make one with culvert cluster token at a server of the cluster, and name its file with --join-token-file")
		}
		return token, nil
	})
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
		file := cfg.Certs[0].Cert // its own certificate, or that of its CA, both do
		ca = " --ca " + shellQuote(filepath.Base(file))
		cfg.Logger.Warn("agents can't trust the given certificate by themselves: give each its file, and name it with --ca", "cert", file)
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
