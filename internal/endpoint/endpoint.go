// Package endpoint holds the shared words of Culvert as types: the Name of a
// public endpoint, the Spec an agent asks for, and the Visitor who comes. It
// imports nothing of ours.
package endpoint

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Kind says how visitors reach an endpoint.
type Kind string

// The kinds of endpoints.
const (
	HTTP Kind = "http" // by host, on the plain and on the TLS port
	TLS  Kind = "tls"  // by TLS server name, passed through
	TCP  Kind = "tcp"  // by port
)

// Name identifies an endpoint among all of a cluster: kind and host, or kind and
// port. It is comparable and canonical; make one with care for that.
type Name struct {
	Kind Kind
	Host string // canonical (ParseHost), for HTTP and TLS
	Port uint16 // for TCP
}

// String returns the name as a URL without the parts a Name doesn't know.
func (n Name) String() string {
	if n.Kind == TCP {
		return string(n.Kind) + "://:" + strconv.Itoa(int(n.Port))
	}
	return string(n.Kind) + "://" + n.Host
}

// Redirect says what the plain port of an HTTP endpoint does.
type Redirect string

// The ways to treat a visitor on the plain port.
const (
	RedirectAuto   Redirect = ""       // redirect once a publicly trusted certificate is in place
	RedirectAlways Redirect = "always" // redirect to https
	RedirectNever  Redirect = "never"  // serve
)

// Spec is what an agent asks for. At most one of Host and Label is set; with
// neither (or no Port) the node picks a name that stays the same for the same
// agent id and Name.
type Spec struct {
	Kind             Kind
	Name             string // the endpoint's name at its agent, for people and for stable random names
	Host             string // the whole host
	Label            string // one label below the node's domain
	Port             uint16
	Redirect         Redirect
	UpstreamProtocol string // HTTP: "" for HTTP/1.1, or H2C
	HostHeader       string // HTTP: the Host the upstream sees; empty: the visitor's
	PlainOnly        bool   // HTTP: asked for as http://, not found on the TLS port
}

// H2C is the UpstreamProtocol of upstreams that speak HTTP/2 without TLS.
const H2C = "h2c"

// Errors of ParseURL and Validate.
var (
	ErrBadURL  = errors.New("bad endpoint URL")
	ErrBadSpec = errors.New("bad endpoint")
)

// ParseURL reads a public URL as a user writes it: https://app.example.com,
// http://app.example.com, tls://db.example.com, tcp://:20022 or
// tcp://host:20022 (the host of a tcp URL is not looked at: every node's
// addresses serve the port).
func ParseURL(raw string) (Spec, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" {
		return Spec{}, fmt.Errorf("%w %q: write it like https://app.example.com, tls://db.example.com or tcp://:20022", ErrBadURL, raw)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" || (u.Path != "" && u.Path != "/") {
		return Spec{}, fmt.Errorf("%w %q: scheme, host and port only", ErrBadURL, raw)
	}
	var s Spec
	switch strings.ToLower(u.Scheme) {
	case "https":
		s.Kind = HTTP
	case "http":
		s.Kind, s.PlainOnly, s.Redirect = HTTP, true, RedirectNever
	case "tls":
		s.Kind = TLS
	case "tcp":
		s.Kind = TCP
	default:
		return Spec{}, fmt.Errorf("%w %q: the scheme is one of https, http, tls, tcp", ErrBadURL, raw)
	}
	if s.Kind == TCP {
		if p := u.Port(); p != "" {
			port, err := strconv.ParseUint(p, 10, 16)
			if err != nil || port == 0 {
				return Spec{}, fmt.Errorf("%w %q: the port is a number from 1 to 65535", ErrBadURL, raw)
			}
			s.Port = uint16(port)
		}
		return s, nil
	}
	host, err := ParseHost(u.Hostname())
	if err != nil {
		return Spec{}, fmt.Errorf("%w %q: %w", ErrBadURL, raw, err)
	}
	s.Host = host
	return s, nil
}

// Validate checks a Spec that came from outside and makes its host canonical.
func (s *Spec) Validate() error {
	switch s.Kind {
	case HTTP, TLS:
		if s.Host != "" && s.Label != "" {
			return fmt.Errorf("%w: host and name exclude each other", ErrBadSpec)
		}
		if s.Host != "" {
			host, err := ParseHost(s.Host)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrBadSpec, err)
			}
			s.Host = host
		}
		if s.Label != "" {
			label, err := ParseHost(s.Label)
			if err != nil || strings.Contains(label, ".") || net.ParseIP(label) != nil {
				return fmt.Errorf("%w: %q is not a name: use letters, digits and hyphens, 63 at most", ErrBadSpec, s.Label)
			}
			s.Label = label
		}
	case TCP:
		if s.Host != "" || s.Label != "" {
			return fmt.Errorf("%w: a tcp endpoint has a port, not a host", ErrBadSpec)
		}
	default:
		return fmt.Errorf("%w: unknown kind %q", ErrBadSpec, s.Kind)
	}
	switch s.Redirect {
	case RedirectAuto, RedirectAlways, RedirectNever:
	default:
		return fmt.Errorf("%w: unknown redirect %q", ErrBadSpec, s.Redirect)
	}
	if s.UpstreamProtocol != "" && s.UpstreamProtocol != H2C {
		return fmt.Errorf("%w: unknown upstream protocol %q", ErrBadSpec, s.UpstreamProtocol)
	}
	if len(s.Name) > 128 || len(s.HostHeader) > 255 || strings.ContainsFunc(s.HostHeader, badHostByte) {
		return fmt.Errorf("%w: name or host header too long or malformed", ErrBadSpec)
	}
	return nil
}

func badHostByte(r rune) bool {
	return r <= ' ' || r >= 0x7f || r == '/' || r == '@' || r == '?' || r == '#'
}

// Visitor is whoever connected to the edge.
type Visitor struct {
	ID         string         // names this visit in logs on both sides
	Name       Name           // what was asked for
	Remote     netip.AddrPort // where the visitor comes from
	Local      netip.AddrPort // where the visitor came in
	ServerName string         // TLS server name, as the edge saw it
	ALPN       []string
}
