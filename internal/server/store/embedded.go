package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap/zapcore"

	"github.com/culvert-tunnel/culvert/internal/socket"
)

// Errors of the own engine.
var (
	ErrDamaged = errors.New("its files are damaged or of another version: restore them from a backup, or move them away to begin with an empty store")
	ErrRemoved = errors.New("this server was removed from its cluster: to come in again, move its data directory away and start it with --join")
)

// member is an etcd member in this process.
type member struct {
	cfg    Config
	dir    string
	others initial
	etcd   *embed.Etcd // nil: it does not run
	socket *socket.Path
	failed chan error // buffered
	log    *memberLog

	stopping chan struct{} // closed when etcd is told to end
	watched  sync.WaitGroup
}

const (
	memberName = "culvert"
	// A member that is alone has no peers: the address stands in its own list of members
	// and nobody ever dials it.
	noPeer = "http://localhost:1"
)

// Sockets of a member, in its directory.
const (
	clientSocket = "client.sock"
	raftSocket   = "raft.sock"
)

// Exists reports whether a member has been in a data directory before.
func Exists(dataDir string) bool {
	return wal.Exist(filepath.Join(dataDir, "etcd", "member", "wal"))
}

// walSegment is how much of the disk the log takes ahead, twice. etcd's own 64 MB are made
// for busier logs than this.
const walSegment = 8 << 20

var shorterWAL = sync.OnceFunc(func() { wal.SegmentSizeBytes = walSegment })

// startMember starts the member in cfg.Dir and waits until it can be used. others are the
// members of the cluster that it comes into; nil: its files know them, or it is alone.
func startMember(ctx context.Context, cfg Config, others initial) (*member, error) {
	dir := filepath.Join(cfg.Dir, "etcd")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("start the store: %w", err)
	}
	m := &member{cfg: cfg, dir: dir, others: others, failed: make(chan error, 1)}
	var err error
	if m.socket, err = socket.Shorten(filepath.Join(dir, clientSocket)); err != nil {
		return nil, fmt.Errorf("start the store: %w", err)
	}
	if err := m.run(ctx); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// run starts etcd and waits until it can be used.
func (m *member) run(ctx context.Context) error {
	// The data directory is locked, so that a socket which is there is a dead server's.
	if err := os.Remove(m.socket.Name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("start the store: %w", err)
	}
	shorterWAL()
	m.log = newMemberLog(m.failed)
	err := m.start(ctx, m.config(m.cfg, m.dir))
	if err == nil {
		err = m.ready(ctx)
	}
	if err != nil {
		m.stop()
		return fmt.Errorf("start the store in %s: %w", m.dir, err)
	}
	m.others = nil // its files know them now
	m.log.pass(zapcore.WarnLevel)
	etcd, stopping := m.etcd, m.stopping // stop may come before the goroutine begins
	m.watched.Go(func() { m.watch(etcd, stopping) })
	return nil
}

// watch tells when etcd ends by itself, which it does when it is no member any more.
func (m *member) watch(etcd *embed.Etcd, stopping <-chan struct{}) {
	select {
	case <-stopping:
	case <-etcd.Server.StopNotify():
		select {
		case <-stopping:
		case m.failed <- ErrRemoved:
		default:
		}
	}
}

func (m *member) config(cfg Config, dir string) *embed.Config {
	c := embed.NewConfig()
	c.Name, c.Dir = memberName, dir
	client := []url.URL{{Scheme: "unix", Path: m.socket.Name}}
	c.ListenClientUrls, c.AdvertiseClientUrls = client, client
	if cfg.Cluster != nil {
		cfg.Cluster.configure(c, filepath.Join(filepath.Dir(m.socket.Name), raftSocket), m.others)
	} else {
		c.ListenPeerUrls = nil
		c.AdvertisePeerUrls = []url.URL{address(noPeer)}
		c.InitialCluster = memberName + "=" + noPeer
		// Whoever is alone has nobody's heartbeats to wait for, so the ticks may be short:
		// the start takes one election.
		c.TickMs, c.ElectionMs = 20, 200
	}
	c.InitialClusterToken = uuid.NewString() // or all that were founded alone would be one to etcd
	c.QuotaBackendBytes = cfg.Quota
	if c.QuotaBackendBytes <= 0 {
		c.QuotaBackendBytes = 2 << 30
	}
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, "1h"
	c.BootstrapDefragThresholdMegabytes = 64
	// Snapshots bound the entries that are in memory and read again at a start.
	c.SnapshotCount, c.SnapshotCatchUpEntries = 5_000, 500
	c.MaxSnapFiles, c.MaxWalFiles = 2, 2
	c.EnableGRPCGateway = false
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(m.log.to(cfg.Logger))
	return c
}

// start starts etcd. What etcd takes for fatal, files it can't read foremost, ends the
// goroutine it happens in, see memberLog, and is an error here.
func (m *member) start(ctx context.Context, c *embed.Config) error {
	type result struct {
		etcd *embed.Etcd
		err  error
	}
	started := make(chan result, 1)
	go func() {
		e, err := embed.StartEtcd(c)
		started <- result{e, err}
	}()
	select {
	case r := <-started:
		m.etcd = r.etcd
		if r.err != nil && m.others != nil {
			return fmt.Errorf("come into the cluster: %w", r.err)
		}
		if r.err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, r.err)
		}
		m.stopping = make(chan struct{})
		err := os.Chmod(m.socket.Name, 0o600)
		if m.cfg.Cluster != nil {
			err = errors.Join(err, os.Chmod(filepath.Join(m.dir, raftSocket), 0o600))
		}
		return err
	case err := <-m.failed: // what was begun stays: the process has no use for going on
		return err
	case <-ctx.Done():
		// What was begun is ended first: it has the files and sockets.
		select {
		case r := <-started:
			if r.err == nil {
				closeEtcd(r.etcd)
			}
		case <-m.failed: //nolint:errcheck // it was told to end
		}
		return ctx.Err()
	}
}

// closeEtcd ends a member, whether it is ready or not.
func closeEtcd(e *embed.Etcd) {
	select {
	case <-e.Server.ReadyNotify():
	default:
		e.Server.HardStop() // or Close would wait until it is
	}
	e.Close()
}

func (m *member) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.patience())
	defer cancel()
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		select {
		case <-m.etcd.Server.ReadyNotify():
			return nil
		case err := <-m.failed:
			return err
		case <-m.etcd.Server.StopNotify():
			return ErrRemoved
		case <-ctx.Done():
			return ErrUnavailable
		case <-tick.C:
			if m.cfg.Cluster != nil {
				m.stir(ctx)
			}
		}
	}
}

// client is the configuration of a client of this member. The in-process client would
// not heed deadlines while the member has no majority.
func (m *member) client() clientv3.Config {
	return clientv3.Config{Endpoints: []string{"unix://" + m.socket.Name}, DialTimeout: 5 * time.Second}
}

func (m *member) stop() {
	if m.log != nil {
		m.log.pass(zapcore.DPanicLevel)
	}
	if m.etcd != nil {
		if m.stopping != nil {
			close(m.stopping)
			m.stopping = nil
		}
		closeEtcd(m.etcd)
		m.etcd = nil
	}
	m.watched.Wait()
}

func (m *member) close() {
	m.stop()
	m.socket.Close()
}
