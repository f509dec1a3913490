package agent

import (
	"fmt"
	"net"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// ProxyProtocol is the version of the PROXY protocol that an upstream is spoken to in:
// 0 for none, 1 or 2. Its header goes ahead of the visitor's first byte.
type ProxyProtocol byte

// ParseProxyProtocol reads a version as a user writes it.
func ParseProxyProtocol(s string) (ProxyProtocol, error) {
	switch s {
	case "":
		return 0, nil
	case "v1":
		return 1, nil
	case "v2":
		return 2, nil
	}
	return 0, fmt.Errorf("PROXY protocol %q: use v1 or v2", s)
}

// header is what the upstream is told of a visitor; nil: nothing. Addresses that the
// node did not say make it one that names none (UNKNOWN, LOCAL). Version 2 has the TLS
// server name, and the protocol of ALPN where the visitor offered only one: of several,
// the choice is the upstream's.
func (p ProxyProtocol) header(v endpoint.Visitor) ([]byte, error) {
	if p == 0 {
		return nil, nil
	}
	var from, to net.Addr
	if v.Remote.IsValid() && v.Local.IsValid() {
		from, to = net.TCPAddrFromAddrPort(v.Remote), net.TCPAddrFromAddrPort(v.Local)
	}
	h := proxyproto.HeaderProxyFromAddrs(byte(p), from, to)
	if p == 2 {
		var tlvs []proxyproto.TLV
		if v.ServerName != "" {
			tlvs = append(tlvs, proxyproto.TLV{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte(v.ServerName)})
		}
		if len(v.ALPN) == 1 {
			tlvs = append(tlvs, proxyproto.TLV{Type: proxyproto.PP2_TYPE_ALPN, Value: []byte(v.ALPN[0])})
		}
		if err := h.SetTLVs(tlvs); err != nil {
			return nil, fmt.Errorf("build PROXY header: %w", err)
		}
	}
	b, err := h.Format()
	if err != nil {
		return nil, fmt.Errorf("build PROXY header: %w", err)
	}
	return b, nil
}

// introduce writes the header to a connection that was just dialled.
func (p ProxyProtocol) introduce(c net.Conn, v endpoint.Visitor) error {
	b, err := p.header(v)
	if err != nil || len(b) == 0 {
		return err
	}
	_ = c.SetWriteDeadline(time.Now().Add(dialTimeout))
	if _, err := c.Write(b); err != nil {
		return fmt.Errorf("send PROXY header: %w", err)
	}
	return c.SetWriteDeadline(time.Time{})
}
