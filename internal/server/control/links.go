package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/server/auth"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// agentLink is one link of a session.
type agentLink struct {
	id      uuid.UUID
	key     []byte // nil: it can't be resumed
	session *agentSession
	link    *link.Link

	mu struct {
		sync.Mutex
		// attempts are the greatest seen, by the mode of the Hello; lower ones are replays. Of
		// two modes, as they say different things, none is late for the other.
		attempts map[tunnel.LinkMode]uint64
	}
}

// maxKept bounds what this node keeps for all agents until they have it, in bytes.
const maxKept = 512 << 20

// maxLinks is how many links a session may have.
const maxLinks = 16

// newLink welcomes an agent on conn and makes a link of it.
func (c *Control) newLink(conn net.Conn, s *agentSession, hello *tunnel.Hello) (*agentLink, error) {
	l := &agentLink{id: uuid.New(), session: s}
	l.mu.attempts = make(map[tunnel.LinkMode]uint64)
	cfg := link.Config{Heartbeat: c.cfg.Heartbeat, Budget: c.windows}
	if slices.Contains(hello.GetFeatures(), tunnel.FeatureResume) {
		l.key = tunnel.NewResumeKey()
		cfg.Resume = &link.Resume{Window: c.cfg.ResumeWindow, Kept: c.kept, Lost: func(err error) {
			c.lost.Add(1)
			s.log.Info("link lost", "agent", s.AgentID, "error", err)
		}}
	}
	if err := c.welcome(conn, l, 0); err != nil {
		return nil, err
	}
	l.link = link.Server(conn, cfg)
	return l, nil
}

