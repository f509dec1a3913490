package tunnel

import (
	"math"
	"net/netip"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// SpecToWire turns a Spec into its message.
func SpecToWire(s endpoint.Spec) *EndpointSpec {
	m := &EndpointSpec{
		Path:             s.Path,
		StripPrefix:      s.StripPrefix,
		Compress:         s.Compress,
		Kind:             string(s.Kind),
		Name:             s.Name,
		Host:             s.Host,
		Label:            s.Label,
		Port:             uint32(s.Port),
		Redirect:         string(s.Redirect),
		UpstreamProtocol: s.UpstreamProtocol,
		HostHeader:       s.HostHeader,
	}
	if s.UpstreamProtocol == endpoint.ALPN {
		// A node that doesn't know of it speaks HTTP/1.1, which is always offered.
		m.UpstreamProtocol, m.UpstreamAlpn = "", true
	}
	if s.PlainOnly {
		m.Plain = "only"
	}
	if s.ClientCA != "" {
		m.Kind, m.ClientCa = kindHTTPS, s.ClientCA
	}
	m.Ports = uint32(max(s.Ports, 0)) //nolint:gosec // below 65536
	limitsToWire(m, s.Limits)
	m.Pool, m.Balance, m.Sticky = s.Pool.Shared, string(s.Pool.Balance), string(s.Pool.Sticky)
	m.Weight = uint32(max(s.Pool.Weight, 0)) //nolint:gosec // Validate
	return m
}

// kindHTTPS is the kind of http endpoints with client_ca on the wire: a node that doesn't
// know of that would let everybody in, were it not for a kind that it doesn't know either.
const kindHTTPS = "https"

// SpecFromWire turns a message into a Spec and validates it.
func SpecFromWire(m *EndpointSpec) (endpoint.Spec, error) {
	if m.GetPort() > 65535 {
		return endpoint.Spec{}, endpoint.ErrBadSpec
	}
	s := endpoint.Spec{
		Path:             m.GetPath(),
		StripPrefix:      m.GetStripPrefix(),
		Compress:         m.GetCompress(),
		Kind:             endpoint.Kind(m.GetKind()),
		Name:             m.GetName(),
		Host:             m.GetHost(),
		Label:            m.GetLabel(),
		Port:             uint16(m.GetPort()), //nolint:gosec // checked above
		Redirect:         endpoint.Redirect(m.GetRedirect()),
		UpstreamProtocol: m.GetUpstreamProtocol(),
		HostHeader:       m.GetHostHeader(),
		PlainOnly:        m.GetPlain() == "only",
		Ports:            int(m.GetPorts()),
		Limits:           limitsFromWire(m),
	}
	s.Pool = endpoint.Pool{
		Shared: m.GetPool(), Balance: endpoint.Balance(m.GetBalance()), Sticky: endpoint.Sticky(m.GetSticky()), Weight: int(m.GetWeight()),
	}
	if (m.GetKind() == kindHTTPS) != (m.GetClientCa() != "") {
		return endpoint.Spec{}, endpoint.ErrBadSpec
	}
	if s.ClientCA = m.GetClientCa(); s.ClientCA != "" {
		s.Kind = endpoint.HTTP
	}
	if m.GetUpstreamAlpn() && s.UpstreamProtocol == "" {
		s.UpstreamProtocol = endpoint.ALPN
	}
	return s, s.Validate()
}

func limitsToWire(m *EndpointSpec, l endpoint.Limits) {
	m.MaxConnections = l.Connections
	m.ConnectionRate = l.Rate
	m.Bandwidth = l.Bandwidth
	m.ConnectionBandwidth = l.ConnectionBandwidth
	m.IdleTimeoutMs = uint32(min(l.IdleTimeout.Milliseconds(), math.MaxUint32)) //nolint:gosec // clamped
	switch {
	case l.KeepAlive < 0:
		m.KeepAliveMs = -1
	default:
		m.KeepAliveMs = int32(min(l.KeepAlive.Milliseconds(), math.MaxInt32)) //nolint:gosec // clamped
	}
}

func limitsFromWire(m *EndpointSpec) endpoint.Limits {
	return endpoint.Limits{
		Connections:         m.GetMaxConnections(),
		Rate:                m.GetConnectionRate(),
		Bandwidth:           m.GetBandwidth(),
		ConnectionBandwidth: m.GetConnectionBandwidth(),
		IdleTimeout:         time.Duration(m.GetIdleTimeoutMs()) * time.Millisecond,
		KeepAlive:           time.Duration(m.GetKeepAliveMs()) * time.Millisecond,
	}
}

// HeaderFor builds the head of a data stream for visitor v to the endpoint with
// that id.
func HeaderFor(endpointID string, v endpoint.Visitor) *StreamHeader {
	h := &StreamHeader{EndpointId: endpointID, ServerName: v.ServerName, VisitorId: v.ID, UpstreamProtocol: v.Protocol, PortOffset: uint32(v.PortOffset), Datagrams: v.Datagrams}
	if v.Remote.IsValid() {
		h.Visitor = v.Remote.String()
	}
	if v.Local.IsValid() {
		h.Edge = v.Local.String()
	}
	// ALPN is the visitor's word: what doesn't fit is left out, not an error.
	room := 1024
	for _, p := range v.ALPN {
		if room -= len(p) + 4; room < 0 {
			break
		}
		h.Alpn = append(h.Alpn, p)
	}
	return h
}

// VisitorFrom reads the visitor's part of a stream header. Datagrams beside the stream are
// the sender's, and go no further.
func VisitorFrom(h *StreamHeader) endpoint.Visitor {
	v := endpoint.Visitor{ID: h.GetVisitorId(), ServerName: h.GetServerName(), ALPN: h.GetAlpn(), Protocol: h.GetUpstreamProtocol()}
	if o := h.GetPortOffset(); o < 1<<16 {
		v.PortOffset = uint16(o)
	}
	v.Remote, _ = netip.ParseAddrPort(h.GetVisitor())
	v.Local, _ = netip.ParseAddrPort(h.GetEdge())
	return v
}
