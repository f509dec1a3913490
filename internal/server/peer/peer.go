// Package peer is the hop to another node: it carries visitors who came in here to agents
// that are connected there, and those who came in there to agents that are connected here.
// It stands between registry and session in the walk.
//
// Each node dials the others for its own visitors, when the first of them needs it, and
// keeps the link. Links between nodes are like an agent's (TLS, Yamux, StreamHeader,
// StreamReply) but for how the two sides know each other: by certificates of the
// cluster's own CA. Who comes in by a link from a peer is looked for among this node's own
// sessions alone, so that nobody makes a second hop; there is no other mark of a hop, in
// particular none that a visitor or an agent could send.
package peer

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/server/session"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tally"
)

// Times of links between nodes.
const (
	// heartbeat is the silence after which a peer is asked for life; two missed answers
	// later it is dead: within 5 s.
	heartbeat    = 1500 * time.Millisecond
	dialTimeout  = 3 * time.Second
	redialMin    = 100 * time.Millisecond
	redialMax    = 2 * time.Second
	handshake    = 10 * time.Second
	headerWait   = 10 * time.Second
	replyTimeout = 10 * time.Second
)

// maxHandshakes bounds connections that have not shown a certificate yet.
const maxHandshakes = 64

// Config of Peers. All fields must be set, but those about a store of the nodes' own.
type Config struct {
	Node      string // this one's id
	Authority store.Authority
	Home      *Home // where the node's certificate is kept for its store; nil: nowhere
	// DataDir is that of the node's member of the store, whose sockets serve other nodes;
	// empty: there is none.
	DataDir string
	// Admit judges the credential of a node to be, and returns what it is given; nil: none is
	// taken in.
	Admit func(credential string) (Welcome, error)
	// Address returns where a node takes peers in, empty if it does not, and whether the
	// node is there.
	Address func(node string) (address string, there bool)
	// Own finds an endpoint that a session of this node serves, or is about to.
	Own func(ctx context.Context, endpointID string) (*registry.Route, bool)
	// Lost is told when a node can't be reached, Back when it can again.
	Lost, Back func(node string)
	Logger     *slog.Logger
}

// Peers are the links to other nodes and from them. Make one with New, then call Run.
type Peers struct {
	cfg    Config
	self   *identity
	wanted chan *remote
	relays tally.Tally

	mu struct {
		sync.Mutex
		nodes map[string]*remote
	}
}

// New makes Peers that dial nobody yet.
func New(cfg Config) (*Peers, error) {
	file := ""
	if cfg.Home != nil {
		file = cfg.Home.identity()
	}
	self, err := newIdentity(cfg.Node, cfg.Authority, file)
	if err != nil {
		return nil, err
	}
	p := &Peers{cfg: cfg, self: self, wanted: make(chan *remote)}
	p.mu.nodes = make(map[string]*remote)
	return p, nil
}

// remote is another node as this one reaches it.
type remote struct {
	node string

	mu struct {
		sync.Mutex
		session *session.Session // nil: none
		down    bool             // the last attempt failed
		changed chan struct{}    // closed and replaced when either changes
	}
}

func (r *remote) set(s *session.Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.session, r.mu.down = s, s == nil
	close(r.mu.changed)
	r.mu.changed = make(chan struct{})
}

