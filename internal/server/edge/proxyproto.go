package edge

import (
	"bufio"
	"context"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/culvert-tunnel/culvert/internal/splice"
)

// Proxies are the load balancers in front of a node, whose connections begin with a
// header of the PROXY protocol, version 1 or 2. Nobody else's header is believed.
type Proxies struct {
	Trusted      []netip.Prefix
	RefuseOthers bool // reset connections from elsewhere; else they are served as they come
}

// introduced returns a connection as its visitor's, whom a trusted proxy says in the
// header that its connections must begin with: whether there is one is no guess. It
// closes c and returns nil if that can't be.
func (e *Edge) introduced(ctx context.Context, c net.Conn) net.Conn {
	p := &e.cfg.Proxies
	if len(p.Trusted) == 0 {
		return c
	}
	from := addrPort(c.RemoteAddr()).Addr().WithZone("")
	if !slices.ContainsFunc(p.Trusted, func(n netip.Prefix) bool { return n.Contains(from) }) {
		if !p.RefuseOthers {
			return c
		}
		e.counters.proxyRefused.Add(1)
		e.cfg.Logger.Debug("visitor not by way of a trusted proxy", "remote", c.RemoteAddr().String())
		splice.Reset(c)
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	_ = c.SetReadDeadline(time.Now().Add(e.cfg.HelloTimeout))
	r := bufio.NewReaderSize(c, 512)
	h, err := proxyproto.Read(r) // at most 4 KiB
	if err != nil {
		e.counters.proxyRefused.Add(1)
		e.cfg.Logger.Warn("no PROXY header from a trusted proxy", "remote", c.RemoteAddr().String(), "error", err)
		splice.Reset(c)
		return nil
	}
	_ = c.SetReadDeadline(time.Time{})
	first := make([]byte, r.Buffered())
	_, _ = r.Read(first) // what is buffered comes without an error
	below := c
	if len(first) > 0 {
		below = splice.Prepend(c, first)
	}
	src, dst, ok := h.TCPAddrs()
	if !ok || h.Command.IsLocal() {
		return below // a health check, or a proxy that does not know
	}
	return &introduced{Conn: below, remote: src, local: dst}
}

// introduced is a connection that comes from and to other addresses than its socket's.
type introduced struct {
	net.Conn
	remote, local net.Addr
}

func (i *introduced) RemoteAddr() net.Addr { return i.remote }
func (i *introduced) LocalAddr() net.Addr  { return i.local }

// Bare is the connection whose bytes these are.
func (i *introduced) Bare() net.Conn { return i.Conn }

// CloseWrite half-closes the connection below.
func (i *introduced) CloseWrite() error { return splice.CloseWrite(i.Conn) }

// Reset resets the connection below.
func (i *introduced) Reset() error {
	splice.Reset(i.Conn)
	return nil
}
