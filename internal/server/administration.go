package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/culvert-tunnel/culvert/internal/server/admin"
)

// adminServers are the servers of the admin address and of the unix socket.
func (s *Server) adminServers() (public, private *http.Server) {
	cfg := admin.Config{
		Store: s.store, Domain: s.cfg.Domain, Fingerprint: s.certs.Fingerprint, JoinFingerprint: s.joinFingerprint, Backup: s.backup,
		Ready: s.usable, Certificates: s.certificates, Status: s.status, Sessions: s.sessions,
		Metrics: admin.Metrics(s.gauges, s.counters, s.visits),
	}
	make := func(h http.Handler) *http.Server {
		return &http.Server{
			Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second,
			IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
			ErrorLog: slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
		}
	}
	return make(admin.Public(cfg)), make(admin.Private(cfg))
}

var (
	errNotReady = errors.New("the server is starting or shutting down")
	errBehind   = errors.New("the store is out of reach: what is bound is served, new names wait")
)

// maxBehind is for how long the store may be silent before the node says so.
const maxBehind = 10 * time.Second

// usable is nil if visitors and agents should be sent here.
func (s *Server) usable() error {
	if !s.ready.Load() {
		return errNotReady
	}
	if d := s.behind(); d > maxBehind {
		return fmt.Errorf("%w (for %v)", errBehind, d.Round(time.Second))
	}
	return nil
}

// behind is for how long the store has been out of reach.
func (s *Server) behind() time.Duration { return max(s.store.Behind(), s.presence.Silent()) }

func (s *Server) status(ctx context.Context) admin.Status {
	n := s.Stats()
	st := admin.Status{
		Node: s.cfg.Node, NodeID: s.presence.Node(), Version: s.cfg.Version, Domain: s.cfg.Domain, Since: s.since, Ready: true,
		Sessions: n.Sessions, Names: n.Names, Streams: n.Streams, Visits: n.Visits, Nodes: len(s.store.Nodes()),
	}
	if err := s.usable(); err != nil {
		st.Ready, st.Problem = false, err.Error()
	}
	var err error
	if st.Store, err = s.store.Health(ctx); err != nil && st.Problem == "" {
		st.Problem = err.Error()
	}
	if len(st.Store.Alarms) > 0 && st.Problem == "" {
		st.Problem = "the store raises an alarm: see docs/operations.md"
	}
	return st
}

func (s *Server) sessions() []admin.Session {
	list := []admin.Session{}
	for _, a := range s.control.List() {
		list = append(list, admin.Session{
			ID: a.ID, Agent: a.AgentID, Generation: a.Generation, Token: a.TokenID,
			Version: a.Metadata.GetVersion(), Since: a.Since, Endpoints: a.Endpoints,
		})
	}
	return list
}

func (s *Server) gauges() admin.Gauges {
	n, e := s.Stats(), s.edge.Counters()
	g := admin.Gauges{
		Version: s.cfg.Version, Ready: s.usable() == nil,
		Sessions: n.Sessions, Endpoints: n.Names, Streams: n.Streams, Visits: n.Visits, Flows: e.Flows,
		Nodes: len(s.store.Nodes()), StoreBehind: s.behind(), EventsDropped: s.events.Dropped(),
		Certificates: s.certificates(), Links: admin.Links(s.control.Links()),
		Refused: map[string]int64{
			"too_many_pending": e.Pending, "no_hello": e.NoHello, "not_tls": e.NotTLS, "unknown_name": e.UnknownName,
			"offline": e.Offline, "over_limit": e.OverLimit, "proxy_header": e.ProxyRefused,
		},
		FlowsRefused: e.FlowsRefused, FlowsEvicted: e.FlowsEvicted, DatagramsLost: e.DatagramsLost,
	}
	if s.peers != nil {
		g.Relays = s.peers.Relays()
	}
	return g
}

// certificates tells the API which there are.
func (s *Server) certificates() []admin.Certificate {
	list := []admin.Certificate{}
	for _, c := range s.certs.List() {
		a := admin.Certificate{Host: c.Host, Source: "acme", State: "pending", Issuer: c.Issuer, Expires: c.Expires, Retry: c.Retry}
		if c.File {
			a.Source = "file"
		}
		if c.Err != nil {
			a.State, a.Error = "failed", c.Err.Error()
		}
		if c.Issuer != "" {
			a.State = "ready" // whatever became of its renewal
		}
		list = append(list, a)
	}
	return list
}
