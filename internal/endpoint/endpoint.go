// Package endpoint holds the shared words of Culvert as types: the Name of a
// public endpoint, the Spec an agent asks for, and the Visitor who comes. It
// imports nothing of ours.
package endpoint

import (
	"crypto/x509"
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
	UDP  Kind = "udp"  // by port
)

// ByPort reports whether visitors tell endpoints of this kind apart by their port.
func (k Kind) ByPort() bool { return k == TCP || k == UDP }

// Name identifies an endpoint among all of a cluster: kind and host, for HTTP with a
// prefix of paths, or kind and port. It is comparable and canonical; make one with care
// for that.
type Name struct {
	Kind Kind
	Host string // canonical (ParseHost), for HTTP and TLS
	Path string // canonical (ParsePath), for HTTP; empty: the whole host
	Port uint16 // for TCP and UDP
}

// String returns the name as a URL without the parts a Name doesn't know.
func (n Name) String() string {
	if n.Kind.ByPort() {
		return string(n.Kind) + "://:" + strconv.Itoa(int(n.Port))
	}
	return string(n.Kind) + "://" + n.Host + n.Path
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
	Path             string // HTTP: of the host, only what is below this prefix
	Label            string // one label below the node's domain
	Port             uint16 // TCP, UDP: the first of Ports
	Ports            int    // TCP, UDP: how many consecutive ports; 0 and 1: one
	Redirect         Redirect
	UpstreamProtocol string // HTTP: "" for HTTP/1.1, H2C or ALPN
	HostHeader       string // HTTP: the Host the upstream sees; empty: the visitor's
	Compress         bool   // HTTP: the edge compresses answers that are not
	StripPrefix      bool   // HTTP: the upstream sees paths without Path
	PlainOnly        bool   // HTTP: asked for as http://, not found on the TLS port
	ClientCA         string // HTTP: visitors must show a certificate of one of these CAs (CAs.PEM); empty: none is asked for
	Limits           Limits // TCP, TLS, UDP
	Pool             Pool
}

// Values of UpstreamProtocol besides none.
const (
	H2C  = "h2c"  // HTTP/2 without TLS
	ALPN = "alpn" // what the upstream's TLS takes: HTTP/2 or HTTP/1.1
)

// PortNames are the names of all ports of a spec that has its first one.
func (s *Spec) PortNames() []Name {
	names := make([]Name, max(s.Ports, 1))
	for i := range names {
		names[i] = Name{Kind: s.Kind, Port: s.Port + uint16(i)} //nolint:gosec // Validate
	}
	return names
}

// MaxPorts of one endpoint.
const MaxPorts = 1024

// Errors of ParseURL and Validate.
var (
	ErrBadURL  = errors.New("bad endpoint URL")
	ErrBadSpec = errors.New("bad endpoint")
)

