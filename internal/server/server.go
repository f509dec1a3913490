// Package server wires a node together: listeners, edge, registry, control,
// certificates, state and administration. It holds no logic of its own.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/admin"
	"github.com/culvert-tunnel/culvert/internal/server/auth"
	"github.com/culvert-tunnel/culvert/internal/server/certs"
	"github.com/culvert-tunnel/culvert/internal/server/control"
	"github.com/culvert-tunnel/culvert/internal/server/edge"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Config of a node. DataDir and Logger must be set; everything else has a default.
type Config struct {
	Domain    string   // below which names are given; default localhost
	HTTP      string   // address for visitors' HTTP; empty: none
	HTTPS     string   // address for visitors' TLS and for agents
	Links     []string // more addresses for agents alone
	Admin     string   // address of /healthz and /readyz; empty: none
	TCPHost   string   // address of tcp endpoints; empty: all
	TCPPorts  registry.PortRange
	DataDir   string
	CertFile  string // certificate of the domain and of links; without it the own CA signs
	KeyFile   string
	Node      string // default: the host's name
	Region    string
	Version   string
	Grace     time.Duration // how long names wait for their agent; default 10 s
	Drain     time.Duration // how long visits may go on after Run's context ended; default 30 s
	Heartbeat time.Duration // default 5 s
	Logger    *slog.Logger

	// Ready is told the bound addresses and, on the very first start, the first
	// token, as soon as the node can be used.
	Ready func(Ready)
}

// Ready says what a node that can be used offers.
type Ready struct {
	HTTP, HTTPS, Admin net.Addr // nil: not configured
	Links              []net.Addr
	Token              *tunnel.Token // the first token, on the first start
	CAFile             string        // the own CA's certificate
	NeedsCA            bool          // agents can't trust the given certificate without a file of its CA
}

// Server is one node. Make it with New, then call Run once.
type Server struct {
	cfg      Config
	lock     *os.File
	tokens   *store.Tokens
	certs    *certs.Manager
	registry *registry.Registry
	control  *control.Control
	edge     *edge.Edge
	ready    atomic.Bool

	httpPort, httpsPort int // as bound; set before anything is served
}

// New checks the configuration and opens the node's state.
func New(cfg Config) (*Server, error) {
	if cfg.Domain == "" {
		cfg.Domain = "localhost"
	}
	domain, err := endpoint.ParseHost(cfg.Domain)
	if err != nil || strings.ContainsAny(cfg.Domain, ":") {
		return nil, fmt.Errorf("%w: domain %q: %w", ErrConfig, cfg.Domain, endpoint.ErrBadHost)
	}
	cfg.Domain = domain
	if cfg.Node == "" {
		cfg.Node, _ = os.Hostname()
	}
	if cfg.Drain <= 0 {
		cfg.Drain = 30 * time.Second
	}
	if err := makeDataDir(cfg.DataDir); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg}
	if s.lock, err = lockDir(cfg.DataDir); err != nil {
		return nil, err
	}
	if err := s.open(); err != nil {
		_ = s.lock.Close()
		return nil, err
	}
	return s, nil
}

func (s *Server) open() error {
	var err error
	if s.tokens, err = store.OpenTokens(s.cfg.DataDir); err != nil {
		return err
	}
	s.certs, err = certs.New(certs.Config{
		Dir: s.cfg.DataDir, CertFile: s.cfg.CertFile, KeyFile: s.cfg.KeyFile, Domain: s.cfg.Domain, Bound: s.bound,
	})
	if errors.Is(err, certs.ErrGiven) {
		err = fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return err
}

func (s *Server) bound(host string) bool {
	_, ok := s.registry.Spec(endpoint.Name{Kind: endpoint.HTTP, Host: host})
	return ok
}

// listeners are the sockets of a node.
type listeners struct {
	plain, secure, admin, socket net.Listener
	links                        []net.Listener
}

func (l *listeners) closeVisitors() {
	for _, x := range append([]net.Listener{l.plain, l.secure}, l.links...) {
		if x != nil {
			_ = x.Close()
		}
	}
}

func (l *listeners) closeAll() {
	l.closeVisitors()
	for _, x := range []net.Listener{l.admin, l.socket} {
		if x != nil {
			_ = x.Close()
		}
	}
}

// Run serves until ctx ends, then drains: no new visitors, those who are in may
// stay for Config.Drain.
func (s *Server) Run(ctx context.Context) error {
	defer s.lock.Close() //nolint:errcheck // a lock file
	ls, err := s.listen(ctx)
	if err != nil {
		return err
	}
	defer ls.closeAll()
	first, err := s.firstToken()
	if err != nil {
		return err
	}

	serving, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	s.wire(serving)

	var tasks sync.WaitGroup
	failed := make(chan error, 3)
	run := func(f func() error) {
		tasks.Go(func() {
			if err := f(); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
				failed <- err
			}
		})
	}
	run(func() error { return s.edge.Serve(serving, ls.plain, ls.secure, ls.links) })
	health, api := s.adminServers()
	if ls.admin != nil {
		run(func() error { return health.Serve(ls.admin) })
	}
	run(func() error { return api.Serve(ls.socket) })
	s.ready.Store(true)
	s.announce(ls, first)

	select {
	case <-ctx.Done():
		s.drain(serving, ls)
	case err = <-failed:
	}
	s.ready.Store(false)
	cut()
	ls.closeAll()
	_ = s.registry.Close()
	_ = s.edge.Close()
	_ = health.Close()
	_ = api.Close()
	tasks.Wait()
	return err
}

