package peer

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/server/store/storetest"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

var quiet = slog.New(slog.DiscardHandler)

// member is a node as far as its store is concerned.
type member struct {
	dir     string
	address string
	peers   *Peers
	store   *store.Store
	stop    func() // both, as far as they run
}

// prepare runs all of a node on a directory, whose Home knows the cluster, but its store.
func prepare(t *testing.T, dir, address string) *member {
	t.Helper()
	m := &member{dir: dir}
	authority, err := HomeOf(dir).Authority()
	check(t, err)
	l, err := net.Listen("tcp", address)
	check(t, err)
	m.address = l.Addr().String()
	m.peers, err = New(Config{Node: dir, Authority: authority, Home: HomeOf(dir), DataDir: dir, Logger: quiet})
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.peers.Run(ctx, l)
	}()
	m.stop = sync.OnceFunc(func() {
		if m.store != nil {
			if err := m.store.Close(); err != nil {
				t.Errorf("close the store: %v", err)
			}
		}
		cancel()
		<-done
	})
	t.Cleanup(m.stop)
	return m
}

func (m *member) open(ctx context.Context) (err error) {
	cluster := HomeOf(m.dir).Store(m.address, m.peers)
	m.store, err = store.Open(ctx, store.Config{Dir: m.dir, Cluster: cluster, Logger: quiet})
	return err
}

// startMember runs a node with its store.
func startMember(t *testing.T, dir string) *member {
	t.Helper()
	m := prepare(t, dir, "127.0.0.1:0")
	check(t, m.open(t.Context()))
	return m
}

// newHome makes a directory that of a node to be of m's cluster.
func (m *member) newHome(t *testing.T) (dir string) {
	t.Helper()
	authority, err := HomeOf(m.dir).Authority()
	check(t, err)
	dir = t.TempDir()
	check(t, HomeOf(dir).Keep(authority, append(HomeOf(m.dir).Nodes(), m.address)))
	return dir
}

// join starts a node that is to be of m's cluster.
func (m *member) join(t *testing.T) *member {
	t.Helper()
	return startMember(t, m.newHome(t))
}

// eventually polls what the members do among themselves.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(time.Minute)
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// roles counts the members by role, as one of them sees it.
func roles(t *testing.T, s *store.Store) map[string]int {
	t.Helper()
	n := make(map[string]int)
	list, err := s.Members(t.Context())
	if err != nil {
		return n
	}
	for _, m := range list {
		n[m.Role]++
	}
	return n
}

// three grows a cluster of three from one.
func three(t *testing.T) [3]*member {
	t.Helper()
	one := startMember(t, t.TempDir())
	two := one.join(t)
	if r := roles(t, two.store); r["voter"] != 1 || r["learner"] != 1 {
		t.Errorf("two servers: %v", r)
	}
	three := two.join(t) // by any of them
	eventually(t, "three votes", func() bool { return roles(t, three.store)["voter"] == 3 })
	return [3]*member{one, two, three}
}

// TestClusterConforms: members of a cluster promise what one alone does.
func TestClusterConforms(t *testing.T) {
	c := three(t)
	open := func(m *member) storetest.Opener { return func(*testing.T) *store.Store { return m.store } }
	storetest.Run(t, open(c[0]), open(c[2]))
}

// TestClusterGrows: a node that was alone becomes one of three with all that it has, while
// it is used; what any writes, the others read.
func TestClusterGrows(t *testing.T) {
	dir := t.TempDir()
	s := storetest.Open(t, store.Config{Dir: dir}) // without a port
	token, err := s.CreateToken(t.Context(), "", store.Rights{})
	check(t, err)
	if _, err := s.Members(t.Context()); !errors.Is(err, store.ErrAlone) {
		t.Errorf("members of one that is alone: %v", err)
	}
	s.Suspend()
	one := startMember(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	var made []tunnel.Token
	writers.Go(func() {
		for ctx.Err() == nil {
			if token, err := one.store.CreateToken(t.Context(), "", store.Rights{}); err == nil {
				made = append(made, token)
			}
		}
	})
	two := one.join(t)
	last := one.join(t)
	eventually(t, "three votes", func() bool { return roles(t, two.store)["voter"] == 3 })
	cancel()
	writers.Wait()
	if len(made) == 0 {
		t.Error("nothing could be written meanwhile")
	}
	for _, token := range append(made, token) {
		eventually(t, "the token", func() bool { _, err := last.store.VerifyToken(token); return err == nil })
	}
	// Beyond five, servers use the others' members.
	four := last.join(t)
	if r := roles(t, four.store); r["voter"] != 3 || r["learner"] != 1 {
		t.Errorf("four servers: %v", r)
	}
	five := last.join(t)
	eventually(t, "five votes", func() bool { return roles(t, five.store)["voter"] == 5 })
	six := last.join(t)
	if r := roles(t, six.store); r["voter"] != 5 {
		t.Errorf("six servers: %v", r)
	}
	_, err = six.store.CreateToken(t.Context(), "", store.Rights{})
	check(t, err)
	if h, err := six.store.Health(t.Context()); err != nil || h.Role != "client" || h.Kind != "embedded" {
		t.Errorf("%+v, %v", h, err)
	}
}

// TestJoinIdle: a node comes into a cluster that has much and in which nothing is written.
// One that is told to end before it is in does so, and comes in later.
func TestJoinIdle(t *testing.T) {
	one := startMember(t, t.TempDir())
	const many = 6000 // beyond how far etcd lets a member be behind
	var writers sync.WaitGroup
	for range 50 {
		writers.Go(func() {
			for range many / 50 {
				if _, err := one.store.CreateToken(t.Context(), "", store.Rights{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()

	early := prepare(t, one.newHome(t), "127.0.0.1:0")
	ctx, cancel := context.WithCancel(t.Context())
	opened := make(chan error, 1)
	go func() { opened <- early.open(ctx) }()
	eventually(t, "a member", func() bool { return store.Exists(early.dir) })
	cancel()
	if err := <-opened; err == nil {
		t.Error("in before it could be")
	}
	early.stop()
	late := prepare(t, early.dir, early.address)
	check(t, late.open(t.Context()))
	three := one.join(t)
	eventually(t, "three votes", func() bool { return roles(t, three.store)["voter"] == 3 })
}

// TestMajorityLost: what is left of a cluster, down to a copy without a vote, can be backed up.
func TestMajorityLost(t *testing.T) {
	one := startMember(t, t.TempDir())
	token, err := one.store.CreateToken(t.Context(), "", store.Rights{})
	check(t, err)
	two := one.join(t)
	eventually(t, "the token", func() bool { _, err := two.store.VerifyToken(token); return err == nil })
	one.stop()
	if _, err := two.store.CreateToken(t.Context(), "", store.Rights{}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a write without a majority: %v", err)
	}
	var b bytes.Buffer
	check(t, two.store.Backup(t.Context(), &b, nil))
	again := storetest.Embedded(t)
	check(t, again.Restore(t.Context(), &b))
	eventually(t, "the token", func() bool { _, err := again.VerifyToken(token); return err == nil })
}
