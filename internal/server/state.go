package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/admin"
	"github.com/culvert-tunnel/culvert/internal/server/control"
	"github.com/culvert-tunnel/culvert/internal/server/edge"
	"github.com/culvert-tunnel/culvert/internal/server/peer"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// ErrBadNodeID says that the file with the node's id can't be read.
var ErrBadNodeID = errors.New("the file is damaged: remove it to become a new node")

// openState opens the cluster's state and says that this node is there. Where other nodes
// may be, they come in by the listener from then on, which members of the store that are to
// find each other can't do without. The function that it returns undoes all that.
func (s *Server) openState(ctx context.Context, l net.Listener) (undo func(), err error) {
	id, err := nodeID(s.cfg.DataDir)
	if err != nil {
		return nil, err
	}
	cfg := store.Config{Dir: s.cfg.DataDir, External: s.cfg.Etcd, Logger: s.cfg.Logger}
	leave := func() {}
	if len(s.cfg.Etcd.URLs) == 0 {
		if leave, err = s.openHome(ctx, id, l, &cfg); err != nil {
			return nil, err
		}
	}
	if err = s.openStore(ctx, id, cfg); err != nil {
		leave()
		return nil, err
	}
	if len(s.cfg.Etcd.URLs) > 0 {
		authority, err := s.store.Authority(ctx, peer.NewAuthority)
		if err == nil {
			leave, err = s.meet(ctx, l, peer.Config{Node: id, Authority: authority})
		}
		if err != nil {
			s.closeStore(ctx)
			return nil, fmt.Errorf("open the cluster's CA: %w", err)
		}
	}
	return func() {
		s.closeStore(ctx)
		leave()
	}, nil
}

// openStore opens the store.
func (s *Server) openStore(ctx context.Context, id string, cfg store.Config) (err error) {
	s.since = time.Now().UTC().Truncate(time.Second)
	s.store, err = store.Open(ctx, cfg)
	if errors.Is(err, store.ErrExternal) {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if err != nil {
		return err
	}
	s.events, s.files = s.store.NewEvents(), s.store.Certs()
	s.counters, s.visits = admin.NewCounters(), admin.NewVisits(edge.Codes()...)
	s.presence, err = s.store.Join(ctx, store.Node{
		ID: id, Name: s.cfg.Node, Region: s.cfg.Region, Version: s.cfg.Version, Since: s.since, Peer: s.peerAddress, Link: s.linkAddress,
	})
	if err != nil {
		_ = s.store.Close()
	}
	return err
}

// firstRoutes bounds the wait for what other nodes serve.
const firstRoutes = 10 * time.Second

// awaitRoutes waits until it is known what other nodes serve, so that nobody is told that
// there is no such name by a node that has just come.
func (s *Server) awaitRoutes(ctx context.Context) {
	select {
	case <-s.registry.Synced():
	case <-time.After(firstRoutes):
		s.cfg.Logger.Warn("the names of other servers can't be read yet: visitors of theirs may be turned away here")
	case <-ctx.Done():
	}
}

// closeStore takes leave of the other nodes: what this one had is free at once. A successor
// is the same node, and has ended this one's lease when it came.
func (s *Server) closeStore(ctx context.Context) {
	if !s.succeeded.Load() {
		if err := s.presence.Leave(context.WithoutCancel(ctx)); err != nil {
			s.cfg.Logger.Warn("leave the cluster", "error", err)
		}
	}
	if err := s.store.Close(); err != nil {
		s.cfg.Logger.Warn("close the store", "error", err)
	}
}

// nodeID is who this node is, for as long as its data directory lives.
func nodeID(dir string) (string, error) {
	path := filepath.Join(dir, "node")
	b, err := os.ReadFile(path)
	if err == nil {
		id, err := uuid.Parse(strings.TrimSpace(string(b)))
		if err != nil {
			return "", fmt.Errorf("read %s: %w", path, ErrBadNodeID)
		}
		return id.String(), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the node's id: %w", err)
	}
	id := uuid.NewString()
	if err := store.WriteFile(path, []byte(id+"\n")); err != nil {
		return "", fmt.Errorf("keep the node's id: %w", err)
	}
	return id, nil
}

// firstToken makes a token if the cluster has never had one.
func (s *Server) firstToken(ctx context.Context) (*tunnel.Token, error) {
	token, err := s.store.FirstToken(ctx, s.certs.Fingerprint())
	if errors.Is(err, store.ErrExists) {
		return nil, nil //nolint:nilnil // no first token is not an error
	}
	if err != nil {
		return nil, err
	}
	return &token, nil
}

// asksProof reports whether a domain that was one token's is another's only with proof. By
// default that is where agents of several tokens use the cluster.
func (s *Server) asksProof() bool {
	switch s.cfg.DomainProof {
	case "always":
		return true
	case "never":
		return false
	}
	n := 0
	for _, t := range s.store.Tokens() {
		if !t.Admin && !t.Join {
			n++
		}
	}
	return n > 1
}

// reservedFor is the token that a name is reserved for.
func (s *Server) reservedFor(name endpoint.Name) string {
	r, ok := s.store.Reserved(name.String())
	if !ok || !r.Kept {
		return ""
	}
	return r.Token
}

// event counts what happens with agents, and keeps it for people to see.
func (s *Server) event(e control.Event) {
	if e.Kind == control.AgentConnected || e.Kind == control.AgentDisconnected {
		s.settler.changed(s.control.Sessions())
	}
	s.counters.Event(string(e.Kind), e.Code)
	s.events.Add(store.Event{
		At: time.Now().UTC(), Node: s.presence.Node(), Kind: string(e.Kind),
		Agent: e.Agent, Token: e.Token, Name: e.Name, Code: e.Code, Remote: e.Remote,
	})
}
