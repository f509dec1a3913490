// Package auth says who an agent is and what it may bind.
package auth

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Errors of Authenticate.
var (
	// ErrDenied says that a credential is unknown, wrong or revoked; not which, since
	// that is nobody's business who can't show a good one.
	ErrDenied = errors.New("the token is unknown or was revoked")
	// ErrExpired and ErrWrongUse are told to who has the secret.
	ErrExpired  = errors.New("the token has expired")
	ErrWrongUse = errors.New("the token is for another use")
)

// Grant is what an authenticated agent may do.
type Grant struct {
	TokenID string
	// Limits of all agents with the token together; 0: none. Expires may be zero.
	MaxEndpoints, MaxSessions, MaxConnections int
	Expires                                   time.Time
	Bandwidth                                 uint64 // bytes per second in each direction
	NoPool                                    bool   // its endpoints share no name

	rules []rule
}

// Authenticate judges the credential of a Hello.
func Authenticate(s *store.Store, credential string) (Grant, error) {
	kept, err := verify(s, credential)
	if err != nil {
		return Grant{}, err
	}
	if kept.Admin || kept.Join {
		return Grant{}, ErrWrongUse
	}
	g := Grant{
		TokenID: kept.ID, Expires: kept.Expires, NoPool: kept.NoPool, Bandwidth: kept.Bandwidth,
		MaxEndpoints: kept.MaxEndpoints, MaxSessions: kept.MaxSessions, MaxConnections: kept.MaxConnections,
	}
	for _, a := range kept.Allow {
		r, err := parseRule(a)
		if err != nil {
			return Grant{}, fmt.Errorf("token %s: %w", kept.ID, err)
		}
		g.rules = append(g.rules, r)
	}
	return g, nil
}

// Admin judges a credential that asks for administration.
func Admin(s *store.Store, credential string) error {
	kept, err := verify(s, credential)
	if err == nil && !kept.Admin {
		return ErrWrongUse
	}
	return err
}

// Join judges a credential of a server that is to be one of the cluster.
func Join(s *store.Store, credential string) error {
	kept, err := verify(s, credential)
	if err == nil && !kept.Join {
		return ErrWrongUse
	}
	return err
}

func verify(s *store.Store, credential string) (store.Token, error) {
	token, err := tunnel.ParseToken(credential)
	if err != nil {
		return store.Token{}, ErrDenied
	}
	kept, err := s.VerifyToken(token)
	if err != nil {
		return store.Token{}, ErrDenied
	}
	if kept.Expired(time.Now()) {
		return store.Token{}, ErrExpired
	}
	return kept, nil
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
	path        string // and what is below it; empty: all
	first, last uint16
}

func (r rule) match(n endpoint.Name) bool {
	if r.kind != n.Kind {
		return false
	}
	if n.Kind.ByPort() {
		return r.first <= n.Port && n.Port <= r.last
	}
	if r.path != "" && n.Path != r.path && !strings.HasPrefix(n.Path, r.path+"/") {
		return false
	}
	return r.anyHost || r.host.Match(n.Host)
}

// ErrBadRule says that a rule can't be read.
var ErrBadRule = errors.New("bad rule: write https://app.example.com, https://app.example.com/api, https://*.example.com, tls://*.example.com, tcp:20000-20009, tcp:* or udp:20053")

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
	case "tcp", "udp":
		r.kind = endpoint.Kind(scheme)
		return r.ports(s, strings.TrimPrefix(rest, ":"))
	default:
		return rule{}, fmt.Errorf("%q: %w", s, ErrBadRule)
	}
	if host, path, ok := strings.Cut(rest, "/"); ok && r.kind == endpoint.HTTP {
		canonical, err := endpoint.ParsePath("/" + path)
		if err != nil {
			return rule{}, fmt.Errorf("%q: %w", s, ErrBadRule)
		}
		rest, r.path = host, canonical
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
