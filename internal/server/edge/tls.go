package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/nonblock"
	"github.com/culvert-tunnel/culvert/internal/server/certs"
	"github.com/culvert-tunnel/culvert/internal/server/edge/clienthello"
	"github.com/culvert-tunnel/culvert/internal/splice"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// serveTLS looks at the ClientHello of a connection on the shared TLS port and
// sends it where it belongs: an agent to control, a visitor of a passthrough
// endpoint to the agent with all bytes as they came, others to HTTP.
func (e *Edge) serveTLS(ctx context.Context, c net.Conn, noVisit func()) rest {
	hello, ok := e.peek(ctx, c)
	if !ok {
		return nil
	}
	if hello.Offers(tunnel.ALPN) {
		noVisit()
		return e.serveLink(ctx, c, hello.Raw)
	}
	e.cfg.Registry.AwaitHost(ctx, hello.ServerName)
	if name, ok := e.cfg.Registry.Passthrough(hello.ServerName); ok {
		v := visitor(c, name)
		v.ServerName, v.ALPN = hello.ServerName, hello.ALPN
		return e.carry(ctx, c, v, hello.Raw)
	}
	if hello.Offers(certs.ChallengeALPN) {
		e.serveChallenge(ctx, c, hello.Raw)
		return nil
	}
	host, err := endpoint.ParseHost(hello.ServerName)
	if err == nil {
		_, err = e.cfg.Certs.Visitor(ctx, host)
	}
	if err != nil {
		e.counters.unknownName.Add(1)
		e.cfg.Logger.Debug("TLS visitor for no endpoint", "server_name", hello.ServerName, "remote", c.RemoteAddr().String())
		closeWithAlert(c, alertUnrecognizedName)
		return nil
	}
	return e.serveSecure(ctx, tls.Server(splice.Prepend(nonblock.Of(c), hello.Raw), e.tls), host)
}

// serveSecure makes a TLS connection of a visitor's, which is then served with the version of
// HTTP that is agreed on.
func (e *Edge) serveSecure(ctx context.Context, c *tls.Conn, host string) rest {
	limited, cancel := context.WithTimeout(ctx, e.cfg.HelloTimeout)
	err := c.HandshakeContext(limited)
	cancel()
	switch {
	case err != nil:
		e.cfg.Logger.Debug("TLS handshake", "server_name", host, "remote", c.RemoteAddr().String(), "error", err)
		closeWith(c.NetConn(), nil) // behind the alert; in TLS 1.3 a request may be here already
		return nil
	case c.ConnectionState().NegotiatedProtocol == "h2":
		return aside(func() rest {
			e.serveHTTP2(ctx, c, host)
			return nil
		})
	}
	return aside(func() rest { return e.serveHTTP1(ctx, c, host) })
}

// serveLinkOnly serves a connection on a port for agents alone.
func (e *Edge) serveLinkOnly(ctx context.Context, c net.Conn, noVisit func()) rest {
	noVisit()
	hello, ok := e.peek(ctx, c)
	if !ok {
		return nil
	}
	if !hello.Offers(tunnel.ALPN) {
		closeWithAlert(c, alertNoApplicationProtocol)
		return nil
	}
	return e.serveLink(ctx, c, hello.Raw)
}

