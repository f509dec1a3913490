package session

import (
	"net"

	"github.com/culvert-tunnel/culvert/internal/splice"
)

// paced is a stream whose bytes are counted against the token's bandwidth. It has none of
// the stream's ways to move bytes past that.
type paced struct {
	net.Conn
	stream *stream
}

// ALPN implements registry.Negotiated.
func (p *paced) ALPN() (string, error) { return p.stream.ALPN() }

// Pass implements registry.Passable.
func (p *paced) Pass() { p.stream.Pass() }

// Quiet is the stream's.
func (p *paced) Quiet() bool { return p.stream.Quiet() }

// CloseWrite ends the direction to the agent.
func (p *paced) CloseWrite() error { return splice.CloseWrite(p.Conn) }

// Reset ends both directions at once.
func (p *paced) Reset() error {
	splice.Reset(p.Conn)
	return nil
}