// Stats are what a node holds at one moment.
type Stats struct {
	Sessions int // agents connected
	Names    int // served by one of them
	Streams  int // to agents, idle ones among them
	Visits   int // visitors being served
}

// Stats counts. It may be called from Config.Ready on, also after Run.
func (s *Server) Stats() Stats {
	return Stats{Sessions: s.control.Sessions(), Names: s.registry.Live(), Streams: s.edge.Streams(), Visits: s.edge.Visits()}
}

// wire makes the rooms of the walk and connects them.
func (s *Server) wire(serving context.Context) {
	s.registry = registry.New(registry.Config{
		Domain: s.cfg.Domain, TCPPorts: s.cfg.TCPPorts, Grace: s.cfg.Grace,
		Released: func() { s.edge.CloseIdle() },
		Listen: func(port uint16) (io.Closer, error) {
			return s.edge.ListenTCP(serving, port)
		},
	})
	s.control = control.New(control.Config{
		Authenticate: func(credential string) (auth.Grant, error) { return auth.Authenticate(s.tokens, credential) },
		Registry:     s.registry,
		URLs:         s.urls,
		Node:         s.cfg.Node,
		Region:       s.cfg.Region,
		Version:      s.cfg.Version,
		Domain:       s.cfg.Domain,
		Heartbeat:    s.cfg.Heartbeat,
		Logger:       s.cfg.Logger,
	})
	s.edge = edge.New(edge.Config{
		Registry: s.registry, Certs: s.certs, Link: s.control.Serve,
		HTTPSPort: func() int { return s.httpsPort }, TCPHost: s.cfg.TCPHost, Logger: s.cfg.Logger,
	})
}

// drain lets visits end.
func (s *Server) drain(ctx context.Context, ls *listeners) {
	s.ready.Store(false)
	s.cfg.Logger.Info("server draining", "deadline", s.cfg.Drain.String())
	ls.closeVisitors()
	s.control.Drain("the server is shutting down", s.cfg.Drain)
	_ = s.registry.Close() // closes the ports of tcp endpoints
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Drain)
	defer cancel()
	if err := s.edge.Shutdown(ctx); err != nil {
		s.cfg.Logger.Warn("visitors cut off at the end of the drain", "error", err)
	}
}

// firstToken makes a token if there has never been one in this data directory.
func (s *Server) firstToken() (*tunnel.Token, error) {
	marker := filepath.Join(s.cfg.DataDir, "tokens.json")
	if _, err := os.Stat(marker); err == nil {
		return nil, nil //nolint:nilnil // no first token is not an error
	}
	token, err := s.tokens.Create(s.certs.Fingerprint(), "first", nil)
	if err != nil {
		return nil, err
	}
	return &token, nil
}

func (s *Server) announce(ls *listeners, first *tunnel.Token) {
	r := Ready{
		Token: first, CAFile: filepath.Join(s.cfg.DataDir, certs.CAFile),
		NeedsCA: s.certs.Fingerprint() == "" && !s.certs.Public(),
	}
	attrs := []any{"domain", s.cfg.Domain}
	set := func(to *net.Addr, name string, l net.Listener) {
		if l != nil {
			*to = l.Addr()
			attrs = append(attrs, name, l.Addr().String())
		}
	}
	set(&r.HTTP, "http", ls.plain)
	set(&r.HTTPS, "https", ls.secure)
	set(&r.Admin, "admin", ls.admin)
	for _, l := range ls.links {
		r.Links = append(r.Links, l.Addr())
		attrs = append(attrs, "link", l.Addr().String())
	}
	if s.cfg.TCPPorts.Size() > 0 {
		attrs = append(attrs, "tcp_ports", s.cfg.TCPPorts.String())
	}
	s.cfg.Logger.Info("server ready", attrs...)
	if s.cfg.Ready != nil {
		s.cfg.Ready(r)
	}
}

// urls tells the public URLs of a name.
func (s *Server) urls(n endpoint.Name, spec endpoint.Spec) []string {
	host := n.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	at := func(scheme string, port, usual int) string {
		if port == usual {
			return scheme + "://" + host
		}
		return scheme + "://" + host + ":" + strconv.Itoa(port)
	}
	switch n.Kind {
	case endpoint.TCP:
		host = s.cfg.Domain
		return []string{at("tcp", int(n.Port), 0)}
	case endpoint.TLS:
		return []string{at("tls", s.httpsPort, 443)}
	case endpoint.HTTP:
	}
	if spec.PlainOnly {
		return []string{at("http", s.httpPort, 80)}
	}
	if s.httpPort == 0 {
		return []string{at("https", s.httpsPort, 443)}
	}
	return []string{at("https", s.httpsPort, 443), at("http", s.httpPort, 80)}
}

func (s *Server) adminServers() (health, api *http.Server) {
	cfg := admin.Config{
		Tokens: s.tokens, Fingerprint: s.certs.Fingerprint, Revoked: s.control.Revoke,
		Ready: func() error {
			if !s.ready.Load() {
				return errNotReady
			}
			return nil
		},
	}
	make := func(h http.Handler) *http.Server {
		return &http.Server{
			Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second,
			IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
			ErrorLog: slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
		}
	}
	return make(admin.Health(cfg)), make(admin.API(cfg))
}

var errNotReady = errors.New("the server is starting or shutting down")
