package store

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/culvert-tunnel/culvert/internal/socket"
)

// The members of a cluster are those of its nodes, up to maxMembers; what nodes there are
// beyond that use the others'. An odd number of members votes: a second one would make two
// that must both be there, so it has a copy and no vote (a learner, in etcd's words) until
// the third one comes, and the fourth until the fifth does. Who leads sees to that (balance).
const maxMembers = 5

// Cluster says how the member of this node and those of others find each other. They know
// each other by certificates; who has one is trusted with everything.
type Cluster struct {
	Address string // host:port where the others reach this node
	// Join are the addresses of nodes of the cluster that this one is to be of, which does
	// not matter to one that is already. Without them, it founds one.
	Join []string
	// Dial connects to the client socket (see DialClient) of the node at an address.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Identity is a file with the certificate and key that members show each other, CA one
	// with the CA's certificate, and Name what certificates are for.
	Identity, CA, Name string
}

// Errors of clusters.
var (
	ErrAddressTaken = errors.New("another server of the cluster has this address: give each its own")
	ErrNoMember     = errors.New("no such member of the cluster")
	ErrLastVoter    = errors.New("it is the only member that votes: the state would be gone with it")
	ErrUnsafe       = errors.New("too few of the other members are there to agree on anything without it")
	ErrAlone        = errors.New("this server's state is not in a cluster of its own: there are no members")
)

// DialRaft and DialClient connect to the sockets of the member in a data directory: what
// other nodes ask of this one, once they have shown who they are, ends there.
func DialRaft(ctx context.Context, dataDir string) (net.Conn, error) {
	return dialSocket(ctx, dataDir, raftSocket)
}

// DialClient is explained at DialRaft.
func DialClient(ctx context.Context, dataDir string) (net.Conn, error) {
	return dialSocket(ctx, dataDir, clientSocket)
}

func dialSocket(ctx context.Context, dataDir, name string) (net.Conn, error) {
	path, err := socket.Shorten(filepath.Join(dataDir, "etcd", name))
	if err != nil {
		return nil, err
	}
	defer path.Close()
	return (&net.Dialer{}).DialContext(ctx, "unix", path.Name)
}

// initial are the members of a cluster that a new one comes into, itself among them: URLs
// by names of the moment.
type initial map[string]string

// Ticks of a member that has others: etcd's own.
const (
	tick     = 100
	election = 1000
)

// configure makes c that of a member among others.
func (cl *Cluster) configure(c *embed.Config, listen string, others initial) {
	c.TickMs, c.ElectionMs = tick, election
	c.MaxLearners = maxMembers
	c.ListenPeerUrls = []url.URL{{Scheme: "unix", Host: listen}}
	c.PeerTLSInfo.CertFile, c.PeerTLSInfo.KeyFile, c.PeerTLSInfo.TrustedCAFile = cl.Identity, cl.Identity, cl.CA
	c.PeerTLSInfo.ServerName = cl.Name
	c.AdvertisePeerUrls = []url.URL{address(cl.url())}
	c.InitialCluster = memberName + "=" + cl.url()
	if others == nil {
		return
	}
	c.ClusterState = embed.ClusterStateFlagExisting
	list := make([]string, 0, len(others))
	for name, url := range others {
		list = append(list, name+"="+url)
	}
	c.InitialCluster = strings.Join(list, ",")
}

func (cl *Cluster) url() string { return "https://" + cl.Address }

func address(s string) url.URL {
	u, err := url.Parse(s)
	if err != nil {
		return url.URL{Scheme: "https", Host: s} // etcd says what is wrong with it
	}
	return *u
}

// cluster is what a Store knows of the members.
type cluster struct {
	cfg  *Cluster
	dial func(ctx context.Context, address string) (net.Conn, error)

	mu struct {
		sync.Mutex
		endpoints []string // of the client
	}
}

// ownEndpoint stands for the own member among the client's endpoints; the others are
// addresses of nodes.
const ownEndpoint = "own"

// openCluster starts the own member, if there is to be one, and connects to it or to
// others.
func (s *Store) openCluster(ctx context.Context, cfg Config) error {
	s.cluster = &cluster{cfg: cfg.Cluster}
	s.cluster.dial = func(ctx context.Context, address string) (net.Conn, error) {
		if address == ownEndpoint {
			return DialClient(ctx, cfg.Dir)
		}
		return cfg.Cluster.Dial(ctx, address)
	}
	var err error
	if !Exists(cfg.Dir) && len(cfg.Cluster.Join) > 0 {
		if err := s.connectCluster(ctx, cfg.Cluster.Join); err != nil {
			return err
		}
		return s.enter(ctx, cfg)
	}
	if s.member, err = startMember(ctx, cfg, nil); err != nil {
		return err
	}
	if err := s.connectCluster(ctx, s.member.endpoints()); err != nil {
		return err
	}
	if err := s.align(ctx); err != nil {
		_ = s.client.Close()
		return err
	}
	return nil
}

func (s *Store) connectCluster(ctx context.Context, endpoints []string) error {
	var err error
	s.cluster.mu.endpoints = endpoints
	s.client, err = s.connect(ctx, clientv3.Config{
		Endpoints: endpoints, DialTimeout: 5 * time.Second, DialOptions: []grpc.DialOption{grpc.WithContextDialer(s.cluster.dial)},
		// A node that is gone without a word is noticed, and another one asked.
		DialKeepAliveTime: keepAliveTime, DialKeepAliveTimeout: 3 * time.Second,
	})
	return err
}

