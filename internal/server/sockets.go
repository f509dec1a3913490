package server

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
)

// sockets are those that were open before the node began: its predecessor's, or what
// systemd listens on for it. Whoever opens an address gets the one that is there. Visitors
// in its queue are served, none is refused.
type sockets struct {
	mu struct {
		sync.Mutex
		listeners map[string]net.Listener
		packets   map[string]net.PacketConn
	}
}

func newSockets() *sockets {
	s := &sockets{}
	s.mu.listeners, s.mu.packets = make(map[string]net.Listener), make(map[string]net.PacketConn)
	return s
}

// add takes a file, which is closed, and offers its socket by its address.
func (s *sockets) add(f *os.File) error {
	defer f.Close() //nolint:errcheck // net has its own descriptor
	s.mu.Lock()
	defer s.mu.Unlock()
	if l, err := net.FileListener(f); err == nil {
		s.mu.listeners[keyOf(l.Addr())] = l
		return nil
	}
	p, err := net.FilePacketConn(f)
	if err != nil {
		return fmt.Errorf("take over a socket: %w", err)
	}
	s.mu.packets[keyOf(p.LocalAddr())] = p
	return nil
}

// keyOf is what is the same for a bound address and for how it is asked for.
func keyOf(a net.Addr) string {
	switch a := a.(type) {
	case *net.TCPAddr:
		ap := a.AddrPort()
		if !ap.Addr().IsValid() || ap.Addr().Unmap().IsUnspecified() {
			return fmt.Sprintf("tcp *:%d", ap.Port()) // one socket for both families
		}
		return fmt.Sprintf("tcp %v", netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()))
	case *net.UDPAddr:
		return fmt.Sprintf("udp %v", netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port()))
	}
	return a.Network() + " " + filepath.Base(a.String()) // of a unix socket, whose directory may have another name
}

// listen opens an address, or returns the listener that is there.
func (s *sockets) listen(ctx context.Context, network, address string) (net.Listener, error) {
	if l := s.take(network, address); l != nil {
		return l, nil
	}
	var lc net.ListenConfig
	return lc.Listen(ctx, network, address)
}

// take returns the listener of an address if it is there.
func (s *sockets) take(network, address string) net.Listener {
	a, err := resolve(network, address)
	if err != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.mu.listeners[keyOf(a)]
	delete(s.mu.listeners, keyOf(a))
	return l
}

// listenPacket is listen for UDP.
func (s *sockets) listenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	if a, err := resolve(network, address); err == nil {
		s.mu.Lock()
		p := s.mu.packets[keyOf(a)]
		delete(s.mu.packets, keyOf(a))
		s.mu.Unlock()
		if p != nil {
			return p, nil
		}
	}
	var lc net.ListenConfig
	return lc.ListenPacket(ctx, network, address)
}

func resolve(network, address string) (net.Addr, error) {
	switch network {
	case "tcp":
		return net.ResolveTCPAddr(network, address)
	case "unix":
		return net.ResolveUnixAddr(network, address)
	}
	a, err := net.ResolveUDPAddr(network, address)
	if err == nil && len(a.IP) == 0 {
		a.IP = net.IPv6unspecified
		if network == "udp4" {
			a.IP = net.IPv4zero
		}
	}
	return a, err
}

// close gives up what nobody has asked for.
func (s *sockets) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.mu.listeners {
		_ = l.Close()
	}
	for _, p := range s.mu.packets {
		_ = p.Close()
	}
	clear(s.mu.listeners)
	clear(s.mu.packets)
}
