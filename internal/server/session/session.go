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
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// openTimeout bounds the opening of a stream and the sending of its first bytes
// on a link that takes nothing: the visitor is told, not kept.
const openTimeout = 10 * time.Second

// Session is an agent's authenticated presence on this node.
type Session struct {
	ID         string
	AgentID    string
	Generation uint64
	TokenID    string
	Metadata   *tunnel.Metadata
	Since      time.Time

	mu struct {
		sync.Mutex
		links []*link.Link
	}
}

// Add gives the session a link. The link's Run is up to the caller, and so is
// Remove after it.
func (s *Session) Add(l *link.Link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.links = append(s.mu.links, l)
}

// Remove takes a link from the session and returns how many are left.
func (s *Session) Remove(l *link.Link) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, have := range s.mu.links {
		if have == l {
			s.mu.links = append(s.mu.links[:i:i], s.mu.links[i+1:]...)
			break
		}
	}
	return len(s.mu.links)
}

// Close ends all links at once.
func (s *Session) Close() {
	s.mu.Lock()
	links := s.mu.links
	s.mu.Unlock()
	for _, l := range links {
		_ = l.Close()
	}
}

// pick returns the link with the least queued.
func (s *Session) pick() *link.Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	var best *link.Link
	for _, l := range s.mu.links {
		if best == nil || l.Queued() < best.Queued() {
			best = l
		}
	}
	return best
}

// Open is the registry.OpenFunc of a session's endpoints. Every error but ctx's
// wraps registry.ErrSessionGone, and so does what the stream's Read returns when it was
// the link that ended.
func (s *Session) Open(ctx context.Context, endpointID string, v endpoint.Visitor, first []byte) (net.Conn, error) {
	head, err := tunnel.Append(make([]byte, 0, 256+len(first)), tunnel.HeaderFor(endpointID, v), tunnel.MaxHeader)
	if err != nil {
		return nil, err
	}
	head = append(head, first...)

	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	l := s.pick()
	if l == nil {
		return nil, fmt.Errorf("open stream: %w", registry.ErrSessionGone)
	}
	st, err := l.Open(ctx)
	if err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("open stream: %w: %w", registry.ErrSessionGone, err)
	}
	deadline, _ := ctx.Deadline()
	_ = st.SetWriteDeadline(deadline)
	if _, err := st.Write(head); err != nil {
		_ = st.Reset()
		return nil, fmt.Errorf("open stream: %w: %w", registry.ErrSessionGone, err)
	}
	_ = st.SetWriteDeadline(time.Time{})
	return &stream{Stream: st, link: l}, nil
}
