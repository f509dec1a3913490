package edge

import (
	"net/http"
	"strings"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
)

// memberCookie says which member of a pool a visitor had.
const memberCookie = "culvert-member"

// cookies is the head of a request.
type cookies interface {
	// cookie returns the lines of the field Cookie one after the other, until it is told
	// to stop.
	cookies(line func(string) bool)
}

// memberSaid is which member a visitor says that he had.
func memberSaid(head cookies) (member string) {
	head.cookies(func(line string) bool {
		for pair := range strings.SplitSeq(line, ";") {
			if name, value, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && name == memberCookie {
				member = value
				return false
			}
		}
		return true
	})
	return member
}

// sticks reports whether visitors of a route are known by a cookie.
func sticks(route *registry.Route) bool {
	return route != nil && route.Spec.Pool.Sticky == endpoint.StickyByCookie
}

// setMember is the Set-Cookie of an answer; empty: none is needed. It ends with the
// visitor's browser: how long a member lives nobody knows.
func (x *exchange) setMember() string {
	if !sticks(x.route) || x.visitor.Member == x.route.Member() {
		return ""
	}
	path := x.route.Name.Path
	if path == "" {
		path = "/"
	}
	c := http.Cookie{Name: memberCookie, Value: x.route.Member(), Path: path, HttpOnly: true, Secure: x.secure, SameSite: http.SameSiteLaxMode}
	return c.String()
}

// headOf is a request that net/http has read.
type headOf http.Request

func (r *headOf) cookies(line func(string) bool) {
	for _, l := range r.Header["Cookie"] {
		if !line(l) {
			return
		}
	}
}

// cookies implements cookies.
func (v *visit) cookies(line func(string) bool) { cookiesOf(&v.req, line) }

// cookies implements cookies.
func (p *streamParty) cookies(line func(string) bool) { cookiesOf(&p.s.Request, line) }

func cookiesOf(r *http1.Request, line func(string) bool) {
	for i := range r.Fields {
		if f := &r.Fields[i]; http1.EqualFold(f.Name, "cookie") && !line(string(f.Value)) {
			return
		}
	}
}
