package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// tendEvery is how often the members are looked at.
const tendEvery = time.Second

// tend keeps the client at members that answer, and where this node's member leads, the
// number of votes odd, until ctx ends.
func (s *Store) tend(ctx context.Context) {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.member != nil {
			// Those that the client asks may all be gone, which is why it is to ask others.
			members := s.member.known()
			s.aim(members)
			if s.member.leads() {
				s.balance(ctx, members)
			}
		} else if members, err := s.memberList(ctx); err == nil {
			s.aim(members)
		}
	}
}

func (m *member) leads() bool { return m.etcd.Server.Leader() == m.etcd.Server.MemberID() }

// aim points the client at the own member if it votes, else at those that do.
func (s *Store) aim(members []*etcdserverpb.Member) {
	var list []string
	for _, m := range members {
		switch {
		case m.IsLearner:
		case s.member != nil && m.ID == uint64(s.member.etcd.Server.MemberID()):
			list = []string{ownEndpoint}
		case !slices.Contains(list, ownEndpoint):
			list = append(list, addressOf(m.PeerURLs))
		}
	}
	if s.member != nil && slices.Contains(list, ownEndpoint) {
		list = []string{ownEndpoint}
	}
	slices.Sort(list)
	s.cluster.mu.Lock()
	defer s.cluster.mu.Unlock()
	if len(list) > 0 && !slices.Equal(list, s.cluster.mu.endpoints) {
		s.cluster.mu.endpoints = list
		s.client.SetEndpoints(list...)
	}
}

// balance gives votes to learners that have caught up, two at a time or where one is
// missing, so that an odd number votes.
func (s *Store) balance(ctx context.Context, members []*etcdserverpb.Member) {
	voters := 0
	var ready []*etcdserverpb.Member
	for _, m := range members {
		switch {
		case !m.IsLearner:
			voters++
		case m.Name != "" && s.caughtUp(ctx, m):
			ready = append(ready, m)
		}
	}
	missing := wanted(voters+len(ready)) - voters
	for _, m := range ready[:max(0, missing)] {
		short, cancel := context.WithTimeout(ctx, 3*Patience)
		_, err := s.client.MemberPromote(short, m.ID)
		cancel()
		if err != nil {
			s.log.Warn("a member of the cluster could not be given a vote yet", "member", idOf(m), "error", err)
			return
		}
		s.log.Info("member of the cluster votes", "member", idOf(m), "address", addressOf(m.PeerURLs))
	}
}

// wanted is how many of so many members are to vote.
func wanted(members int) int {
	n := min(members, maxMembers)
	return n - (n+1)%2
}

// maxLag is by how many entries of the log a member that is to vote may be behind.
const maxLag = 1000

func (s *Store) caughtUp(ctx context.Context, m *etcdserverpb.Member) bool {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	r, err := s.client.Status(ctx, addressOf(m.PeerURLs))
	return err == nil && len(r.Errors) == 0 && r.RaftAppliedIndex+maxLag > s.member.etcd.Server.AppliedIndex()
}

// Member is a node's part in the cluster.
type Member struct {
	ID      string `json:"id,omitempty"` // of etcd's; empty: the node uses the others'
	Address string `json:"address"`
	Node    string `json:"node,omitempty"` // empty: it is not there
	Name    string `json:"name,omitempty"`
	Role    string `json:"role" enum:"voter,learner,client"`
	Leader  bool   `json:"leader,omitempty"`
}

// Members returns what the cluster consists of. The error is ErrAlone where nodes have no
// members of their own.
func (s *Store) Members(ctx context.Context) ([]Member, error) {
	if s.cluster == nil {
		return nil, ErrAlone
	}
	members, err := s.memberList(ctx)
	if err != nil {
		return nil, err
	}
	nodes := s.Nodes()
	leader := s.leader(ctx)
	var list []Member
	for _, m := range members {
		x := Member{ID: idOf(m), Address: addressOf(m.PeerURLs), Role: "voter", Leader: m.ID == leader}
		if m.IsLearner {
			x.Role = "learner"
		}
		if i := slices.IndexFunc(nodes, func(n Node) bool { return n.Peer == x.Address }); i >= 0 {
			x.Node, x.Name = nodes[i].ID, nodes[i].Name
			nodes = slices.Delete(nodes, i, i+1)
		}
		list = append(list, x)
	}
	for _, n := range nodes {
		list = append(list, Member{Address: n.Peer, Node: n.ID, Name: n.Name, Role: "client"})
	}
	slices.SortFunc(list, func(a, b Member) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Address, b.Address))
	})
	return list, nil
}

// steady is for how long the others must have been there before one is removed, by etcd's
// own rule, and a little more.
const steady = 8 * time.Second

// removeSafely removes a member if the others can go on without it, once they have been
// there for long enough.
func (s *Store) removeSafely(ctx context.Context, id uint64) error {
	for until := time.Now().Add(steady); ; {
		err := s.removeMember(ctx, id)
		switch {
		case errors.Is(err, rpctypes.ErrMemberNotFound):
			return ErrNoMember
		case !errors.Is(err, rpctypes.ErrMemberNotEnoughStarted) && !errors.Is(err, rpctypes.ErrUnhealthy):
			return err
		case time.Now().After(until):
			return ErrUnsafe
		}
		select {
		case <-time.After(tendEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// role is this node's.
func (s *Store) role() string {
	switch {
	case s.member == nil:
		return "client"
	case s.member.learner():
		return "learner"
	}
	return "voter"
}

// leader is the id of the member that leads, as far as can be known.
func (s *Store) leader(ctx context.Context) uint64 {
	if s.member != nil {
		return s.member.etcd.Server.Lead()
	}
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	r, err := s.client.Status(ctx, s.client.Endpoints()[0])
	if err != nil {
		return 0
	}
	return r.Leader
}

// RemoveMember takes a member out of the cluster: the one with that id, address, or name
// or id of its node. A server that runs with it ends.
func (s *Store) RemoveMember(ctx context.Context, which string) (Member, error) {
	list, err := s.Members(ctx)
	if err != nil {
		return Member{}, err
	}
	voters := 0
	var found []Member
	for _, m := range list {
		if m.Role == "voter" {
			voters++
		}
		if m.ID != "" && slices.Contains([]string{m.ID, m.Address, m.Node, m.Name}, which) && which != "" {
			found = append(found, m)
		}
	}
	switch {
	case len(found) != 1:
		return Member{}, ErrNoMember
	case found[0].Role == "voter" && voters == 1:
		return Member{}, ErrLastVoter
	}
	m := found[0]
	var id uint64
	if _, err := fmt.Sscanf(m.ID, "%x", &id); err != nil {
		return Member{}, ErrNoMember
	}
	if err := s.removeSafely(ctx, id); err != nil {
		return Member{}, fmt.Errorf("remove %s: %w", which, err)
	}
	if n, there := s.nodes.Get(m.Node); there {
		_ = s.revoke(ctx, clientv3.LeaseID(n.Value.Lease)) // what it had is free now, or when the lease ends
	}
	return m, nil
}
