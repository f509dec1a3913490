// Package session is one connected agent as a node sees it: 1..n links, on which
// streams are opened for visitors. It stands between registry and link in the
// walk. Control makes sessions and reads their control streams.
package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/server/limit"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// openTimeout bounds the opening of a stream and the sending of its first bytes
// on a link that takes nothing, though it had the time to be resumed: the visitor is
// told, not kept.
const openTimeout = link.ResumeWindow

// Session is an agent's authenticated presence on this node.
type Session struct {
	ID         string
	AgentID    string
	Generation uint64
	TokenID    string
	Metadata   *tunnel.Metadata
	Since      time.Time
	Grace      time.Duration // how long visitors wait for an agent whose links have lost their connections
	// Admit, if set, says whether one more stream may be opened, and what to call when
	// it has ended. Its error is told to the visitor.
	Admit func() (done func(), err error)
	// Bandwidth, if set, is what the token's visitors may move.
	Bandwidth *limit.Bandwidth
	// Peer says that it is another node whose session this is.
	Peer bool

	mu struct {
		sync.Mutex
		links []*member
	}
}

// Add gives the session a link. The link's Run is up to the caller, and so is
// Remove after it.
func (s *Session) Add(l *link.Link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.links = append(s.mu.links, &member{link: l})
}

// Remove takes a link from the session and returns how many are left.
func (s *Session) Remove(l *link.Link) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, have := range s.mu.links {
		if have.link == l {
			s.mu.links = append(s.mu.links[:i:i], s.mu.links[i+1:]...)
			break
		}
	}
	return len(s.mu.links)
}

// Away reports whether no link has a connection.
func (s *Session) Away() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.mu.links {
		if _, back := m.link.Away(); back == nil {
			return false
		}
	}
	return true
}

// Close ends all links at once.
func (s *Session) Close() {
	s.mu.Lock()
	links := s.mu.links
	s.mu.Unlock()
	for _, m := range links {
		_ = m.link.Close()
	}
}

// Finish ends all links when their streams have ended, or at the end of ctx.
func (s *Session) Finish(ctx context.Context) {
	s.mu.Lock()
	links := s.mu.links
	s.mu.Unlock()
	var tasks sync.WaitGroup
	for _, m := range links {
		tasks.Go(func() { _ = m.link.Shutdown(ctx) })
	}
	tasks.Wait()
}

// present is pick for a visitor. It waits while no link has a connection: what is written
// to a link that may never be resumed is lost, but who waits can go elsewhere.
func (s *Session) present(ctx context.Context) (*link.Link, error) {
	for {
		l := s.pick()
		if l == nil {
			return nil, fmt.Errorf("open stream: %w", registry.ErrSessionGone)
		}
		since, back := l.Away()
		if back == nil {
			return l, nil
		}
		timeout := time.NewTimer(s.Grace - time.Since(since))
		select {
		case <-back:
			timeout.Stop()
		case <-timeout.C:
			return nil, registry.ErrOffline
		case <-ctx.Done():
			timeout.Stop()
			return nil, ctx.Err()
		}
		select {
		case <-l.Done():
			return nil, fmt.Errorf("open stream: %w: %w", registry.ErrSessionGone, l.Err())
		default:
		}
	}
}

// Open is the registry.OpenFunc of a session's endpoints. It returns ctx's error,
// registry.ErrOffline, or one that wraps registry.ErrSessionGone, and so does what the
// stream's Read returns when it was the link that ended.
func (s *Session) Open(ctx context.Context, endpointID string, v endpoint.Visitor, first []byte) (net.Conn, error) {
	head, err := tunnel.Append(make([]byte, 0, 256+len(first)), tunnel.HeaderFor(endpointID, v), tunnel.MaxHeader)
	if err != nil {
		return nil, err
	}
	head = append(head, first...)

	done := func() {}
	if s.Admit != nil {
		if done, err = s.Admit(); err != nil {
			return nil, err
		}
	}
	st, err := s.open(ctx, head, len(first))
	if err != nil {
		done()
		return nil, err
	}
	st.done = done
	if s.Bandwidth != nil {
		return &paced{s.Bandwidth.Conn(st), st}, nil
	}
	return st, nil
}

// open opens a stream that begins with head, whose last bytes are the visitor's.
func (s *Session) open(ctx context.Context, head []byte, visitors int) (*stream, error) {
	l, err := s.present(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	st, err := l.Open(ctx)
	if err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("open stream: %w: %w", registry.ErrSessionGone, err)
	}
	deadline, _ := ctx.Deadline()
	_ = st.SetWriteDeadline(deadline)
	if n, err := st.Write(head); err != nil {
		_ = st.Reset()
		if n > len(head)-visitors {
			err = errors.Join(registry.ErrUncertain, err)
		}
		return nil, fmt.Errorf("open stream: %w: %w", registry.ErrSessionGone, err)
	}
	_ = st.SetWriteDeadline(time.Time{})
	return &stream{Stream: st, link: l, peer: s.Peer}, nil
}
