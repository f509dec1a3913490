package culvert

import (
	"net"
	"net/http"
	"net/netip"
)

// Visitors lets the handler of an HTTP endpoint find each visitor's address in
// Request.RemoteAddr, with port 0, where the connection's own is that of whoever came
// over it first. It believes X-Real-IP, which the server sets whatever the visitor
// sends: use it with a [Listener] only.
func Visitors(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ip, err := netip.ParseAddr(r.Header.Get("X-Real-Ip")); err == nil {
			visited := *r
			visited.RemoteAddr = net.JoinHostPort(ip.String(), "0")
			r = &visited
		}
		next.ServeHTTP(w, r)
	})
}