// ParseURL reads a public URL as a user writes it: https://app.example.com,
// http://app.example.com, either with a path such as /api, tls://db.example.com,
// tls://*.db.example.com, tcp://:20022, tcp://:21000-21010, udp://:20053 or
// tcp://host:20022 (the host of a tcp or udp URL is not looked at: every node's addresses
// serve the port).
func ParseURL(raw string) (Spec, error) {
	one, ports, err := cutPorts(raw)
	if err != nil {
		return Spec{}, err
	}
	u, err := url.Parse(one)
	if err != nil || u.Scheme == "" {
		return Spec{}, fmt.Errorf("%w %q: write it like https://app.example.com, tls://db.example.com or tcp://:20022", ErrBadURL, raw)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery {
		return Spec{}, fmt.Errorf("%w %q: scheme, host, port and path only", ErrBadURL, raw)
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
	case "udp":
		s.Kind = UDP
	default:
		return Spec{}, fmt.Errorf("%w %q: the scheme is one of https, http, tls, tcp, udp", ErrBadURL, raw)
	}
	if s.Path, err = ParsePath(u.EscapedPath()); err != nil || (s.Path != "" && s.Kind != HTTP) {
		return Spec{}, fmt.Errorf("%w %q: a path is for http endpoints, and written like /api or /team/app", ErrBadURL, raw)
	}
	if ports > 0 && !s.Kind.ByPort() {
		return Spec{}, fmt.Errorf("%w %q: only tcp and udp endpoints have several ports", ErrBadURL, raw)
	}
	s.Ports = ports
	if s.Kind.ByPort() {
		if p := u.Port(); p != "" {
			port, err := strconv.ParseUint(p, 10, 16)
			if err != nil || port == 0 {
				return Spec{}, fmt.Errorf("%w %q: the port is a number from 1 to 65535", ErrBadURL, raw)
			}
			s.Port = uint16(port)
		}
		return s, nil
	}
	host, err := parseSpecHost(s.Kind, u.Hostname())
	if err != nil {
		return Spec{}, fmt.Errorf("%w %q: %w", ErrBadURL, raw, err)
	}
	s.Host = host
	return s, nil
}

// cutPorts takes the end of a range of ports off a URL: tcp://:21000-21010 becomes
// tcp://:21000, 11. The number is 0 where there is no range.
func cutPorts(raw string) (string, int, error) {
	at := strings.LastIndexByte(raw, ':')
	first, last, isRange := strings.Cut(raw[at+1:], "-")
	if !isRange || first == "" || strings.Trim(first, "0123456789") != "" {
		return raw, 0, nil // a host with a hyphen
	}
	a, errA := strconv.ParseUint(first, 10, 16)
	b, errB := strconv.ParseUint(strings.TrimSuffix(last, "/"), 10, 16)
	if errA != nil || errB != nil || a == 0 || b < a || b-a >= MaxPorts {
		return raw, 0, fmt.Errorf("%w %q: write several ports like tcp://:21000-21010, %d at most", ErrBadURL, raw, MaxPorts)
	}
	return raw[:at+1] + first, int(b-a) + 1, nil //nolint:gosec // below 65536
}

// parseSpecHost returns the canonical form of a host that is asked for. That of a TLS
// endpoint may stand for all names one label below another (Pattern).
func parseSpecHost(kind Kind, host string) (string, error) {
	if kind == TLS && strings.HasPrefix(host, "*.") {
		p, err := ParsePattern(host)
		return p.String(), err
	}
	return ParseHost(host)
}

// Validate checks a Spec that came from outside and makes its host canonical.
func (s *Spec) Validate() error {
	switch s.Kind {
	case HTTP, TLS:
		if s.Host != "" && s.Label != "" {
			return fmt.Errorf("%w: host and name exclude each other", ErrBadSpec)
		}
		if s.Host != "" {
			host, err := parseSpecHost(s.Kind, s.Host)
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
	case TCP, UDP:
		if s.Host != "" || s.Label != "" {
			return fmt.Errorf("%w: a %s endpoint has a port, not a host", ErrBadSpec, s.Kind)
		}
	default:
		return fmt.Errorf("%w: unknown kind %q", ErrBadSpec, s.Kind)
	}
	path, err := ParsePath(s.Path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadSpec, err)
	}
	s.Path = path
	if s.Path != "" && (s.Kind != HTTP || s.Host == "") {
		return fmt.Errorf("%w: a path needs the host that it is a part of, and is for http endpoints", ErrBadSpec)
	}
	if s.StripPrefix && s.Path == "" {
		return fmt.Errorf("%w: there is no prefix to strip", ErrBadSpec)
	}
	if s.Ports < 0 || s.Ports > MaxPorts || s.Ports > 1 && (!s.Kind.ByPort() || int(s.Port)+s.Ports > 1<<16) {
		return fmt.Errorf("%w: a tcp or udp endpoint has at most %d consecutive ports up to 65535, others none", ErrBadSpec, MaxPorts)
	}
	if err := s.Limits.validate(s.Kind); err != nil {
		return err
	}
	if err := s.validateClientCA(); err != nil {
		return err
	}
	if err := s.Pool.validate(s.Kind); err != nil {
		return err
	}
	if s.Pool.Shared && s.Host == "" && s.Label == "" && s.Port == 0 {
		return fmt.Errorf("%w: a pool needs a name or a port to share", ErrBadSpec)
	}
	switch s.Redirect {
	case RedirectAuto, RedirectAlways, RedirectNever:
	default:
		return fmt.Errorf("%w: unknown redirect %q", ErrBadSpec, s.Redirect)
	}
	if s.UpstreamProtocol != "" && s.UpstreamProtocol != H2C && s.UpstreamProtocol != ALPN {
		return fmt.Errorf("%w: unknown upstream protocol %q", ErrBadSpec, s.UpstreamProtocol)
	}
	if len(s.Name) > 128 || len(s.HostHeader) > 255 || strings.ContainsFunc(s.HostHeader, badHostByte) {
		return fmt.Errorf("%w: name or host header too long or malformed", ErrBadSpec)
	}
	return nil
}

func (s *Spec) validateClientCA() error {
	switch {
	case s.ClientCA == "":
		return nil
	case s.Kind != HTTP:
		return fmt.Errorf("%w: the server asks visitors of http endpoints alone for a certificate", ErrBadSpec)
	case s.PlainOnly || s.Redirect == RedirectNever:
		return fmt.Errorf("%w: who must show a certificate can't be served on the plain port", ErrBadSpec)
	case len(s.ClientCA) > MaxClientCA:
		return fmt.Errorf("%w: client CA: %w", ErrBadSpec, ErrCATooLarge)
	}
	cas, err := ParseCAs(s.ClientCA)
	if err != nil {
		return fmt.Errorf("%w: client CA: %w", ErrBadSpec, err)
	}
	s.ClientCA = cas.PEM
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
	PortOffset uint16         // which of several ports, counted from 0
	ServerName string         // TLS server name, as the edge saw it
	ALPN       []string
	// Certificate is what the visitor has shown, verified by the CAs of the endpoint that he
	// asked for; nil: it has none.
	Certificate *x509.Certificate
	// Member is which of a pool served the visitor before, as he says; empty: none.
	Member string
	// Datagrams says that they may come beside the stream of a udp endpoint (link.Datagrams).
	Datagrams bool
	// Protocol is what is to be spoken to an upstream behind TLS, by its ALPN name;
	// empty for http/1.1, AnyProtocol to ask which one it takes.
	Protocol string
}

// AnyProtocol offers an upstream all that the edge speaks.
const AnyProtocol = "any"
