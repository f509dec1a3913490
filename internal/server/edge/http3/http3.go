// Package http3 serves QUIC on UDP sockets: visitors' HTTP/3 (RFC 9114), with limits, each
// request handed to the edge's handler like one of HTTP/2, and links of agents, which are
// handed on. It alone imports quic-go for HTTP.
package http3

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// Locks: Server.mu before connection.mu.

// Config of a Server. Handler, TLS and Logger must be set, and for sockets that take links
// Link and LinkTLS.
type Config struct {
	Handler http.Handler
	TLS     *tls.Config // its ALPN is put in place
	// Link serves the link of an agent from its handshake to its end.
	Link    func(context.Context, net.Conn) error
	LinkTLS *tls.Config
	// ResetKey is what this node tells connections by that an earlier process of it had, so
	// that they end at once (RFC 9000, section 10.3).
	ResetKey [32]byte

	HandshakeTimeout time.Duration // default 10 s
	HeaderTimeout    time.Duration // from the handshake to the first request; default 10 s
	IdleTimeout      time.Duration // of connections without requests; default 2 min
	MaxHeaderBytes   int           // default 64 KiB
	MaxStreams       int64         // requests at a time on one connection; default 250
	MaxConnections   int64         // default 10,000
	Logger           *slog.Logger
}

// verifyFrom is how many connections there may be before new ones must prove that they
// get what is sent to their address, which takes them one more round trip (RFC 9000,
// section 8.1.2).
const verifyFrom = 1000

// Server serves HTTP/3. Make one with New; Serve once.
type Server struct {
	cfg     Config
	http    http3.Server
	present atomic.Int64 // connections, handshakes among them

	mu struct {
		sync.Mutex
		idle        time.Duration // how long a connection may be without requests
		connections map[*connection]struct{}
		ports       []*port
		closed      bool
	}
}

// New makes a server that serves nothing yet.
func New(cfg Config) *Server {
	fill(&cfg.HandshakeTimeout, 10*time.Second)
	fill(&cfg.HeaderTimeout, 10*time.Second)
	fill(&cfg.IdleTimeout, 2*time.Minute)
	fill(&cfg.MaxHeaderBytes, 64<<10)
	fill(&cfg.MaxStreams, 250)
	fill(&cfg.MaxConnections, 10_000)
	s := &Server{cfg: cfg}
	s.mu.idle = cfg.IdleTimeout
	s.mu.connections = make(map[*connection]struct{})
	s.http.Handler = http.HandlerFunc(s.serveHTTP)
	s.http.MaxHeaderBytes = cfg.MaxHeaderBytes
	s.http.Logger = cfg.Logger
	s.http.ConnContext = s.began
	return s
}

func fill[T int | int64 | time.Duration](v *T, otherwise T) {
	if *v <= 0 {
		*v = otherwise
	}
}

var errFull = errors.New("too many connections")

// Shutdown refuses new connections and requests, and waits until the requests that are
// there have ended, or cuts them off when ctx ends. Links go on until Close.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.mu.closed = true
	s.mu.idle = min(s.mu.idle, lastWords)
	for c := range s.mu.connections {
		c.request(0, s.mu.idle)
	}
	for _, p := range s.mu.ports {
		_ = p.listener.Close() // those that are there go on
	}
	s.mu.Unlock()
	return s.http.Shutdown(ctx)
}

// Close cuts off all connections, and closes the sockets.
func (s *Server) Close() error {
	err := s.http.Close()
	s.mu.Lock()
	ports := s.mu.ports
	s.mu.closed, s.mu.ports = true, nil
	s.mu.Unlock()
	for _, p := range ports {
		p.close()
	}
	return err
}

// lastWords is how long an answer may be on its way to a visitor who is not to make
// another request: closing a QUIC connection drops what was not acknowledged.
const lastWords = time.Second

// connection closes a QUIC connection on which no request is under way for too long. A
// stream on which the head of a request does not come to its end is none.
type connection struct {
	quic *quic.Conn
	mu   struct {
		sync.Mutex
		timer    *time.Timer
		requests int
	}
}

type connectionKey struct{}

func (s *Server) began(ctx context.Context, q *quic.Conn) context.Context {
	c := &connection{quic: q}
	c.mu.timer = time.AfterFunc(s.cfg.HeaderTimeout, c.idle)
	s.mu.Lock()
	s.mu.connections[c] = struct{}{}
	s.mu.Unlock()
	context.AfterFunc(ctx, func() {
		c.mu.Lock()
		c.mu.timer.Stop()
		c.mu.Unlock()
		s.mu.Lock()
		delete(s.mu.connections, c)
		s.mu.Unlock()
	})
	return context.WithValue(ctx, connectionKey{}, c)
}

func (c *connection) idle() {
	c.mu.Lock()
	requests := c.mu.requests
	c.mu.Unlock()
	if requests == 0 {
		_ = c.quic.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
	}
}

// request counts n more requests. Without any, the connection is idle from now on.
func (c *connection) request(n int, idle time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.requests += n
	if c.mu.requests > 0 {
		c.mu.timer.Stop()
	} else if c.quic.Context().Err() == nil {
		c.mu.timer.Reset(idle)
	}
}

func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	if c, ok := r.Context().Value(connectionKey{}).(*connection); ok {
		c.request(1, 0)
		defer func() {
			s.mu.Lock()
			idle := s.mu.idle
			s.mu.Unlock()
			c.request(-1, idle)
		}()
	}
	s.cfg.Handler.ServeHTTP(w, r)
}