// peek reads the ClientHello within its time and number limits. Without one it
// closes the connection.
func (e *Edge) peek(ctx context.Context, c net.Conn) (*clienthello.Hello, bool) {
	select {
	case e.pending <- struct{}{}:
		defer func() { <-e.pending }()
	default:
		e.counters.pending.Add(1)
		e.cfg.Logger.Warn("too many connections without a ClientHello", "limit", e.cfg.MaxPending)
		splice.Reset(c)
		return nil, false
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	_ = c.SetReadDeadline(time.Now().Add(e.cfg.HelloTimeout))
	hello, err := clienthello.Read(c)
	if err != nil {
		e.cfg.Logger.Debug("no ClientHello", "remote", c.RemoteAddr().String(), "error", err)
		malformed := errors.Is(err, clienthello.ErrMalformed) || errors.Is(err, clienthello.ErrTooLarge)
		notTLS := errors.Is(err, clienthello.ErrNotTLS)
		if malformed || notTLS {
			e.counters.notTLS.Add(1)
		} else {
			e.counters.noHello.Add(1)
		}
		switch {
		case malformed:
			closeWithAlert(c, alertDecodeError)
		case notTLS && looksLikeHTTP(hello.Raw):
			closeWith(c, httpOnTLS)
		default:
			_ = c.Close()
		}
		return nil, false
	}
	_ = c.SetReadDeadline(time.Time{})
	return hello, true
}

// serveLink finishes the TLS handshake with an agent, whose ClientHello was read
// already, and hands the link on.
func (e *Edge) serveLink(ctx context.Context, c net.Conn, hello []byte) rest {
	conn, err := link.Accept(ctx, c, hello, e.linkTLS, e.cfg.HelloTimeout)
	if err != nil {
		e.cfg.Logger.Debug("link handshake", "remote", c.RemoteAddr().String(), "error", err)
		return nil
	}
	return aside(func() rest {
		if err := e.cfg.Link(ctx, conn); err != nil {
			e.cfg.Logger.Debug("link ended", "remote", conn.RemoteAddr().String(), "error", err)
		}
		return nil
	})
}

// serveChallenge shows a CA that this node answers for the server name (RFC 8737); no
// byte follows the handshake. For passthrough endpoints the agent does that.
func (e *Edge) serveChallenge(ctx context.Context, c net.Conn, hello []byte) {
	defer c.Close() //nolint:errcheck // all is said
	ctx, cancel := context.WithTimeout(ctx, e.cfg.HelloTimeout)
	defer cancel()
	conn := tls.Server(splice.Prepend(c, hello), &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{certs.ChallengeALPN}, GetCertificate: e.cfg.Certs.Challenge,
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		e.cfg.Logger.Debug("ACME challenge not answered", "remote", c.RemoteAddr().String(), "error", err)
		return
	}
	_ = conn.Close()
}

// certificate returns the certificate for a visitor's server name.
func (e *Edge) certificate(ctx context.Context, serverName string) (*tls.Certificate, error) {
	host, err := endpoint.ParseHost(serverName)
	if err != nil {
		return nil, err
	}
	return e.cfg.Certs.Visitor(ctx, host)
}

// TLS alerts (RFC 8446, section 6.2).
const (
	alertDecodeError           = 50
	alertUnrecognizedName      = 112
	alertNoApplicationProtocol = 120
)

// closeWithAlert tells a TLS client why it is not served. The alert record is the
// same in all versions of TLS as long as nothing is encrypted.
func closeWithAlert(c net.Conn, alert byte) {
	closeWith(c, []byte{21, 3, 3, 0, 2, 2, alert})
}

// httpOnTLS is for who speaks plain HTTP to the TLS port, most often by a URL with the
// wrong scheme.
var httpOnTLS = []byte("HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n" +
	errorHeader + ": " + string(tunnel.CodeBadRequest) + "\r\n\r\nThis port speaks TLS: use https://. (" + string(tunnel.CodeBadRequest) + ")\n")

// looksLikeHTTP reports whether the first byte is that of a method.
func looksLikeHTTP(b []byte) bool { return len(b) > 0 && 'A' <= b[0] && b[0] <= 'Z' }

// lastWords bounds the time and the bytes for which closeWith reads on.
const (
	lastWordsTime  = time.Second
	lastWordsBytes = 128 << 10
)

// closeWith says something and closes. It reads what still comes, because closing with
// unread bytes is a reset, which may overtake what was said.
func closeWith(c net.Conn, words []byte) {
	defer c.Close() //nolint:errcheck // it ends one way or the other
	_ = c.SetDeadline(time.Now().Add(lastWordsTime))
	if _, err := c.Write(words); err != nil {
		return
	}
	if err := splice.CloseWrite(c); err != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, c, lastWordsBytes)
}