// learner reports whether the member has no vote.
func (m *member) learner() bool { return m.etcd != nil && m.etcd.Server.IsLearner() }

// endpoints are where a client of this node goes: to the own member, if that may answer.
func (m *member) endpoints() []string {
	server := m.etcd.Server
	if !server.IsLearner() {
		return []string{ownEndpoint}
	}
	var list []string
	for _, x := range m.known() {
		if !x.IsLearner {
			list = append(list, addressOf(x.PeerURLs))
		}
	}
	return list
}

// known are the members by what this one has heard of, whether the others answer or not.
func (m *member) known() []*etcdserverpb.Member {
	all := m.etcd.Server.Cluster().Members()
	list := make([]*etcdserverpb.Member, len(all))
	for i, x := range all {
		list[i] = &etcdserverpb.Member{ID: uint64(x.ID), Name: x.Name, PeerURLs: x.PeerURLs, IsLearner: x.IsLearner}
	}
	return list
}

// stir has the others agree on an entry that changes nothing, for a member that is about to
// be ready. If it was sent a copy of the state, etcd does not count what is in that as
// applied until an entry comes after it: where nobody writes, the member would take itself
// to be too far behind for its own first word, and try again for ever.
func (m *member) stir(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	var others []string
	for _, x := range m.known() {
		if !x.IsLearner && x.ID != uint64(m.etcd.Server.MemberID()) {
			others = append(others, addressOf(x.PeerURLs))
		}
	}
	if len(others) == 0 {
		return
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: others, Context: ctx, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(m.cfg.Cluster.Dial)},
	})
	if err != nil {
		return
	}
	_, _ = client.Delete(ctx, "culvert/none") // what can't be told now is told a moment later
	_ = client.Close()
}

// addressOf is where a member is reached.
func addressOf(urls []string) string {
	if len(urls) == 0 {
		return ""
	}
	return address(urls[0]).Host
}

// enter makes this node one of the cluster that the client reaches: with a member, if
// there is room for one more. What an earlier life at the same address has left, without
// its data, is removed.
func (s *Store) enter(ctx context.Context, cfg Config) error {
	said := false
	for {
		err := s.tryEnter(ctx, cfg)
		if err == nil || errors.Is(err, ErrDamaged) {
			return err
		}
		if !said {
			s.log.Info("the cluster is not ready for one more server yet: waiting", "error", err)
			said = true
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			_ = s.client.Close()
			return fmt.Errorf("join the cluster: %w", err)
		}
	}
}

func (s *Store) tryEnter(ctx context.Context, cfg Config) error {
	members, err := s.memberList(ctx)
	if err != nil {
		return err
	}
	s.aim(members)
	i := slices.IndexFunc(members, func(m *etcdserverpb.Member) bool { return addressOf(m.PeerURLs) == cfg.Cluster.Address })
	if i >= 0 && members[i].Name != "" {
		if err := s.replace(ctx, members[i], cfg.Cluster.Address); err != nil {
			return err
		}
		i, members = -1, slices.Delete(members, i, i+1)
	}
	if i < 0 {
		if len(members) >= maxMembers {
			return nil // it uses the others'
		}
		short, cancel := context.WithTimeout(ctx, Patience)
		defer cancel()
		r, err := s.client.MemberAddAsLearner(short, []string{cfg.Cluster.url()})
		if err != nil {
			return fault(err)
		}
		members = r.Members
	}
	others := make(initial)
	for _, m := range members {
		name := idOf(m)
		if addressOf(m.PeerURLs) == cfg.Cluster.Address {
			name = memberName
		}
		others[name] = m.PeerURLs[0]
	}
	if s.member, err = startMember(ctx, cfg, others); err != nil {
		return err
	}
	s.aim(members)
	return nil
}

// replace removes the member that was at this node's address, unless it is there.
func (s *Store) replace(ctx context.Context, m *etcdserverpb.Member, address string) error {
	nodes, _, err := s.nodeTable().list(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if n.Value.Peer == address {
			return ErrAddressTaken // or it is gone, and its lease is about to end
		}
	}
	s.log.Warn("a member of the cluster was at this address and has lost its data: it is replaced", "member", idOf(m))
	return s.removeMember(ctx, m.ID)
}

func (s *Store) removeMember(ctx context.Context, id uint64) error {
	ctx, cancel := context.WithTimeout(ctx, 3*Patience) // it answers when the others know
	defer cancel()
	_, err := s.client.MemberRemove(ctx, id)
	return fault(err)
}

// align has the others told where this member is reached now.
func (s *Store) align(ctx context.Context) error {
	members, err := s.memberList(ctx)
	if err != nil {
		return err
	}
	own := uint64(s.member.etcd.Server.MemberID())
	for _, m := range members {
		if m.ID == own && addressOf(m.PeerURLs) != s.cluster.cfg.Address {
			ctx, cancel := context.WithTimeout(ctx, 3*Patience)
			defer cancel()
			if _, err := s.client.MemberUpdate(ctx, own, []string{s.cluster.cfg.url()}); err != nil {
				return fmt.Errorf("tell the cluster this server's address: %w", fault(err))
			}
		}
	}
	return nil
}

func (s *Store) memberList(ctx context.Context) ([]*etcdserverpb.Member, error) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	r, err := s.client.MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the members: %w", fault(err))
	}
	return r.Members, nil
}

func idOf(m *etcdserverpb.Member) string { return fmt.Sprintf("%016x", m.ID) }
