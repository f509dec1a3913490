package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/culvert-tunnel/culvert/internal/server/auth"
	"github.com/culvert-tunnel/culvert/internal/server/certs"
	"github.com/culvert-tunnel/culvert/internal/server/peer"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Errors of a cluster whose state the servers keep themselves.
var (
	ErrOwnState = errors.New("this data directory has a state of its own, which would be lost: join with a new one")
	errPeerOff  = errors.New("this server is of a cluster: name the address for the others with --peer")
	errStarting = errors.New("the server is starting: try again")
	errNotOwn   = errors.New("there are no members to join: the state is in an etcd of its own, or --peer is off")
	errNoLinkCA = errors.New("the server's CA can't be read")
)

const homeInterval = 10 * time.Second // of looking where the others are

// Join makes a data directory that of a node of the cluster which the nodes at the
// addresses are of. One that has been made one before is left as it is, and no token asked
// for.
func Join(ctx context.Context, dataDir string, addresses []string, token func() (tunnel.Token, error)) error {
	home := peer.HomeOf(dataDir)
	if made, err := home.Made(); err != nil || made {
		return err
	}
	if err := makeDataDir(dataDir); err != nil {
		return err
	}
	lock, err := lockDir(dataDir)
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // New takes it
	if store.Exists(dataDir) {
		return fmt.Errorf("join the cluster: %w", ErrOwnState)
	}
	shown, err := token()
	if err != nil {
		return err
	}
	welcome, err := peer.Join(ctx, addresses, shown)
	if err != nil {
		return fmt.Errorf("join the cluster: %w", err)
	}
	if err := certs.AdoptCA(dataDir, welcome.LinkCA); err != nil {
		return fmt.Errorf("join the cluster: %w", err)
	}
	return home.Keep(welcome.Authority, append(welcome.Nodes, addresses...))
}

// openHome readies the store of the nodes' own: alone, or with other nodes' as members of
// one, which find each other by the listener.
func (s *Server) openHome(ctx context.Context, id string, l net.Listener, cfg *store.Config) (leave func(), err error) {
	home := peer.HomeOf(s.cfg.DataDir)
	if l == nil {
		if others := home.Nodes(); len(others) > 0 {
			return nil, fmt.Errorf("%w: %w", ErrConfig, errPeerOff)
		}
		return func() {}, nil
	}
	authority, err := home.Authority()
	if err != nil {
		return nil, err
	}
	leave, err = s.meet(ctx, l, peer.Config{
		Node: id, Authority: authority, Home: home, DataDir: s.cfg.DataDir,
		Admit: func(credential string) (peer.Welcome, error) { return s.admit(authority, credential) },
	})
	if err != nil {
		return nil, err
	}
	s.home = home
	cfg.Cluster = home.Store(s.peerAddress, s.peers)
	return leave, nil
}

// admit judges the token of a node to be.
func (s *Server) admit(authority store.Authority, credential string) (peer.Welcome, error) {
	if !s.isWired() {
		return peer.Welcome{}, errStarting
	}
	if err := auth.Join(s.store, credential); err != nil {
		return peer.Welcome{}, err
	}
	ca, err := certs.ReadCA(s.cfg.DataDir)
	if err != nil {
		s.cfg.Logger.Error("a server can't join", "error", err)
		return peer.Welcome{}, errNoLinkCA
	}
	return peer.Welcome{Authority: authority, LinkCA: ca, Nodes: append(s.home.Nodes(), s.peerAddress)}, nil
}

// joinFingerprint is what tokens carry with which servers join.
func (s *Server) joinFingerprint() (string, error) {
	if s.home == nil {
		return "", errNotOwn
	}
	authority, err := s.home.Authority()
	if err != nil {
		return "", err
	}
	return peer.Fingerprint(authority)
}

// keepHome keeps in mind where the other nodes are, for the next start.
func (s *Server) keepHome(ctx context.Context) error {
	if s.home == nil {
		return nil
	}
	tick := time.NewTicker(homeInterval)
	defer tick.Stop()
	for {
		if members, err := s.store.Members(ctx); err == nil {
			var others []string
			for _, m := range members {
				if m.Address != s.peerAddress && !slices.Contains(others, m.Address) {
					others = append(others, m.Address)
				}
			}
			if err := s.home.SetNodes(others); err != nil {
				s.cfg.Logger.Warn("the addresses of the other servers can't be kept", "error", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
