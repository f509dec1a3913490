package edge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/culvert-tunnel/culvert/internal/datagram"
)

// udpSocket is a socket for visitors' datagrams. One that listens on all addresses
// knows to which of them a datagram came, and answers from there: a visitor takes no
// answer from another address than the one it asked.
type udpSocket struct {
	*net.UDPConn
	local netip.AddrPort
	wild  bool
	v6    bool
	batch batchReader
}

// batchReader reads several datagrams in one system call, where the system can.
type batchReader interface {
	ReadBatch(ms []ipv4.Message, flags int) (int, error)
}

// listenUDP opens a port on the host's address, or on all addresses of both families: by
// a socket for each, because systems differ in what a common one says of addresses.
func (e *Edge) listenUDP(ctx context.Context, port uint16) ([]*udpSocket, error) {
	host := e.cfg.TCPHost
	networks := []string{"udp4", "udp6"}
	if host != "" {
		networks = []string{"udp"}
	}
	var sockets []*udpSocket
	var missing error
	for _, network := range networks {
		s, err := e.openUDP(ctx, network, net.JoinHostPort(host, strconv.Itoa(int(port))))
		switch {
		case err == nil:
			sockets = append(sockets, s)
			continue
		case host == "" && (errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL)):
			missing = err // this machine has no such addresses
			continue
		}
		for _, s := range sockets {
			_ = s.Close()
		}
		return nil, err
	}
	if len(sockets) == 0 {
		return nil, missing
	}
	return sockets, nil
}

// udpBuffer is asked for as the socket's buffer, for bursts; the system may give less.
const udpBuffer = 4 << 20

func (e *Edge) openUDP(ctx context.Context, network, address string) (*udpSocket, error) {
	pc, err := e.cfg.ListenPacket(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("listen for udp endpoint: %w", err)
	}
	c := pc.(*net.UDPConn) // what ListenPacket returns for udp
	_ = c.SetReadBuffer(udpBuffer)
	_ = c.SetWriteBuffer(udpBuffer)
	s := &udpSocket{UDPConn: c, local: addrPort(c.LocalAddr())}
	s.wild, s.v6 = s.local.Addr().IsUnspecified(), s.local.Addr().Is6()
	if s.v6 {
		p := ipv6.NewPacketConn(c)
		s.batch = p
		s.wild = s.wild && p.SetControlMessage(ipv6.FlagDst, true) == nil
	} else {
		p := ipv4.NewPacketConn(c)
		s.batch = p
		s.wild = s.wild && p.SetControlMessage(ipv4.FlagDst, true) == nil
	}
	return s, nil
}

// batchSize is how many datagrams are read at once. The buffers take 64 KiB each, of
// which the system provides what is written to.
const batchSize = 16

// read calls each for every datagram, with who sent it and to which address it came,
// until the socket is closed. each must not keep the datagram.
func (s *udpSocket) read(each func(remote netip.AddrPort, local netip.Addr, datagram []byte)) error {
	messages := make([]ipv4.Message, batchSize)
	for i := range messages {
		messages[i].Buffers = [][]byte{make([]byte, datagram.MaxSize)}
		if s.wild {
			messages[i].OOB = make([]byte, 128)
		}
	}
	for {
		n, err := s.batch.ReadBatch(messages, 0)
		if err != nil {
			return err
		}
		for i := range messages[:n] {
			m := &messages[i]
			if remote := addrPort(m.Addr); remote.IsValid() {
				each(remote, s.destination(m.OOB[:m.NN]), m.Buffers[0][:m.N])
			}
		}
	}
}

// destination is the address a datagram came to, as the system says.
func (s *udpSocket) destination(oob []byte) netip.Addr {
	var ip net.IP
	switch {
	case !s.wild:
		return s.local.Addr()
	case s.v6:
		var cm ipv6.ControlMessage
		if cm.Parse(oob) == nil {
			ip = cm.Dst
		}
	default:
		var cm ipv4.ControlMessage
		if cm.Parse(oob) == nil {
			ip = cm.Dst
		}
	}
	a, ok := netip.AddrFromSlice(ip)
	if !ok || a.Unmap().IsMulticast() {
		return s.local.Addr()
	}
	return a.Unmap()
}

// from is the control message that makes an answer leave from an address.
func (s *udpSocket) from(local netip.Addr) []byte {
	switch {
	case !s.wild || local.IsUnspecified():
		return nil
	case s.v6:
		return (&ipv6.ControlMessage{Src: local.AsSlice()}).Marshal()
	}
	return (&ipv4.ControlMessage{Src: local.AsSlice()}).Marshal()
}
