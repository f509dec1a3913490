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
	"github.com/culvert-tunnel/culvert/internal/server/peer"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Config of a node. DataDir and Logger must be set; everything else has a default.
type Config struct {
	Domain        string   // below which names are given; default localhost
	HTTP          string   // address for visitors' HTTP; empty: none
	HTTPS         string   // address for visitors' TLS and for agents
	NoHTTP3       bool     // HTTP/3 is not served on the port of HTTPS
	NoQUIC        bool     // agents can't come by QUIC, on the ports of HTTPS and Links
	Links         []string // more addresses for agents alone
	Admin         string   // address of health, metrics and the admin API; empty: none
	TCPHost       string   // address of tcp and udp endpoints; empty: all
	TCPPorts      registry.PortRange
	UDPPorts      registry.PortRange
	DataDir       string
	Upgrade       bool           // takes over from the server that runs on DataDir, if there is one
	Sockets       []*os.File     // that are open for this server already, such as by systemd
	DomainProof   string         // whether a domain that was one token's needs proof to be another's: always, never, or where several have agents
	Peer          string         // address for other nodes' visitors; empty: they can't reach agents of this one
	PeerAdvertise string         // host, or host:port, where they dial it; default: Peer as bound
	LinkAdvertise string         // host, or host:port, of this node in particular, that agents of others are told; empty: none
	Etcd          store.External // the cluster's state; without URLs members of our own keep it in DataDir
	Certs         []certs.Pair   // files of certificates; one for the domain serves links too
	ACME          certs.ACME     // how to get the others; where neither helps, the own CA signs
	Node          string         // default: the host's name
	Region        string
	Version       string
	Grace         time.Duration // how long names wait for their agent; default 10 s
	Drain         time.Duration // how long visits may go on after Run's context ended; default 30 s
	Heartbeat     time.Duration // default 5 s
	ResumeWindow  time.Duration // how long links wait for their agent's next connection; default link.ResumeWindow

	Proxies          edge.Proxies  // in front of the node
	FlowTimeout      time.Duration // silence that ends a flow of a udp endpoint; default 1 min
	MaxFlows         int           // of all udp endpoints; default 16,384
	MaxEndpointFlows int           // of each; default 1,024

	Logger *slog.Logger

	ErrorPages string // directory of pages for visitors' errors; empty: the built-in one alone

	AccessLog   *slog.Logger // of visitors' requests; nil: none
	AccessLines io.Writer    // of the same in the combined format; nil: none
	AccessQuery bool         // queries of URLs are logged too

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
	store    *store.Store
	presence *store.Presence
	domains  auth.Domains
	events   *store.Events
	files    *store.Files // of certificates
	counters *admin.Counters
	visits   *admin.Visits
	certs    *certs.Manager
	registry *registry.Registry
	control  *control.Control
	settler  *settler
	peers    *peer.Peers   // nil: there are no other nodes
	home     *peer.Home    // nil: the state is not in members of the nodes' own, or in one that is alone
	wired    chan struct{} // closed when all of the above is there
	edge     *edge.Edge
	pages    *edge.Pages
	ready    atomic.Bool
	since    time.Time

	httpPort, httpsPort int    // as bound; set before anything is served
	peerAddress         string // that other nodes are told
	linkAddress         string // that agents of other nodes are told

	inherited   *sockets
	before      *predecessor // nil: none
	stopKeeping func()
	succeeded   atomic.Bool // by another process
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
	s := &Server{cfg: cfg, settler: newSettler(), inherited: newSockets(), wired: make(chan struct{})}
	for _, f := range cfg.Sockets {
		if err := s.inherited.add(f); err != nil {
			return nil, err
		}
	}
	if !cfg.Upgrade { // else the directory is another server's until Run asks for it
		if s.lock, err = lockDir(cfg.DataDir); err != nil {
			return nil, err
		}
	}
	if err := s.open(); err != nil {
		s.unlock()
		return nil, err
	}
	return s, nil
}

func (s *Server) unlock() {
	if s.lock != nil {
		_ = s.lock.Close()
	}
}