// present returns the session, waiting for an attempt that is the first one.
func (r *remote) present(ctx context.Context) (*session.Session, error) {
	for {
		r.mu.Lock()
		s, down, changed := r.mu.session, r.mu.down, r.mu.changed
		r.mu.Unlock()
		switch {
		case s != nil:
			return s, nil
		case down:
			return nil, fmt.Errorf("reach the agent's server: %w", registry.ErrSessionGone)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// To returns what opens streams to a node's sessions. The node is dialled when the first
// is opened.
func (p *Peers) To(node string) registry.OpenFunc {
	return func(ctx context.Context, endpointID string, v endpoint.Visitor, first []byte) (net.Conn, error) {
		r, err := p.remote(ctx, node)
		if err != nil {
			return nil, err
		}
		s, err := r.present(ctx)
		if err != nil {
			return nil, err
		}
		return s.Open(ctx, endpointID, v, first)
	}
}

// remote finds a node, and has it dialled if nobody has asked for it before.
func (p *Peers) remote(ctx context.Context, node string) (*remote, error) {
	p.mu.Lock()
	r := p.mu.nodes[node]
	isNew := r == nil
	if isNew {
		r = &remote{node: node}
		r.mu.changed = make(chan struct{})
		p.mu.nodes[node] = r
	}
	p.mu.Unlock()
	if !isNew {
		return r, nil
	}
	select {
	case p.wanted <- r:
		return r, nil
	case <-ctx.Done():
		p.forget(r)
		r.set(nil)
		return nil, ctx.Err()
	}
}

func (p *Peers) forget(r *remote) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.mu.nodes, r.node)
}

// Run keeps links to the nodes that visitors need until ctx ends, and serves those who
// come by the listener, which it closes; nil: nobody does.
func (p *Peers) Run(ctx context.Context, l net.Listener) error {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	if l != nil {
		tasks.Go(func() { p.accept(ctx, l) })
		defer l.Close() //nolint:errcheck // accept ends with it
	}
	renew := time.NewTicker(renewal)
	defer renew.Stop()
	for {
		select {
		case r := <-p.wanted:
			tasks.Go(func() { p.keep(ctx, r) })
		case <-renew.C:
			if _, err := p.self.certificate(); err != nil { // for who reads it from its file
				p.cfg.Logger.Error("renew the node's certificate", "error", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// Relays is how many visitors of other nodes are being served.
func (p *Peers) Relays() int { return p.relays.Count() }

// Shutdown waits until the visitors of other nodes have been served, or ctx ends.
func (p *Peers) Shutdown(ctx context.Context) error { return p.relays.Wait(ctx) }

// keep keeps a link to a node for as long as the node is there.
func (p *Peers) keep(ctx context.Context, r *remote) {
	defer p.forget(r)
	log := p.cfg.Logger.With("peer", r.node)
	down := false
	for pause := redialMin; ; pause = min(2*pause, redialMax) {
		address, there := p.cfg.Address(r.node)
		l, err := p.dial(ctx, r.node, address)
		if err == nil {
			log.Info("peer reached", "address", address)
			pause = redialMin
			err = p.visit(ctx, r, l, down)
			down = false
			log.Info("link to peer ended", "error", err)
		}
		r.set(nil)
		if ctx.Err() != nil {
			return
		}
		if !down {
			down = true
			log.Warn("peer can't be reached", "address", address, "error", err)
			p.cfg.Lost(r.node)
		}
		if !there {
			return // the store says that it is gone, and tells when it returns
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

func (p *Peers) dial(ctx context.Context, node, address string) (*link.Link, error) {
	if address == "" {
		return nil, fmt.Errorf("node %s: %w", node, errNoAddress)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := link.DialPeer(ctx, address, p.self.dials(node, ALPN))
	if err != nil {
		return nil, err
	}
	if conn.ConnectionState().NegotiatedProtocol != ALPN {
		_ = conn.Close()
		return nil, errNotAPeer
	}
	return link.ToPeer(conn, link.Config{Heartbeat: heartbeat}), nil
}

// visit serves a link to a node to its end.
func (p *Peers) visit(ctx context.Context, r *remote, l *link.Link, back bool) error {
	s := &session.Session{ID: r.node, AgentID: r.node, Peer: true}
	s.Add(l)
	var told sync.WaitGroup
	defer told.Wait()
	r.set(s)
	if back {
		told.Go(func() { p.cfg.Back(r.node) })
	}
	return l.Run(ctx)
}
