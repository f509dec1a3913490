package link

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
)

// quicPaths are the sockets of the side that dialled. A connection that hears nothing moves
// to another one: the way there may be another by then, and its losses don't count against
// it. There are few, used by turns: a socket that a connection has used stays its own.
//
// A node leaves probes of the path that it uses itself unanswered (quic-go does), and that is
// another one than the agent's if nothing but the probe came through there. So besides the
// one in use there are two, and they are tried by turns.
type quicPaths struct {
	to netip.AddrPort

	mu struct {
		sync.Mutex
		transports []*quic.Transport
		paths      []*quic.Path // by transport; nil: the first one's
		active     int
		tried      int // last
		closed     bool
	}
}

// maxPaths bounds the sockets of one connection.
const maxPaths = 4

func newQUICPaths(to netip.AddrPort) (*quicPaths, error) {
	p := &quicPaths{to: to}
	p.mu.Lock()
	defer p.mu.Unlock()
	t, err := p.listenLocked()
	if err != nil {
		return nil, err
	}
	p.mu.transports, p.mu.paths = []*quic.Transport{t}, []*quic.Path{nil}
	return p, nil
}

func (p *quicPaths) listenLocked() (*quic.Transport, error) {
	network := "udp6"
	if p.to.Addr().Is4() {
		network = "udp4"
	}
	socket, err := net.ListenUDP(network, nil)
	if err != nil {
		return nil, err
	}
	return &quic.Transport{Conn: Lossy(socket)}, nil
}

func (p *quicPaths) first() *quic.Transport {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.transports[0]
}

// next returns another path than the one in use.
func (p *quicPaths) next(conn *quic.Conn) (*quic.Path, int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.closed {
		return nil, 0, net.ErrClosed
	}
	if n := len(p.mu.transports); n < maxPaths {
		t, err := p.listenLocked()
		if err != nil {
			return nil, 0, err
		}
		path, err := conn.AddPath(t)
		if err != nil {
			closeTransport(t)
			return nil, 0, err
		}
		p.mu.transports, p.mu.paths = append(p.mu.transports, t), append(p.mu.paths, path)
		p.mu.tried = n
		return path, n, nil
	}
	following := func(i int) int { return 1 + i%(maxPaths-1) } // there is no way back to the first one
	p.mu.tried = following(p.mu.tried)
	if p.mu.tried == p.mu.active {
		p.mu.tried = following(p.mu.tried)
	}
	return p.mu.paths[p.mu.tried], p.mu.tried, nil
}

// probeTime bounds one attempt to find a way. Probes are repeated within it at growing
// intervals.
const probeTime = 2 * time.Second

// move has the connection go on by another socket, if the node answers there.
func (p *quicPaths) move(ctx context.Context, conn *quic.Conn) error {
	path, i, err := p.next(conn)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	if err := path.Probe(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := path.Switch(); err != nil {
		return err
	}
	p.mu.active = i
	return nil
}

func (p *quicPaths) close() {
	p.mu.Lock()
	transports := p.mu.transports
	p.mu.closed, p.mu.transports = true, nil
	p.mu.Unlock()
	for _, t := range transports {
		closeTransport(t)
	}
}

func closeTransport(t *quic.Transport) {
	_ = t.Close()
	_ = t.Conn.Close()
}

// Lossy returns a socket for QUIC, which ends a connection that can't send at the moment:
// here such a datagram is lost like any other.
func Lossy(socket net.PacketConn) net.PacketConn {
	if u, ok := socket.(*net.UDPConn); ok {
		return lossy{u}
	}
	return socket
}

type lossy struct{ *net.UDPConn }

// WriteMsgUDP implements quic.OOBCapablePacketConn.
func (l lossy) WriteMsgUDP(b, oob []byte, to *net.UDPAddr) (n, oobn int, err error) {
	n, oobn, err = l.UDPConn.WriteMsgUDP(b, oob, to)
	if passing(err) {
		return len(b), len(oob), nil
	}
	return n, oobn, err
}

// WriteTo implements net.PacketConn.
func (l lossy) WriteTo(b []byte, to net.Addr) (int, error) {
	n, err := l.UDPConn.WriteTo(b, to)
	if passing(err) {
		return len(b), nil
	}
	return n, err
}

// passing reports whether an error of sending may be none the next time: no way, none that
// the firewall lets through, no buffer.
func passing(err error) bool {
	for _, e := range []error{syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EHOSTDOWN, syscall.EPERM, syscall.EACCES, syscall.ECONNREFUSED, syscall.ENOBUFS, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
