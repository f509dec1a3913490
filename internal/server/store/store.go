// Package store is the durable and cluster-wide state: tokens, reserved names, claims of
// names, who is there, certificates, events. It is the only package that knows that the
// engine is etcd.
//
// The engine is the node's own (a member in the data directory, reached through a unix
// socket, no port), or somebody else's by URL. Code above can't tell.
//
// What is read often (tokens, reservations, nodes) is in memory and follows the engine by
// a watch, so that neither agents nor visitors wait for it. Every write waits at most
// Patience: without a majority of its members etcd can't answer, and an agent that is
// told to try again is better off than one that hangs. A write that ran out of time may
// have been made; who cares reads again.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Errors of the store. What an operation returns wraps one of them where it fits.
var (
	ErrUnavailable = errors.New("the store can't be reached or has no majority: try again")
	ErrFull        = errors.New("the store is full: remove what is not needed, raise its quota, then clear the alarm")
	ErrNotFound    = errors.New("not found")
	ErrExists      = errors.New("exists already")
	ErrChanged     = errors.New("was changed by somebody else")
	ErrTooLarge    = errors.New("too large for the store")
)

// Patience bounds one read or write.
const Patience = time.Second

// startPatience bounds the wait for an engine at the start.
const startPatience = 20 * time.Second

// maxValue bounds a value in bytes. etcd takes requests of up to 1.5 MiB.
const maxValue = 1 << 20

// Config of a Store. Logger must be set, and either Dir or External.
type Config struct {
	Dir      string   // data directory; the member lives in Dir/etcd
	Cluster  *Cluster // of which the member is; nil: it is alone
	External External // an existing etcd instead
	Quota    int64    // of the own member, in bytes; default 2 GiB
	Logger   *slog.Logger
}

// patience bounds the wait for the engine: that of a cluster may wait for other machines.
func (c Config) patience() time.Duration {
	if c.Cluster != nil {
		return 3 * startPatience
	}
	return startPatience
}

// Store is the open state. Make one with Open, close it with Close.
type Store struct {
	client  *clientv3.Client
	member  *member  // nil: an external etcd, or those of other nodes
	cluster *cluster // nil: the member is alone, or an external etcd
	prefix  string   // of all keys
	log     *slog.Logger

	tokens *View[Token]
	names  *View[Reservation]
	nodes  *View[Node]

	stop  context.CancelFunc
	tasks sync.WaitGroup
}

// Open starts the engine or connects to it, and reads what is kept in memory.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	s := &Store{prefix: "culvert/", log: cfg.Logger}
	begun, cancel := context.WithTimeout(ctx, cfg.patience())
	defer cancel()
	var err error
	switch {
	case len(cfg.External.URLs) > 0:
		if cfg.External.Prefix != "" {
			s.prefix = cfg.External.Prefix
		}
		var client clientv3.Config
		if client, err = cfg.External.config(); err == nil {
			s.client, err = s.connect(begun, client)
		}
	case cfg.Cluster != nil:
		err = s.openCluster(begun, cfg)
	default:
		if s.member, err = startMember(ctx, cfg, nil); err == nil {
			s.client, err = s.connect(begun, s.member.client())
		}
	}
	if err != nil {
		s.closeEngine()
		return nil, err
	}
	s.tokens, s.names, s.nodes = newView(s.tokenTable()), newView(s.nameTable()), newView(s.nodeTable())
	s.follow(context.WithoutCancel(ctx))
	for _, ready := range []<-chan struct{}{s.tokens.ready, s.names.ready, s.nodes.ready} {
		select {
		case <-ready:
		case <-begun.Done():
			_ = s.Close()
			return nil, fmt.Errorf("read the store: %w", ErrUnavailable)
		}
	}
	return s, nil
}

// follow keeps what is in memory up to date until stop is called.
func (s *Store) follow(ctx context.Context) {
	ctx, s.stop = context.WithCancel(ctx)
	s.tasks.Go(func() { s.tokens.table.Follow(ctx, s.tokens) })
	s.tasks.Go(func() { s.names.table.Follow(ctx, s.names) })
	s.tasks.Go(func() { s.nodes.table.Follow(ctx, s.nodes) })
	if s.cluster != nil && (s.member == nil || s.member.etcd != nil) { // else another process does
		s.tasks.Go(func() { s.tend(ctx) })
	}
}

// Suspend stops following and, if the engine is the node's own, the engine, so that
// another process can open the same store. What is in memory stays; all else is
// unavailable. Nobody else may follow a table meanwhile: the engine waits for who does.
func (s *Store) Suspend() {
	s.stop()
	s.tasks.Wait()
	if s.member != nil {
		s.member.stop()
	}
}

