package http1

import "bytes"

// Kind marks the fields that have a meaning for the connection rather than for who
// answers at its end.
type Kind uint8

// Kinds of fields. Plain ones are all the others.
const (
	Plain Kind = iota
	Host
	ContentLength
	TransferEncoding
	Connection
	Upgrade
	Expect
	TE
	Trailer
	AltSvc
	RequestID // X-Request-Id
	HopByHop  // others that end here: Keep-Alive, Proxy-Connection, Proxy-Authenticate …
)

// Field is one line of a head or of a trailer section.
type Field struct {
	Name, Value []byte // the value without the white space around it
	Kind        Kind
}

// KindOf finds the kind of a field by its name, in any case.
func KindOf(name []byte) Kind {
	switch len(name) {
	case 2:
		return is(name, "te", TE)
	case 4:
		return is(name, "host", Host)
	case 6:
		return is(name, "expect", Expect)
	case 7:
		return is(name, "upgrade", Upgrade) + is(name, "trailer", Trailer) + is(name, "alt-svc", AltSvc)
	case 10:
		return is(name, "connection", Connection) + is(name, "keep-alive", HopByHop)
	case 12:
		return is(name, "x-request-id", RequestID)
	case 14:
		return is(name, "content-length", ContentLength) + is(name, "http2-settings", HopByHop)
	case 16:
		return is(name, "proxy-connection", HopByHop)
	case 17:
		return is(name, "transfer-encoding", TransferEncoding)
	case 18:
		return is(name, "proxy-authenticate", HopByHop)
	case 19:
		return is(name, "proxy-authorization", HopByHop)
	}
	return Plain
}

func is(name []byte, lower string, kind Kind) Kind {
	if EqualFold(name, lower) {
		return kind
	}
	return Plain
}

// EqualFold reports whether b is lower in any case; lower is ASCII in lower case.
func EqualFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// Limits on heads and trailer sections.
const (
	MaxFields       = 256
	MaxTrailerBytes = 16 << 10
)

// parseFields reads lines that each end in CRLF, up to the end of b.
func parseFields(to []Field, b []byte) ([]Field, error) {
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		if end < 1 || b[end-1] != '\r' {
			return to, ErrBareLF
		}
		line := b[:end-1]
		b = b[end+1:]
		if len(to) == MaxFields {
			return to, ErrTooManyFields
		}
		// White space ahead of the name would be a folded line (RFC 9112, section 5.2), and
		// behind it something that parsers disagree on (5.1): neither is in a token.
		colon := bytes.IndexByte(line, ':')
		if colon < 1 || !isToken(line[:colon]) {
			return to, ErrBadField
		}
		value := trim(line[colon+1:])
		if !isText(value) {
			return to, ErrBadField
		}
		to = append(to, Field{Name: line[:colon], Value: value, Kind: KindOf(line[:colon])})
	}
	return to, nil
}

// ParseTrailers reads a trailer section as ReadTrailers returns it.
func ParseTrailers(to []Field, section []byte) ([]Field, error) {
	if len(section) < 2 {
		return to, ErrBadField
	}
	return parseFields(to, section[:len(section)-2])
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

const (
	tokenByte  = 1 << iota // RFC 9110, section 5.6.2
	textByte               // of a field's value (5.5): HTAB, SP, visible, obs-text
	targetByte             // of a request target: visible, and bytes that some send unescaped
)

var classes = func() (t [256]uint8) {
	for c := range t {
		switch {
		case c == '\t', c == ' ':
			t[c] = textByte
		case c < ' ', c == 0x7f:
		default:
			t[c] = textByte | targetByte
		}
	}
	for c := range t {
		if ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9') || bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), byte(c)) >= 0 {
			t[c] |= tokenByte
		}
	}
	return t
}()

func all(b []byte, class uint8) bool {
	for _, c := range b {
		if classes[c]&class == 0 {
			return false
		}
	}
	return true
}

func isToken(b []byte) bool { return len(b) > 0 && all(b, tokenByte) }
func isText(b []byte) bool  { return all(b, textByte) }

// tokens calls each with the members of a list (RFC 9110, section 5.6.1), until that
// returns false. Empty members are left out.
func tokens(list []byte, each func([]byte) bool) {
	for len(list) > 0 {
		member := list
		if comma := bytes.IndexByte(list, ','); comma >= 0 {
			member, list = list[:comma], list[comma+1:]
		} else {
			list = nil
		}
		if member = trim(member); len(member) > 0 && !each(member) {
			return
		}
	}
}

// HasToken reports whether a list has a member, given in lower case.
func HasToken(list []byte, lower string) bool {
	found := false
	tokens(list, func(member []byte) bool {
		found = EqualFold(member, lower)
		return !found
	})
	return found
}
