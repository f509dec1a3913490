package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// lifeline is what an agent needs to resume a link, and to have one more link join its
// session.
type lifeline struct {
	agent       *Agent
	seat        *seat
	server      string
	session, id []byte
	key         []byte        // empty: the link can't be resumed
	attempt     atomic.Uint64 // of the last Hello that named the link
	heartbeat   time.Duration
	window      time.Duration
	further     bool        // the link is not the session's first
	left        atomic.Bool // the node goes away: it takes no connection any more
	log         *slog.Logger

	transport atomic.Pointer[link.Transport] // in use
	lost      time.Time                      // when the connection was lost; of the goroutine that redials
}

// newLifeline takes what a Welcome says of its link.
func (a *Agent) newLifeline(s *seat, server string, w *tunnel.Welcome) *lifeline {
	t := &lifeline{
		agent: a, seat: s, server: server, session: w.GetSessionId(), id: w.GetLinkId(), key: w.GetResumeKey(), log: a.cfg.Logger,
	}
	if id, err := uuid.FromBytes(t.session); err == nil {
		t.log = t.log.With("session", id.String())
	}
	// Whatever the node says.
	if ms := w.GetHeartbeatMs(); ms > 0 {
		t.heartbeat = min(max(time.Duration(ms)*time.Millisecond, time.Second), time.Minute)
	}
	t.window = min(time.Duration(w.GetResumeWindowMs())*time.Millisecond, 10*time.Minute)
	return t
}

// link makes the link on its first connection.
func (t *lifeline) link(conn net.Conn) *link.Link {
	t.carriedBy(conn)
	cfg := link.Config{Heartbeat: t.heartbeat}
	if len(t.key) > 0 {
		cfg.Resume = &link.Resume{Window: t.window, Redial: t.redial, Lost: t.silent, Back: t.heard}
	}
	return link.Client(conn, cfg)
}

// hello is a Hello that names the link, and proves that this is its agent.
func (t *lifeline) hello(mode tunnel.LinkMode, received uint64) *tunnel.Hello {
	h := t.agent.hello(mode, t.seat.number)
	h.SessionId, h.LinkId, h.Received, h.Attempt = t.session, t.id, received, t.attempt.Add(1)
	h.ResumeProof = tunnel.Proof(t.key, h)
	return h
}

// redial is the link's link.Redial.
func (t *lifeline) redial(ctx context.Context, received uint64) (net.Conn, uint64, error) {
	if t.left.Load() {
		return nil, 0, fmt.Errorf("%w: the server is draining", link.ErrGone)
	}
	first := t.lost.IsZero()
	if first {
		t.lost = time.Now()
	}
	r := t.resume(ctx, received)
	if r.err == nil {
		t.carriedBy(r.conn)
		t.log.Info("link resumed", "server", t.server, "transport", string(transportOf(r.conn)), "away", time.Since(t.lost).Round(time.Millisecond).String())
		t.lost = time.Time{}
		t.seat.resumed()
		return r.conn, r.welcome.GetReceived(), nil
	}
	refusal, refused := errors.AsType[*tunnel.RefusalError](r.err)
	switch {
	case refused && (refusal.Code == tunnel.CodeModeUnsupported || !refusal.Retryable):
		return nil, 0, fmt.Errorf("%w: %w", link.ErrGone, r.err)
	case first && ctx.Err() == nil:
		t.seat.interrupted(r.err)
		t.log.Warn("link interrupted", "server", t.server, "error", r.err)
	}
	return nil, 0, r.err
}

// resumption is a server's answer to who wants to resume a link.
type resumption struct {
	conn    net.Conn
	welcome *tunnel.Welcome
	err     error
}

// resume asks the server to go on with the link. Where it refuses connections, which is a
// process that is gone, or has been out of reach for the patience, another server is looked
// for: if there is one that answers, the link is given up for it, with an error that wraps
// link.ErrGone. While none does, the trouble is more likely this side's, and the server is
// asked again. That is the first link's matter: the others end with the session.
func (t *lifeline) resume(ctx context.Context, received uint64) resumption {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answer := make(chan resumption, 1)
	go func() {
		conn, w, err := t.agent.dial(ctx, t.server, t.hello(tunnel.LinkMode_LINK_MODE_RESUME, received))
		answer <- resumption{conn, w, err}
	}()
	others := t.agent.servers.besides(t.seat.number)
	if len(others) == 0 || t.further {
		return <-answer
	}
	silent := time.NewTimer(time.Until(t.lost.Add(patience)))
	defer silent.Stop()
	var r resumption
	answered := false
	select {
	case r = <-answer:
		answered = true
		_, refusal := errors.AsType[*tunnel.RefusalError](r.err)
		if r.err == nil || refusal || !isRefused(r.err) && time.Since(t.lost) < patience {
			return r
		}
	case <-silent.C:
	}
	looking, stop := context.WithCancel(ctx)
	defer stop()
	found := make(chan bool, 1)
	go func() { found <- t.seat.reach(looking, others) }()
	elsewhere := false
	if answered {
		elsewhere = <-found
	} else {
		select {
		case r = <-answer:
			if r.err == nil {
				stop()
			}
			elsewhere = <-found
		case elsewhere = <-found:
			if elsewhere { // the session here, with all its streams, is worth another moment
				defer time.AfterFunc(patience, cancel).Stop()
			}
			r = <-answer
		}
	}
	if elsewhere && r.err == nil {
		t.seat.keep("", nil)
		t.agent.servers.use(t.seat.number, t.server)
	} else if elsewhere {
		r.err = fmt.Errorf("%w: another server answers: %w", link.ErrGone, r.err)
	}
	return r
}

// keepLink has one more link join the session, and another one after that has ended,
// until ctx does.
func (s *session) keepLink(ctx context.Context) {
	for began := time.Now(); ; {
		up := time.Now()
		err := s.joinLink(ctx)
		if ctx.Err() != nil || s.left.Load() {
			return
		}
		if refusal, ok := errors.AsType[*tunnel.RefusalError](err); ok && !refusal.Retryable {
			s.log.Warn("the server takes no further link", "error", err)
			return
		}
		s.log.Debug("further link ended", "error", err)
		if time.Since(up) > settled {
			began = time.Now()
		}
		select {
		case <-time.After(link.Pause(time.Since(began))):
		case <-ctx.Done():
			return
		}
	}
}

// joinLink makes one more link of the session and serves it to its end.
func (s *session) joinLink(ctx context.Context) error {
	conn, w, err := s.agent.dial(ctx, s.life.server, s.life.hello(tunnel.LinkMode_LINK_MODE_JOIN, 0))
	if err != nil {
		return err
	}
	life := s.agent.newLifeline(s.seat, s.life.server, w)
	life.further = true
	l := life.link(conn)
	s.log.Info("further link")
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		_ = s.serveStreams(ctx, l) // ends with the link
	}()
	improving, stop := context.WithCancel(ctx)
	improved := make(chan struct{})
	go func() {
		defer close(improved)
		life.improve(improving, l)
	}()
	err = l.Run(ctx)
	stop()
	<-improved
	<-accepted
	return err
}
