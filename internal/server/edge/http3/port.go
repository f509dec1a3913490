package http3

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Socket is a UDP socket and who is served on it.
type Socket struct {
	net.PacketConn
	Visitors, Links bool
}

// port is a socket as it is served. How much a QUIC connection may send unread is settled
// when its first packet comes, but only its ClientHello tells a link from a visitor. So a
// link comes twice to a port that serves both: it is told to (link.AgainALPN), and its
// address is expected then.
type port struct {
	server    *Server
	ctx       context.Context //nolint:containedctx // the links'
	socket    Socket
	transport *quic.Transport
	listener  *quic.Listener
	tls       struct{ visitors, link, again *tls.Config }
	links     sync.WaitGroup
	chosen    *quic.ClientInfo // the latest whose connection may be a link; of the listener's goroutine

	mu struct {
		sync.Mutex
		expected map[string]time.Time // addresses of links, until when
		open     map[*quic.Conn]struct{}
	}
}

// An address is expected for so long, and so many are at a time.
const (
	expectFor   = 10 * time.Second
	maxExpected = 4096
)

// Serve serves a socket until Shutdown or Close; the latter closes it. The end of ctx ends
// the links, for which Serve waits.
func (s *Server) Serve(ctx context.Context, socket Socket) error {
	p, err := s.listen(ctx, socket)
	if err != nil {
		_ = socket.Close()
		return err
	}
	defer p.links.Wait()
	defer p.listener.Close() //nolint:errcheck // it refuses new connections; those that are there go on
	if socket.Visitors {
		return s.http.ServeListener(p)
	}
	if _, err = p.Accept(context.WithoutCancel(ctx)); err == nil {
		err = http.ErrServerClosed // it returns no links, and there is nobody else
	}
	return err
}

func (s *Server) listen(ctx context.Context, socket Socket) (*port, error) {
	p := &port{server: s, ctx: ctx, socket: socket}
	p.mu.expected, p.mu.open = make(map[string]time.Time), make(map[*quic.Conn]struct{})
	if p.tls.visitors = http3.ConfigureTLSConfig(s.cfg.TLS); socket.Links {
		p.tls.link, p.tls.again = s.cfg.LinkTLS, s.cfg.LinkTLS.Clone()
		p.tls.again.NextProtos = []string{link.AgainALPN}
	}
	key := quic.StatelessResetKey(s.cfg.ResetKey)
	p.transport = &quic.Transport{
		Conn:                link.Lossy(socket.PacketConn),
		StatelessResetKey:   &key,
		VerifySourceAddress: func(net.Addr) bool { return s.present.Load() >= verifyFrom },
		ConnContext:         p.began,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return nil, http.ErrServerClosed
	}
	links := link.QUICConfig(s.cfg.HandshakeTimeout)
	visitors := s.visitors()
	choose := &quic.Config{GetConfigForClient: func(info *quic.ClientInfo) (*quic.Config, error) {
		if p.isLink(info) {
			p.chosen = info
			return links, nil
		}
		return visitors, nil
	}}
	var err error
	if p.listener, err = p.transport.Listen(&tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: p.hello}, choose); err != nil {
		return nil, err
	}
	s.mu.ports = append(s.mu.ports, p)
	return p, nil
}

// visitors is how visitors may use QUIC. No 0-RTT: what comes in it can be played again by
// others (RFC 8470).
func (s *Server) visitors() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           s.cfg.HandshakeTimeout,
		MaxIdleTimeout:                 s.cfg.IdleTimeout,
		KeepAlivePeriod:                15 * time.Second, // or an answer that is silent for long would end; idle ones we end ourselves
		MaxIncomingStreams:             s.cfg.MaxStreams,
		MaxIncomingUniStreams:          8,
		InitialStreamReceiveWindow:     256 << 10,
		MaxStreamReceiveWindow:         1 << 20,
		InitialConnectionReceiveWindow: 512 << 10,
		MaxConnectionReceiveWindow:     4 << 20,
	}
}

