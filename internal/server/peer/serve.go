package peer

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/splice"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

var (
	errNoAddress = errors.New("it takes no peers in: start it with --peer")
	errNotAPeer  = errors.New("it speaks another protocol")
)

// accept serves the nodes that dial this one until the listener is closed.
func (p *Peers) accept(ctx context.Context, l net.Listener) {
	var conns sync.WaitGroup
	defer conns.Wait()
	places := make(chan struct{}, maxHandshakes)
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			p.cfg.Logger.Warn("accept peer", "error", err)
			select {
			case <-time.After(time.Second): // out of descriptors, most likely
				continue
			case <-ctx.Done():
				return
			}
		}
		select {
		case places <- struct{}{}:
		default:
			_ = c.Close()
			continue
		}
		conns.Go(func() {
			conn, err := link.Accept(ctx, c, nil, p.self.accepts(), handshake)
			joins := err == nil && conn.ConnectionState().NegotiatedProtocol == alpnJoin
			if joins {
				err = p.admit(conn)
			}
			<-places
			switch {
			case err != nil:
				p.cfg.Logger.Warn("peer refused", "remote", c.RemoteAddr().String(), "error", err)
			case !joins:
				p.serveNode(ctx, conn)
			}
		})
	}
}

// serveNode serves a node that has shown who it is, by what it speaks.
func (p *Peers) serveNode(ctx context.Context, conn link.Conn) {
	switch conn.ConnectionState().NegotiatedProtocol {
	case ALPN:
		p.serve(ctx, conn)
	case alpnStore:
		p.pass(ctx, conn, store.DialClient)
	default:
		p.pass(ctx, conn, store.DialRaft)
	}
}

// pass joins a connection to a socket of this node's member of the store.
func (p *Peers) pass(ctx context.Context, conn link.Conn, dial func(ctx context.Context, dataDir string) (net.Conn, error)) {
	defer conn.Close() //nolint:errcheck // splice.Join has, but for a member that is away
	if p.cfg.DataDir == "" {
		return
	}
	to, err := dial(ctx, p.cfg.DataDir)
	if err != nil {
		return // it does not run at the moment, which others notice
	}
	_, _ = splice.Join(ctx, conn, to, splice.Config{})
}

// serve serves visitors of another node.
func (p *Peers) serve(ctx context.Context, conn link.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	l := link.FromPeer(conn, link.Config{Heartbeat: heartbeat})
	var streams sync.WaitGroup
	streams.Go(func() {
		for {
			st, err := l.Accept(ctx)
			if err != nil {
				return
			}
			p.relays.Enter()
			streams.Go(func() {
				defer p.relays.Leave()
				p.relay(ctx, st)
			})
		}
	})
	err := l.Run(ctx)
	cancel()
	streams.Wait()
	p.cfg.Logger.Debug("link from peer ended", "remote", conn.RemoteAddr().String(), "error", err)
}

// relay joins a visitor of another node to a session of this one. The agent's reply passes
// as it is.
func (p *Peers) relay(ctx context.Context, st link.Stream) {
	_ = st.SetReadDeadline(time.Now().Add(headerWait))
	var h tunnel.StreamHeader
	if err := tunnel.Read(st, &h, tunnel.MaxHeader); err != nil {
		_ = st.Reset()
		return
	}
	_ = st.SetReadDeadline(time.Time{})
	settling, cancel := context.WithTimeout(ctx, headerWait)
	route, ok := p.cfg.Own(settling, h.GetEndpointId())
	cancel()
	if !ok {
		refuse(st, registry.ErrSessionGone)
		return
	}
	route.Begin()
	defer route.End()
	to, err := p.open(ctx, route, &h)
	if err != nil {
		refuse(st, err)
		return
	}
	n, err := splice.Join(ctx, st, to, splice.Config{})
	p.cfg.Logger.Debug("visitor of a peer served", "visitor", tunnel.Clean(h.GetVisitorId()), "endpoint", route.ID,
		"session", route.Owner.SessionID, "bytes_in", n.Forward, "bytes_out", n.Backward, "error", err)
}

// open opens the stream to the agent.
func (p *Peers) open(ctx context.Context, route *registry.Route, h *tunnel.StreamHeader) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, link.ResumeWindow)
	defer cancel()
	to, err := route.Open(ctx, tunnel.VisitorFrom(h), nil)
	if err != nil {
		return nil, err
	}
	to.(registry.Passable).Pass()
	return to, nil
}

// refuse tells the other node why its visitor is not served.
func refuse(st link.Stream, err error) {
	told := &tunnel.StreamError{Code: tunnel.CodeEndpointOffline, Message: "the agent can't be reached"}
	switch limited, is := errors.AsType[*tunnel.StreamError](err); {
	case is:
		told = limited
	case errors.Is(err, registry.ErrSessionGone):
		told.Code = registry.CodeMoved
	}
	_ = st.SetDeadline(time.Now().Add(replyTimeout))
	_ = tunnel.Write(st, &tunnel.StreamReply{Code: string(told.Code), Message: told.Message}, tunnel.MaxHeader)
	_ = st.Close()
}
