package endpoint

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// ErrBadHost says that a string is no host name and no IP address.
var ErrBadHost = errors.New("bad host name")

// ParseHost returns the canonical form of a host as it stands in a Host header, an
// :authority, a TLS server name or a URL: lower case, without port and without
// one trailing dot, internationalised names in their ASCII form (RFC 5891), IP
// addresses as netip writes them, IPv6 without brackets.
//
// Labels hold letters, digits, hyphens and, because such names are in use,
// underscores; they have 1 to 63 bytes, the whole at most 253 (RFC 1123, section
// 2.1; RFC 1035, section 2.3.4).
func ParseHost(s string) (string, error) {
	if s == "" || len(s) > 1024 {
		return "", ErrBadHost
	}
	if s[0] == '[' {
		return parseBracketed(s)
	}
	if i := strings.IndexByte(s, ':'); i >= 0 {
		if strings.IndexByte(s[i+1:], ':') >= 0 {
			return parseIP(s) // IPv6 without brackets, which has no port
		}
		if !isPort(s[i+1:]) {
			return "", ErrBadHost
		}
		s = s[:i]
	}
	s = strings.TrimSuffix(s, ".")
	if !isASCII(s) {
		if !utf8.ValidString(s) {
			return "", ErrBadHost // idna would fold different bytes into one name
		}
		ascii, err := idna.Lookup.ToASCII(s)
		if err != nil {
			return "", ErrBadHost
		}
		s = strings.TrimSuffix(ascii, ".")
	}
	s = strings.ToLower(s) // allocates only when there is something to lower
	if !isName(s) {
		return "", ErrBadHost
	}
	if endsNumeric(s) {
		// What ends in a number is an IPv4 address or nothing (WHATWG URL, 3.5).
		return parseIP(s)
	}
	return s, nil
}

func parseBracketed(s string) (string, error) {
	end := strings.IndexByte(s, ']')
	if end < 0 {
		return "", ErrBadHost
	}
	if rest := s[end+1:]; rest != "" && (rest[0] != ':' || !isPort(rest[1:])) {
		return "", ErrBadHost
	}
	ip, err := netip.ParseAddr(s[1:end])
	if err != nil || !ip.Is6() || ip.Zone() != "" {
		return "", ErrBadHost
	}
	return ip.String(), nil
}

func parseIP(s string) (string, error) {
	ip, err := netip.ParseAddr(s)
	if err != nil || ip.Zone() != "" {
		return "", ErrBadHost
	}
	return ip.String(), nil
}

func isPort(s string) bool {
	if s == "" {
		return true // "host:" is allowed (RFC 3986, section 3.2.3)
	}
	if s[0] < '0' || s[0] > '9' {
		return false
	}
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// isName reports whether s, already in lower case, is a host name.
func isName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	label := 0
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '_':
			label++
		case c == '-':
			if label == 0 {
				return false
			}
			label++
		case c == '.':
			if label == 0 || s[i-1] == '-' {
				return false
			}
			label = 0
		default:
			return false
		}
		if label > 63 {
			return false
		}
	}
	return label > 0 && s[len(s)-1] != '-'
}

// endsNumeric reports whether the last label reads as a number, decimal or 0x and
// hexadecimal, to those who take such hosts for IPv4 addresses.
func endsNumeric(s string) bool {
	last := s[strings.LastIndexByte(s, '.')+1:]
	hex, isHex := strings.CutPrefix(last, "0x")
	for i := range len(hex) {
		digit := '0' <= hex[i] && hex[i] <= '9'
		if !digit && (!isHex || hex[i] < 'a' || hex[i] > 'f') {
			return false
		}
	}
	return true
}

// Pattern is a host name, or all names one label below one ("*.example.com"), as
// in certificates (RFC 9525, section 6.3).
type Pattern struct {
	host     string
	wildcard bool
}

// ParsePattern reads a pattern.
func ParsePattern(s string) (Pattern, error) {
	rest, wildcard := strings.CutPrefix(s, "*.")
	host, err := ParseHost(rest)
	if err != nil {
		return Pattern{}, err
	}
	if _, err := netip.ParseAddr(host); wildcard && err == nil {
		return Pattern{}, ErrBadHost // nothing is below an address
	}
	return Pattern{host: host, wildcard: wildcard}, nil
}

// Match reports whether a canonical host fits the pattern.
func (p Pattern) Match(host string) bool {
	if !p.wildcard {
		return host == p.host
	}
	label, rest, ok := strings.Cut(host, ".")
	return ok && label != "" && rest == p.host
}

func (p Pattern) String() string {
	if p.wildcard {
		return "*." + p.host
	}
	return p.host
}