type linkKey struct{}

// began counts a connection, and notes whether it may be a link.
func (p *port) began(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	s := p.server
	if s.present.Add(1) > s.cfg.MaxConnections {
		s.present.Add(-1)
		return nil, errFull
	}
	counted := &sync.Once{}
	context.AfterFunc(ctx, func() { counted.Do(func() { s.present.Add(-1) }) })
	if p.chosen == info {
		ctx = context.WithValue(ctx, linkKey{}, counted)
	}
	return ctx, nil
}

// isLink reports whether a new connection may be a link, and no longer expects one from
// its address.
func (p *port) isLink(info *quic.ClientInfo) bool {
	if !p.socket.Visitors || !p.socket.Links {
		return p.socket.Links
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	from := info.RemoteAddr.String()
	until, expected := p.mu.expected[from]
	delete(p.mu.expected, from)
	return expected && time.Now().Before(until)
}

// expect expects a link from an address. Without room those of others are forgotten: they
// ask again.
func (p *port) expect(from net.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if len(p.mu.expected) >= maxExpected {
		for a, until := range p.mu.expected {
			if now.After(until) || len(p.mu.expected) >= maxExpected {
				delete(p.mu.expected, a)
			}
		}
	}
	p.mu.expected[from.String()] = now.Add(expectFor)
}

// hello chooses how a connection is authenticated. What is neither a link in its place nor
// a visitor finds no protocol in common.
func (p *port) hello(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	_, isLink := hello.Context().Value(linkKey{}).(*sync.Once)
	switch {
	case isLink:
		return p.tls.link, nil
	case p.socket.Links && slices.Contains(hello.SupportedProtos, tunnel.ALPN):
		p.expect(hello.Conn.RemoteAddr())
		return p.tls.again, nil
	}
	if own := p.tls.visitors.GetConfigForClient; own != nil {
		if cfg, err := own(hello); cfg != nil || err != nil {
			return cfg, err
		}
	}
	return p.tls.visitors, nil
}

// Accept implements http3.QUICListener: it returns visitors, and has links served.
func (p *port) Accept(ctx context.Context) (*quic.Conn, error) {
	for {
		q, err := p.listener.Accept(ctx)
		if err != nil {
			return nil, err
		}
		switch q.ConnectionState().TLS.NegotiatedProtocol {
		case tunnel.ALPN:
			p.links.Go(func() { p.serve(q) })
		case http3.NextProtoH3:
			return q, nil
		default:
			_ = q.CloseWithError(0, "") // it comes again
		}
	}
}

// serve serves a link.
func (p *port) serve(q *quic.Conn) {
	p.mu.Lock()
	p.mu.open[q] = struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.mu.open, q)
	}()
	s := p.server
	conn, err := link.AcceptQUIC(p.ctx, q, s.cfg.HandshakeTimeout)
	if err == nil {
		// From here on links are counted as those by other transports are.
		if counted, ok := q.Context().Value(linkKey{}).(*sync.Once); ok {
			counted.Do(func() { s.present.Add(-1) })
		}
		err = s.cfg.Link(p.ctx, conn)
	}
	if err != nil {
		s.cfg.Logger.Debug("link ended", "remote", q.RemoteAddr().String(), "error", err)
	}
}

// Addr implements http3.QUICListener.
func (p *port) Addr() net.Addr { return p.listener.Addr() }

// Close implements http3.QUICListener.
func (p *port) Close() error { return p.listener.Close() }

// close ends all connections, links among them, and the socket.
func (p *port) close() {
	_ = p.listener.Close()
	if p.ctx.Err() != nil {
		p.links.Wait() // they say their last words
	}
	p.mu.Lock()
	open := make([]*quic.Conn, 0, len(p.mu.open))
	for q := range p.mu.open {
		open = append(open, q)
	}
	p.mu.Unlock()
	for _, q := range open {
		_ = q.CloseWithError(0, "")
	}
	_ = p.transport.Close()
	_ = p.socket.Close()
}
