package server

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/peer"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/server/store"
)

// advertise is where other nodes dial this one; empty: it takes none in.
func (s *Server) advertise(l net.Listener) (string, error) {
	if l == nil {
		return "", nil
	}
	if a := s.cfg.PeerAdvertise; a != "" {
		return advertised("--peer-advertise", a, portOf(l))
	}
	if a, ok := l.Addr().(*net.TCPAddr); ok && a.IP.IsUnspecified() {
		return "", fmt.Errorf("%w: --peer %s is no address to dial: name the one of this server with --peer-advertise", ErrConfig, s.cfg.Peer)
	}
	return l.Addr().String(), nil
}

// advertised reads a host, or host:port, that others are told.
func advertised(flag, a string, port int) (string, error) {
	if host, given, err := net.SplitHostPort(a); err == nil {
		return net.JoinHostPort(host, given), nil
	}
	host, err := endpoint.ParseHost(a)
	if err != nil {
		return "", fmt.Errorf("%w: %s %q: %w", ErrConfig, flag, a, err)
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), nil
}

// others are the addresses of other nodes that take agents in, those of this node's region
// first. Their order is another one each time, so that agents spread.
func (s *Server) others() []string {
	nodes := slices.DeleteFunc(s.store.Nodes(), func(n store.Node) bool { return n.Link == "" || n.ID == s.presence.Node() })
	rand.Shuffle(len(nodes), func(i, k int) { nodes[i], nodes[k] = nodes[k], nodes[i] })
	far := func(n store.Node) int {
		if n.Region == s.cfg.Region {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(nodes, func(a, b store.Node) int { return far(a) - far(b) })
	addresses := make([]string, 0, maxOthers)
	for _, n := range nodes[:min(len(nodes), maxOthers)] {
		addresses = append(addresses, n.Link)
	}
	return addresses
}

// maxOthers bounds what an agent is told.
const maxOthers = 8

// meet makes the hop to other nodes, and serves those who come by the listener until the
// function that it returns is called.
func (s *Server) meet(ctx context.Context, l net.Listener, cfg peer.Config) (leave func(), err error) {
	cfg.Logger = s.cfg.Logger
	cfg.Address = func(node string) (string, bool) {
		n, there := s.store.Node(node)
		return n.Peer, there
	}
	cfg.Own = func(ctx context.Context, id string) (*registry.Route, bool) {
		if !s.isWired() {
			return nil, false
		}
		return s.registry.Own(ctx, id)
	}
	cfg.Lost = func(node string) { s.registry.Unreachable(node) }
	cfg.Back = func(node string) { s.registry.Reachable(node) }
	if s.peers, err = peer.New(cfg); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var tasks sync.WaitGroup
	tasks.Go(func() { _ = s.peers.Run(ctx, l) })
	return func() {
		cancel()
		tasks.Wait()
	}, nil
}

// isWired reports whether what serves others is there already.
func (s *Server) isWired() bool {
	select {
	case <-s.wired:
		return true
	default:
		return false
	}
}

// toPeer is registry.Config.Peer; nil where there are no other nodes.
func (s *Server) toPeer() func(node string) registry.OpenFunc {
	if s.peers == nil {
		return nil
	}
	return s.peers.To
}

func (s *Server) noPort(name endpoint.Name, err error) {
	s.cfg.Logger.Warn("the port of another node's endpoint can't be opened here", "name", name.String(), "error", err)
}