// welcome answers a Hello.
func (c *Control) welcome(conn net.Conn, l *agentLink, received uint64) error {
	session, err := uuid.MustParse(l.session.ID).MarshalBinary()
	if err != nil {
		return err
	}
	w := &tunnel.Welcome{
		SessionId:     session,
		Node:          c.cfg.Node,
		Region:        c.cfg.Region,
		ServerVersion: c.cfg.Version,
		HeartbeatMs:   uint32(c.cfg.Heartbeat.Milliseconds()), //nolint:gosec // seconds
		Limits:        &tunnel.Limits{Endpoints: uint32(c.cfg.MaxEndpoints)},
		LinkId:        l.id[:],
		Domain:        c.cfg.Domain,
		Servers:       c.cfg.Others(),
		Received:      received,
		ResumeKey:     l.key,
	}
	if l.key != nil {
		w.Features = []string{tunnel.FeatureResume}
		w.ResumeWindowMs = uint32(c.cfg.ResumeWindow.Milliseconds()) //nolint:gosec // seconds
	}
	if err := tunnel.Write(conn, &tunnel.HelloReply{Reply: &tunnel.HelloReply_Welcome{Welcome: w}}, tunnel.MaxHandshake); err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

// addLink makes l one of its session's links and findable by its id.
func (c *Control) addLink(l *agentLink) {
	c.mu.Lock()
	c.mu.links[l.id] = l
	c.mu.Unlock()
	l.session.Add(l.link)
}

func (c *Control) removeLink(l *agentLink) {
	in, out := l.link.Moved()
	c.mu.Lock()
	delete(c.mu.links, l.id)
	c.mu.in, c.mu.out = c.mu.in+in, c.mu.out+out
	c.mu.Unlock()
	l.session.Remove(l.link)
}

func refuseLink() *tunnel.RefusalError {
	return &tunnel.RefusalError{Code: tunnel.CodeModeUnsupported, Message: "this server knows no such session: start a new one", Retryable: true}
}

// known finds the link that a Hello to join or resume is about, and judges whether its
// sender is the agent whose link that is. Whatever is wrong, the answer is the same.
func (c *Control) known(hello *tunnel.Hello) (*agentLink, error) {
	grant, err := c.authenticate(hello)
	if err != nil {
		return nil, err
	}
	id, err := uuid.FromBytes(hello.GetLinkId())
	if err != nil {
		return nil, refuseLink()
	}
	c.mu.Lock()
	l := c.mu.links[id]
	c.mu.Unlock()
	if l == nil || l.key == nil || !tunnel.Proven(l.key, hello) {
		return nil, refuseLink()
	}
	s := l.session
	if session, err := uuid.FromBytes(hello.GetSessionId()); err != nil || session.String() != s.ID ||
		hello.GetAgentId() != s.AgentID || hello.GetGeneration() != s.Generation || grant.TokenID != s.TokenID {
		return nil, refuseLink()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if hello.GetAttempt() <= l.mu.attempts[hello.GetMode()] {
		return nil, refuseLink()
	}
	l.mu.attempts[hello.GetMode()] = hello.GetAttempt()
	return l, nil
}

// authenticate judges a Hello's token.
func (c *Control) authenticate(hello *tunnel.Hello) (auth.Grant, error) {
	grant, err := c.cfg.Authenticate(hello.GetToken())
	switch {
	case errors.Is(err, auth.ErrDenied):
		return grant, refuseToken()
	case errors.Is(err, auth.ErrExpired):
		return grant, &tunnel.RefusalError{Code: tunnel.CodeTokenExpired, Message: "the token has expired: ask the server's operator for a new one"}
	case errors.Is(err, auth.ErrWrongUse):
		return grant, &tunnel.RefusalError{Code: tunnel.CodeTokenInvalid, Message: "this token is for administration: agents need one that was made without --admin"}
	case err != nil:
		c.cfg.Logger.Error("token can't be judged", "error", err)
		return grant, &tunnel.RefusalError{Code: tunnel.CodeInternal, Message: "the server can't judge this token: its operator finds the reason in its log", Retryable: true, RetryAfter: 5 * time.Second}
	}
	return grant, nil
}

// resume gives a link its new connection. From then on conn is the link's.
func (c *Control) resume(conn net.Conn, hello *tunnel.Hello) error {
	l, err := c.known(hello)
	if err != nil {
		return err
	}
	r, err := l.link.Resume()
	if err != nil {
		return refuseLink()
	}
	if err := c.welcome(conn, l, r.Received); err != nil {
		return err
	}
	if err := r.With(conn, hello.GetReceived()); err != nil {
		return fmt.Errorf("resume link: %w", err)
	}
	c.resumed.Add(1)
	l.session.log.Info("link resumed", "agent", l.session.AgentID, "remote", conn.RemoteAddr().String())
	return nil
}

// join serves one more link of a session to its end.
func (c *Control) join(ctx context.Context, conn net.Conn, hello *tunnel.Hello) error {
	first, err := c.known(hello)
	if err != nil {
		return err
	}
	s := first.session
	if !s.takePlace() {
		return &tunnel.RefusalError{Code: tunnel.CodeTooManyLinks, Message: "the session has as many links as the server allows"}
	}
	defer s.leavePlace()
	l, err := c.newLink(conn, s, hello)
	if err != nil {
		return err
	}
	c.addLink(l)
	defer c.removeLink(l)
	if s.over() {
		_ = l.link.Close()
	}
	s.log.Info("link joined", "agent", s.AgentID, "remote", conn.RemoteAddr().String())
	err = l.link.Run(ctx)
	s.log.Info("link ended", "agent", s.AgentID, "error", err)
	return nil
}

// takePlace takes a place for one more link of the session, if there is one.
func (s *agentSession) takePlace() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.joined >= maxLinks-1 {
		return false
	}
	s.mu.joined++
	return true
}

func (s *agentSession) leavePlace() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.joined--
}

// endGhosts ends the sessions of earlier connections of the same agent that wait to be
// resumed: an agent that starts anew has given them up.
func (c *Control) endGhosts(s *agentSession) {
	c.mu.Lock()
	var ghosts []*agentSession
	for _, other := range c.mu.sessions {
		if other != s && other.AgentID == s.AgentID && other.TokenID == s.TokenID && (other.Generation < s.Generation || other.Generation == s.Generation && other.seat == s.seat) && other.Away() {
			ghosts = append(ghosts, other)
		}
	}
	c.mu.Unlock()
	for _, g := range ghosts {
		g.log.Info("session ended: its agent has started anew", "agent", g.AgentID)
		g.Close()
	}
}
