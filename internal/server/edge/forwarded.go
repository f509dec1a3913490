package edge

import (
	"net/http"
	"net/netip"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
)

// appendForwarded appends the owned headers (RFC 7239 for Forwarded), and the name of the
// exchange.
func appendForwarded(b []byte, x *exchange) []byte {
	ip := x.visitor.Remote.Addr()
	proto := "http"
	if x.secure {
		proto = "https"
	}
	b = append(ip.AppendTo(append(b, "X-Forwarded-For: "...)), "\r\nX-Real-Ip: "...)
	b = append(ip.AppendTo(b), "\r\nX-Forwarded-Host: "...)
	b = append(append(b, x.host...), "\r\nX-Forwarded-Proto: "...)
	b = append(append(b, proto...), "\r\nForwarded: for="...)
	b = append(appendNode(b, ip), `;host="`...)
	b = append(append(b, x.host...), `";proto=`...)
	b = append(append(b, proto...), "\r\nX-Request-Id: "...)
	b = append(append(b, x.visitor.ID...), "\r\n"...)
	if c := x.visitor.Certificate; c != nil {
		for _, h := range endpoint.CertificateHeaders(c) {
			b = http1.AppendField(b, []byte(h.Name), []byte(h.Value))
		}
	}
	return b
}

// appendNode quotes an address as RFC 7239, section 6 wants it.
func appendNode(b []byte, ip netip.Addr) []byte {
	if ip.Is6() {
		return append(ip.AppendTo(append(b, `"[`...)), `]"`...)
	}
	return ip.AppendTo(b)
}

// setForwarded replaces the owned headers of a request that net/http is to write.
func setForwarded(h http.Header, in *http.Request, from endpoint.Visitor) {
	for k := range h {
		if endpoint.IsOwned([]byte(k)) {
			delete(h, k)
		}
	}
	x := &exchange{host: in.Host, secure: in.TLS != nil}
	x.visitor = from
	fields, _ := http1.ParseTrailers(nil, append(appendForwarded(nil, x), "\r\n"...))
	for _, f := range fields {
		h.Set(string(f.Name), string(f.Value))
	}
}
