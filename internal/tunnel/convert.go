package tunnel

import (
	"net/netip"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// SpecToWire turns a Spec into its message.
func SpecToWire(s endpoint.Spec) *EndpointSpec {
	m := &EndpointSpec{
		Kind:             string(s.Kind),
		Name:             s.Name,
		Host:             s.Host,
		Label:            s.Label,
		Port:             uint32(s.Port),
		Redirect:         string(s.Redirect),
		UpstreamProtocol: s.UpstreamProtocol,
		HostHeader:       s.HostHeader,
	}
	if s.PlainOnly {
		m.Plain = "only"
	}
	return m
}

// SpecFromWire turns a message into a Spec and validates it.
func SpecFromWire(m *EndpointSpec) (endpoint.Spec, error) {
	if m.GetPort() > 65535 {
		return endpoint.Spec{}, endpoint.ErrBadSpec
	}
	s := endpoint.Spec{
		Kind:             endpoint.Kind(m.GetKind()),
		Name:             m.GetName(),
		Host:             m.GetHost(),
		Label:            m.GetLabel(),
		Port:             uint16(m.GetPort()), //nolint:gosec // checked above
		Redirect:         endpoint.Redirect(m.GetRedirect()),
		UpstreamProtocol: m.GetUpstreamProtocol(),
		HostHeader:       m.GetHostHeader(),
		PlainOnly:        m.GetPlain() == "only",
	}
	return s, s.Validate()
}

// HeaderFor builds the head of a data stream for visitor v to the endpoint with
// that id.
func HeaderFor(endpointID string, v endpoint.Visitor) *StreamHeader {
	h := &StreamHeader{EndpointId: endpointID, ServerName: v.ServerName, VisitorId: v.ID}
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

// VisitorFrom reads the visitor's part of a stream header.
func VisitorFrom(h *StreamHeader) endpoint.Visitor {
	v := endpoint.Visitor{ID: h.GetVisitorId(), ServerName: h.GetServerName(), ALPN: h.GetAlpn()}
	v.Remote, _ = netip.ParseAddrPort(h.GetVisitor())
	v.Local, _ = netip.ParseAddrPort(h.GetEdge())
	return v
}
