package edge

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// owned are the headers that say where a request came from. Their values are the
// edge's alone; a visitor's are dropped, in every spelling an upstream might take
// for the same (CGI and its heirs make one character of all that is no letter).
var owned = map[string]bool{
	"forwarded":         true,
	"x-forwarded-for":   true,
	"x-forwarded-host":  true,
	"x-forwarded-proto": true,
	"x-real-ip":         true,
}

// setForwarded replaces the owned headers (RFC 7239 for Forwarded).
func setForwarded(h http.Header, in *http.Request, v endpoint.Visitor) {
	for k := range h {
		if isOwned(k) {
			delete(h, k)
		}
	}
	proto := "http"
	if in.TLS != nil {
		proto = "https"
	}
	ip := v.Remote.Addr()
	h["X-Forwarded-For"] = []string{ip.String()}
	h["X-Real-Ip"] = []string{ip.String()}
	h["X-Forwarded-Host"] = []string{in.Host}
	h["X-Forwarded-Proto"] = []string{proto}
	h["Forwarded"] = []string{"for=" + forwardedNode(ip) + `;host="` + in.Host + `";proto=` + proto}
}

func isOwned(name string) bool {
	return owned[strings.Map(func(c rune) rune {
		switch {
		case 'A' <= c && c <= 'Z':
			return c + 'a' - 'A'
		case ('a' <= c && c <= 'z') || ('0' <= c && c <= '9'):
			return c
		}
		return '-'
	}, name)]
}

// forwardedNode quotes an address as RFC 7239, section 6 wants it.
func forwardedNode(ip netip.Addr) string {
	if ip.Is6() {
		return `"[` + ip.String() + `]"`
	}
	return ip.String()
}