// Resume undoes Suspend. Nobody else may have the store open any more.
func (s *Store) Resume(ctx context.Context) error {
	if s.member != nil {
		if err := s.member.run(ctx); err != nil {
			return err
		}
	}
	s.Follow(ctx)
	return nil
}

// Follow goes on after Suspend with the engine that another process runs now.
func (s *Store) Follow(ctx context.Context) { s.follow(context.WithoutCancel(ctx)) }

// connect makes a client and waits until the engine answers.
func (s *Store) connect(ctx context.Context, cfg clientv3.Config) (*clientv3.Client, error) {
	cfg.Logger = zap.NewNop() // what fails is returned, and told by whoever asked
	cfg.Context = context.WithoutCancel(ctx)
	cfg.MaxUnaryRetries = 3
	// After an outage of whatever length it is found again at once: gRPC's own pauses grow to
	// two minutes.
	pauses := backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithConnectParams(grpc.ConnectParams{Backoff: pauses, MinConnectTimeout: 2 * time.Second}))
	var last error
	for {
		client, err := clientv3.New(cfg)
		if err == nil {
			try, cancel := context.WithTimeout(ctx, Patience)
			_, err = client.Get(try, s.prefix)
			cancel()
			if err == nil {
				return client, nil
			}
			_ = client.Close()
		}
		if last = fault(err); !errors.Is(last, ErrUnavailable) {
			return nil, fmt.Errorf("connect to the store: %w", last)
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to the store: %w", last)
		}
	}
}

// Close stops following and, if the engine is the node's own, the engine. What was
// acknowledged is on disk long before.
func (s *Store) Close() error {
	if s.stop != nil {
		s.stop()
	}
	err := s.client.Close()
	s.tasks.Wait()
	s.closeEngine()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (s *Store) closeEngine() {
	if s.member != nil {
		s.member.close()
	}
}

// Failed is told when the own engine stopped by itself: its disk is full or broken.
func (s *Store) Failed() <-chan error {
	if s.member == nil {
		return nil
	}
	return s.member.failed
}

// Health is the engine's state for people and monitoring.
type Health struct {
	Kind    string   `json:"kind" enum:"embedded,external"`
	Role    string   `json:"role,omitempty" enum:"voter,learner,client" doc:"This node's part in the cluster of embedded members"`
	Version string   `json:"version,omitempty"`
	Bytes   int64    `json:"bytes"`            // on disk
	Alarms  []string `json:"alarms,omitempty"` // NOSPACE, CORRUPT
	// BehindMs is for how many milliseconds what is in memory may be behind the engine.
	BehindMs int64 `json:"behind_ms"`
}

// Health asks the engine. Without an answer, what is known is returned with the error.
func (s *Store) Health(ctx context.Context) (Health, error) {
	st := Health{Kind: "external", BehindMs: s.Behind().Milliseconds()}
	if s.member != nil || s.cluster != nil {
		st.Kind = "embedded"
	}
	if s.cluster != nil {
		st.Role = s.role()
	}
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	r, err := s.client.Status(ctx, s.client.Endpoints()[0])
	if err != nil {
		return st, fault(err)
	}
	st.Version, st.Bytes = r.Version, r.DbSize
	alarms, err := s.client.AlarmList(ctx)
	if errors.Is(err, rpctypes.ErrPermissionDenied) {
		return st, nil // an etcd with users shows its alarms to root alone
	}
	if err != nil {
		return st, fault(err)
	}
	for _, a := range alarms.Alarms {
		if a.Alarm != etcdserverpb.AlarmType_NONE {
			st.Alarms = append(st.Alarms, a.Alarm.String())
		}
	}
	return st, nil
}

// Behind is for how long what is in memory may have missed changes.
func (s *Store) Behind() time.Duration {
	return max(s.tokens.Behind(), s.names.Behind(), s.nodes.Behind())
}

// fault translates the engine's errors.
func fault(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("%w: %w", ErrFull, err)
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, clientv3.ErrNoAvailableEndpoints),
		errors.Is(err, rpctypes.Error(rpctypes.ErrGRPCNotSupportedForLearner)): // another member is asked next
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	code := status.Code(err)
	if etcd, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		code = etcd.Code()
	}
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Internal:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	default:
		return err
	}
}

// WriteFile replaces a file of mode 0600 so that after a crash it holds either the
// old or the new content, whole.
func WriteFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone after the rename
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	err = dir.Sync() // the rename itself must survive too
	if cerr := dir.Close(); err == nil {
		err = cerr
	}
	return err
}
