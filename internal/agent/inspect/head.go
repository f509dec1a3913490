package inspect

import (
	"strconv"
	"strings"
)

// maxHead bounds a message's head, in bytes.
const maxHead = 128 << 10

// framing is what a head says of its message.
type framing struct {
	length                int64 // -1: not said
	chunked               bool
	contentType, encoding string
	upgrade               string
	host, visitor         string
	extensions            string // Sec-WebSocket-Extensions
}

// readFraming reads the fields of a head, without its first line. It is lenient: the
// edge has refused what is ambiguous, and nobody but a viewer relies on this. Its strings
// are parts of the head's, which costs nothing.
func readFraming(fields string) framing {
	f := framing{length: -1}
	eachField(fields, func(name, value string) {
		switch len(name) {
		case 4:
			if isField(name, "host") {
				f.host = value
			}
		case 7:
			if isField(name, "upgrade") {
				f.upgrade = strings.ToLower(value)
			}
		case 12:
			if isField(name, "content-type") {
				f.contentType = value
			}
		case 14:
			if isField(name, "content-length") {
				if n, err := strconv.ParseUint(value, 10, 62); err == nil {
					f.length = int64(n) //nolint:gosec // 62 bits
				}
			}
		case 15:
			if isField(name, "x-forwarded-for") {
				f.visitor = value
			}
		case 16:
			if isField(name, "content-encoding") {
				f.encoding = strings.ToLower(value)
			}
		case 17:
			if isField(name, "transfer-encoding") {
				f.chunked = strings.HasSuffix(strings.ToLower(value), "chunked")
			}
		case 24:
			if isField(name, "sec-websocket-extensions") {
				f.extensions += strings.ToLower(value) + ","
			}
		}
	})
	return f
}

// eachField calls f with each field's name and trimmed value.
func eachField(fields string, f func(name, value string)) {
	for fields != "" {
		line := fields
		if i := strings.IndexByte(fields, '\n'); i >= 0 {
			line, fields = fields[:i], fields[i+1:]
		} else {
			fields = ""
		}
		if i := strings.IndexByte(line, ':'); i > 0 {
			f(line[:i], strings.TrimSpace(line[i+1:]))
		}
	}
}

// isField compares a field's name with one in lower case of the same length.
func isField(name, lower string) bool {
	for i := range len(name) {
		c := name[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// cutLine returns the first line without its end, and what follows.
func cutLine(p string) (line, rest string) {
	line, rest, _ = strings.Cut(p, "\n")
	return strings.TrimSuffix(line, "\r"), rest
}

// requestLine splits a request line; ok says that it is one (RFC 9112, section 3).
func requestLine(line string) (method, target, version string, ok bool) {
	i, j := strings.IndexByte(line, ' '), strings.LastIndexByte(line, ' ')
	if i <= 0 || j <= i+1 || i > 32 || !strings.HasPrefix(line[j+1:], "HTTP/") {
		return "", "", "", false
	}
	for k := range i {
		if !isToken(line[k]) {
			return "", "", "", false
		}
	}
	return line[:i], line[i+1 : j], line[j+1:], true
}

// statusLine reads a status line (RFC 9112, section 4).
func statusLine(line string) (status int, ok bool) {
	if !strings.HasPrefix(line, "HTTP/1.") || len(line) < 12 || line[8] != ' ' {
		return 0, false
	}
	n, err := strconv.ParseUint(line[9:12], 10, 16)
	return int(n), err == nil && n >= 100 && n <= 999 //nolint:gosec // three digits
}

// isToken reports whether c may stand in a token (RFC 9110, section 5.6.2).
func isToken(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
