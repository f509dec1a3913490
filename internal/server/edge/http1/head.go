package http1

import (
	"bytes"
	"strconv"
)

// Unknown is the Length of a body that ends by chunks or with the connection.
const Unknown = -1

// Head is what the heads of requests and answers have in common. It points into the
// bytes it was parsed from and can be used again.
type Head struct {
	Minor   int // of version 1
	Fields  []Field
	Chunked bool
	Length  int64 // of the body; Unknown: Chunked, or (answers) the end of the connection

	Close     bool // Connection: close
	KeepAlive bool // Connection: keep-alive
	hasLength bool
	lists     bool // Connection names fields
	upgrades  bool // Connection: upgrade
}

func (h *Head) reset() {
	*h = Head{Fields: h.Fields[:0]}
}

// Persistent reports whether the connection is to stay after this message.
func (h *Head) Persistent() bool { return !h.Close && (h.Minor > 0 || h.KeepAlive) }

// HasLength reports whether there is a Content-Length.
func (h *Head) HasLength() bool { return h.hasLength }

// Get returns the value of the first field of a name, given in lower case; nil: none.
func (h *Head) Get(lower string) []byte {
	for i := range h.Fields {
		if EqualFold(h.Fields[i].Name, lower) {
			return h.Fields[i].Value
		}
	}
	return nil
}

// Named reports whether a Connection field names a field, which then ends here.
func (h *Head) Named(name []byte) bool {
	if !h.lists {
		return false
	}
	found := false
	for i := range h.Fields {
		if f := &h.Fields[i]; f.Kind == Connection {
			tokens(f.Value, func(member []byte) bool {
				found = bytes.EqualFold(member, name)
				return !found
			})
			if found {
				return true
			}
		}
	}
	return false
}

// frame reads the fields that both kinds of message have: those about the length of the
// body (RFC 9112, section 6) and Connection.
func (h *Head) frame() error {
	codings := 0
	for i := range h.Fields {
		f := &h.Fields[i]
		switch f.Kind {
		case ContentLength:
			n, err := parseLength(f.Value)
			if err != nil || h.hasLength {
				return ErrBadLength
			}
			h.Length, h.hasLength = n, true
		case TransferEncoding:
			codings++
			if !EqualFold(f.Value, "chunked") {
				return ErrBadCoding
			}
		case Connection:
			tokens(f.Value, h.option)
		default:
		}
	}
	switch {
	case codings == 0:
		return nil
	case codings > 1:
		return ErrBadCoding
	case h.hasLength:
		return ErrTwoLengths
	case h.Minor == 0:
		return ErrOldCoding
	}
	h.Chunked, h.Length = true, Unknown
	return nil
}

// option notes a connection option.
func (h *Head) option(member []byte) bool {
	switch {
	case EqualFold(member, "close"):
		h.Close = true
	case EqualFold(member, "keep-alive"):
		h.KeepAlive = true
	case EqualFold(member, "upgrade"):
		h.upgrades = true
	default:
		h.lists = true
	}
	return true
}

// parseLength reads a Content-Length: digits and nothing else (RFC 9110, section 8.6).
func parseLength(b []byte) (int64, error) {
	if len(b) == 0 || len(b) > 18 {
		return 0, ErrBadLength
	}
	n := int64(0)
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, ErrBadLength
		}
		n = n*10 + int64(c-'0')
	}
	return n, nil
}

// parseVersion reads HTTP/1.0 or HTTP/1.1.
func parseVersion(b []byte) (minor int, err error) {
	switch {
	case string(b) == "HTTP/1.1":
		return 1, nil
	case string(b) == "HTTP/1.0":
		return 0, nil
	case len(b) == 8 && string(b[:5]) == "HTTP/" && isDigit(b[5]) && b[6] == '.' && isDigit(b[7]):
		return 0, ErrBadVersion
	}
	return 0, ErrBadStart
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// firstLine splits the first line off a head, whose empty line it drops.
func firstLine(head []byte) (line, rest []byte, err error) {
	end := bytes.IndexByte(head, '\n')
	if end < 1 || head[end-1] != '\r' {
		return nil, nil, ErrBareLF
	}
	if rest = head[end+1:]; len(rest) < 2 {
		return nil, nil, ErrBadStart
	}
	return head[:end-1], rest[:len(rest)-2], nil
}

// AppendLength appends a Content-Length field.
func AppendLength(b []byte, n int64) []byte {
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, n, 10)
	return append(b, "\r\n"...)
}

// AppendField appends a field. A value of several lines, which no parser here returns,
// must not be given.
func AppendField(b, name, value []byte) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}