func (s *Server) open() error {
	var err error
	if s.cfg.ErrorPages != "" {
		if s.pages, err = edge.LoadPages(s.cfg.ErrorPages); err != nil {
			return fmt.Errorf("%w: %w", ErrConfig, err)
		}
	}
	s.certs, err = certs.New(certs.Config{
		Dir: s.cfg.DataDir, Domain: s.cfg.Domain, Given: s.cfg.Certs, ACME: s.cfg.ACME,
		Storage: certs.Shared{Files: func() *store.Files { return s.files }},
		Bound:   func(host string) bool { return s.bound(host) || s.reserved(host) },
		Known:   func(host string) bool { return s.registry.Known(host) || s.reserved(host) },
		Failed:  s.noCertificate, Logger: s.cfg.Logger,
	})
	if errors.Is(err, certs.ErrGiven) || errors.Is(err, certs.ErrACME) {
		err = fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return err
}

// bound reports whether a host is that of an endpoint with a TLS side now.
func (s *Server) bound(host string) bool {
	return s.registry.Secure(host)
}

// reserved reports whether a host is one token's for HTTP, though no agent may serve it now.
func (s *Server) reserved(host string) bool {
	return s.reservedFor(endpoint.Name{Kind: endpoint.HTTP, Host: host}) != ""
}

// noCertificate tells the agents of a host, or of those below a wildcard, why visitors
// won't trust it.
func (s *Server) noCertificate(host, reason string) {
	names, err := endpoint.ParsePattern(host)
	if err != nil {
		return // it came from a route
	}
	s.control.Notice(func(n endpoint.Name) bool { return n.Kind == endpoint.HTTP && names.Match(n.Host) }, tunnel.CodeNoCertificate,
		fmt.Sprintf("no certificate for %s yet, so visitors won't trust it: %s", host, reason))
}

// listeners are the sockets of a node.
type listeners struct {
	plain, secure, admin, peer net.Listener
	socket, upgrade            net.Listener // unix sockets in the data directory
	quic                       []edge.QUIC  // on the ports of secure and links; the edge closes them once it serves them
	links                      []net.Listener
	served                     bool // by the edge
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
	for _, x := range []net.Listener{l.admin, l.socket, l.upgrade, l.peer} {
		if x != nil {
			_ = x.Close()
		}
	}
	if !l.served {
		for _, q := range l.quic {
			_ = q.Close()
		}
	}
}

// Run serves until ctx ends, or another process has taken over, then drains: no new
// visitors, those who are in may stay for Config.Drain.
func (s *Server) Run(ctx context.Context) error {
	defer s.unlock()
	defer s.inherited.close()
	if err := s.takeOver(ctx); err != nil {
		return err
	}
	defer s.leavePredecessor()
	ls, err := s.listen(ctx)
	if err != nil {
		return err
	}
	defer ls.closeAll()
	closeState, err := s.openState(ctx, ls.peer)
	if err != nil {
		return err
	}
	defer closeState()
	first, err := s.firstToken(ctx)
	if err != nil {
		return err
	}

	serving, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	s.wire(serving, first == nil)
	close(s.wired)
	s.stopKeeping = s.keep(serving)
	s.awaitRoutes(ctx)

	var tasks sync.WaitGroup
	failed := make(chan error, 9)
	run := func(f func() error) {
		tasks.Go(func() {
			if err := f(); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
				failed <- err
			}
		})
	}
	// Orders end when the ports close where their challenges are answered.
	ordering, stopOrders := context.WithCancel(ctx)
	defer stopOrders()
	run(func() error { s.certs.Run(ordering, addrOf(ls.plain), addrOf(ls.secure)); return nil })
	ls.served = true
	run(func() error {
		return s.edge.Serve(serving, edge.Sockets{Plain: ls.plain, Secure: ls.secure, QUIC: ls.quic, Links: ls.links})
	})
	public, private := s.adminServers()
	if ls.admin != nil {
		run(func() error { return public.Serve(ls.admin) })
	}
	run(func() error { return private.Serve(ls.socket) })
	s.ready.Store(true)
	s.announce(ls, first)
	if s.before != nil {
		if err := s.before.served(); err != nil {
			s.cfg.Logger.Warn("the server before this one is gone already", "error", err)
		}
	}
	handed := make(chan struct{})
	run(func() error { defer close(handed); return s.handOver(serving, ls) })
	run(func() error { return s.giveUpInherited(serving) })

	select {
	case <-ctx.Done():
		s.drain(serving, ls)
	case <-handed:
		s.drain(serving, ls)
	case err = <-failed:
	case err = <-s.store.Failed():
	}
	s.ready.Store(false)
	stopOrders()
	cut()
	ls.closeAll()
	_ = s.registry.Close()
	_ = s.edge.Close()
	_ = public.Close()
	_ = private.Close()
	tasks.Wait()
	s.stopKeeping()
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

// findBack is how long agents may take to find back to a node that was started again: those
// by QUIC notice only when they next ask for life.
const findBack = 6 * time.Second

// move is how long they may take to come over from the predecessor, which sends them one
// after the other.
const move = 10 * time.Second

// wire makes the rooms of the walk and connects them.
func (s *Server) wire(serving context.Context, again bool) {
	youth := time.Duration(0)
	if again {
		youth = findBack
	}
	if s.before != nil {
		youth = move
	}
	s.registry = registry.New(registry.Config{
		Domain: s.cfg.Domain, TCPPorts: s.cfg.TCPPorts, Grace: s.cfg.Grace, Youth: youth,
		Released: func() { s.edge.CloseIdle() },
		Claims:   s.presence, Prove: s.domains.Prove, Shared: s.asksProof, Reserved: s.reservedFor,
		UDPPorts: s.cfg.UDPPorts, Peer: s.toPeer(), Warn: s.noPort,
		Listen: func(name endpoint.Name) (io.Closer, error) {
			return s.edge.Listen(serving, name)
		},
	})
	s.control = control.New(control.Config{
		Authenticate: func(credential string) (auth.Grant, error) { return auth.Authenticate(s.store, credential) },
		Registry:     s.registry,
		Event:        s.event,
		URLs:         s.urls,
		Bound: func(r *registry.Route) {
			if s.bound(r.Name.Host) {
				s.certs.Want(r.Name.Host)
			}
		},
		Node:         s.cfg.Node,
		Region:       s.cfg.Region,
		Version:      s.cfg.Version,
		Domain:       s.cfg.Domain,
		Others:       s.others,
		Heartbeat:    s.cfg.Heartbeat,
		ResumeWindow: s.cfg.ResumeWindow,
		Logger:       s.cfg.Logger,
	})
	s.store.TokensChanged(func(was, is *store.Token) {
		if is == nil {
			s.control.Revoke(was.ID)
		}
	})
	s.edge = edge.New(edge.Config{
		Pages:    s.pages,
		Served:   s.visits.Observe,
		Access:   edge.AccessLog{Attributes: s.cfg.AccessLog, Combined: s.cfg.AccessLines, Query: s.cfg.AccessQuery},
		Registry: s.registry, Certs: s.certs, Link: s.control.Serve,
		HTTPSPort: func() int { return s.httpsPort }, TCPHost: s.cfg.TCPHost, Logger: s.cfg.Logger,
		Listen: s.inherited.listen, ListenPacket: s.inherited.listenPacket,
		Proxies: s.cfg.Proxies, FlowTimeout: s.cfg.FlowTimeout, MaxFlows: s.cfg.MaxFlows, MaxEndpointFlows: s.cfg.MaxEndpointFlows,
	})
}

// drain lets visits end. Agents keep the session that they have here for those.
func (s *Server) drain(ctx context.Context, ls *listeners) {
	s.ready.Store(false)
	reason, successor := "the server is shutting down", s.succeeded.Load()
	if successor {
		reason = "another server process takes over"
		s.edge.HandOver()
		ls.handOver()
	}
	s.cfg.Logger.Info("server draining", "deadline", s.cfg.Drain.String(), "successor", successor)
	ls.closeVisitors()
	s.registry.Drain()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Drain)
	defer cancel()
	var tasks sync.WaitGroup
	tasks.Go(func() { s.control.Drain(ctx, reason, s.cfg.Drain, successor) })
	defer tasks.Wait()
	err := s.edge.Shutdown(ctx)
	if s.peers != nil {
		err = errors.Join(err, s.peers.Shutdown(ctx))
	}
	if err != nil {
		s.cfg.Logger.Warn("visitors cut off at the end of the drain", "error", err)
	}
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
	for _, q := range ls.quic {
		if q.Visitors {
			attrs = append(attrs, "http3", q.LocalAddr().String())
		}
		if q.Links {
			attrs = append(attrs, "quic", q.LocalAddr().String())
		}
	}
	set(&r.Admin, "admin", ls.admin)
	for _, l := range ls.links {
		r.Links = append(r.Links, l.Addr())
		attrs = append(attrs, "link", l.Addr().String())
	}
	if s.peerAddress != "" {
		attrs = append(attrs, "peer", s.peerAddress)
	}
	if s.cfg.TCPPorts.Size() > 0 {
		attrs = append(attrs, "tcp_ports", s.cfg.TCPPorts.String())
	}
	if s.cfg.UDPPorts.Size() > 0 {
		attrs = append(attrs, "udp_ports", s.cfg.UDPPorts.String())
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
			return scheme + "://" + host + n.Path
		}
		return scheme + "://" + host + ":" + strconv.Itoa(port) + n.Path
	}
	switch n.Kind {
	case endpoint.TCP, endpoint.UDP:
		host = s.cfg.Domain
		url := at(string(n.Kind), int(n.Port), 0)
		if spec.Ports > 1 {
			url += "-" + strconv.Itoa(int(n.Port)+spec.Ports-1)
		}
		return []string{url}
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
