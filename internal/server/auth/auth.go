// Package auth says who an agent is and what it may bind.
package auth

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// ErrDenied says that a credential is unknown, wrong or revoked; not which, since
// that is nobody's business who can't show a good one.
var ErrDenied = errors.New("the token is unknown or was revoked")

// Grant is what an authenticated agent may do.
type Grant struct {
	TokenID string
	rules   []rule
}

// Authenticate judges the credential of a Hello.
func Authenticate(tokens *store.Tokens, credential string) (Grant, error) {
	token, err := tunnel.ParseToken(credential)
	if err != nil {
		return Grant{}, ErrDenied
	}
	kept, err := tokens.Verify(token)
	if err != nil {
		return Grant{}, ErrDenied
	}
	g := Grant{TokenID: kept.ID}
	for _, a := range kept.Allow {
		r, err := parseRule(a)
		if err != nil {
			return Grant{}, fmt.Errorf("token %s: %w", kept.ID, err)
		}
		g.rules = append(g.rules, r)
	}
	return g, nil
}

// MayBind reports whether the grant covers a name. A grant without rules covers
// all.
func (g Grant) MayBind(name endpoint.Name) bool {
	for _, r := range g.rules {
		if r.match(name) {
			return true
		}
	}
	return len(g.rules) == 0
}

// rule allows names of one kind: hosts by pattern, ports by range.
type rule struct {
	kind        endpoint.Kind
	host        endpoint.Pattern
	anyHost     bool
	first, last uint16
}

func (r rule) match(n endpoint.Name) bool {
	if r.kind != n.Kind {
		return false
	}
	if n.Kind == endpoint.TCP {
		return r.first <= n.Port && n.Port <= r.last
	}
	return r.anyHost || r.host.Match(n.Host)
}

// ErrBadRule says that a rule can't be read.
var ErrBadRule = errors.New("bad rule: write https://app.example.com, https://*.example.com, tls://*.example.com, tcp:20000-20009 or tcp:*")

// CheckRule reports whether a rule can be read.
func CheckRule(s string) error {
	_, err := parseRule(s)
	return err
}

func parseRule(s string) (rule, error) {
	scheme, rest, ok := strings.Cut(s, ":")
	rest = strings.TrimPrefix(rest, "//")
	if !ok || rest == "" {
		return rule{}, fmt.Errorf("%q: %w", s, ErrBadRule)
	}
	var r rule
	switch scheme {
	case "http", "https":
		r.kind = endpoint.HTTP
	case "tls":
		r.kind = endpoint.TLS
	case "tcp":
		r.kind = endpoint.TCP
		return r.ports(s, strings.TrimPrefix(rest, ":"))
	default:
		return rule{}, fmt.Errorf("%q: %w", s, ErrBadRule)
	}
	if rest == "*" {
		r.anyHost = true
		return r, nil
	}
	host, err := endpoint.ParsePattern(rest)
	if err != nil {
		return rule{}, fmt.Errorf("%q: %w", s, ErrBadRule)
	}
	r.host = host
	return r, nil
}

func (r rule) ports(s, ports string) (rule, error) {
	if ports == "*" {
		r.first, r.last = 1, 65535
		return r, nil
	}
	first, last, isRange := strings.Cut(ports, "-")
	if !isRange {
		last = first
	}
	a, errA := strconv.ParseUint(first, 10, 16)
	b, errB := strconv.ParseUint(last, 10, 16)
	if errA != nil || errB != nil || a == 0 || b < a {
		return rule{}, fmt.Errorf("%q: %w", s, ErrBadRule)
	}
	r.first, r.last = uint16(a), uint16(b)
	return r, nil
}
