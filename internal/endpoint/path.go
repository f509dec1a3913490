package endpoint

import (
	"errors"
	"strings"
)

// ErrBadPath says that a string is no prefix of paths.
var ErrBadPath = errors.New("bad path: write it like /api or /team/app, in letters, digits and -._~!$&'()*+,=:@")

// Limits of prefixes.
const (
	maxPrefix   = 256 // bytes
	maxSegments = 16
)

// ParsePath returns the canonical form of the prefix of an HTTP endpoint: "" for the whole
// host, else "/api" or "/team/app". What a prefix may hold is read in one way only by
// whoever decodes it or not: no percent-encoding, no dot segments, no parameters.
func ParsePath(s string) (string, error) {
	trimmed := strings.TrimSuffix(s, "/")
	if trimmed == "" {
		return "", nil
	}
	if trimmed[0] != '/' || len(trimmed) > maxPrefix {
		return "", ErrBadPath
	}
	segments := 0
	for segment := range strings.SplitSeq(trimmed[1:], "/") {
		segments++
		if segment == "" || segment == "." || segment == ".." || segments > maxSegments || strings.ContainsFunc(segment, badPathRune) {
			return "", ErrBadPath
		}
	}
	return trimmed, nil
}

func badPathRune(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		return false
	}
	return !strings.ContainsRune("-._~!$&'()*+,=:@", r)
}

// Prefixes calls each with the prefixes of a path that could be endpoints', the longest
// first and "" last, until it returns true.
func Prefixes(path string, each func(prefix string) bool) {
	if len(path) > maxPrefix+1 {
		path = path[:maxPrefix+1] // the last segment may be cut: it is longer than any
		path = path[:strings.LastIndexByte(path, '/')+1]
	}
	for path != "" {
		if each(path) {
			return
		}
		path = path[:max(strings.LastIndexByte(path, '/'), 0)]
	}
	each("")
}

// maxDecodings is how often servers that decode what was decoded already are followed.
const maxDecodings = 3

// Readings calls each with the paths that servers may read in a request target, until it
// returns false: percent-encodings decoded but for those of slashes, and everything
// decoded, once and repeatedly, with backslashes as slashes, without parameters of segments
// (";x"), empty and dot segments. For most targets they are one.
func Readings(target string, each func(path string) bool) {
	path, _, _ := strings.Cut(target, "?")
	if !strings.ContainsAny(path, "%;\\") && !strings.Contains(path, "//") && !strings.Contains(path, "/.") {
		each(path)
		return
	}
	if !each(decode(path, false)) {
		return
	}
	for range maxDecodings {
		decoded := decode(path, true)
		if !each(resolve(decoded)) || decoded == path {
			return
		}
		path = decoded
	}
}

// decode decodes the percent-encodings that are some (RFC 3986, section 2.1).
func decode(s string, slashes bool) string {
	if !strings.Contains(s, "%") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c, n := byteAt(s, i, slashes)
		b = append(b, c)
		i += n - 1
	}
	return string(b)
}

// byteAt returns the byte that stands at i, and in how many it is written.
func byteAt(s string, i int, slashes bool) (byte, int) {
	if s[i] != '%' || i+2 >= len(s) {
		return s[i], 1
	}
	high, low := hex(s[i+1]), hex(s[i+2])
	c := high<<4 | low
	if high > 15 || low > 15 || (!slashes && (c == '/' || c == '\\')) {
		return s[i], 1
	}
	return c, 3
}

func hex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}

// resolve removes what segments may be written with (RFC 3986, section 5.2.4, and what
// servers make of it).
func resolve(path string) string {
	var kept []string
	for segment := range strings.SplitSeq(strings.ReplaceAll(path, "\\", "/"), "/") {
		segment, _, _ = strings.Cut(segment, ";")
		switch segment {
		case "", ".":
		case "..":
			kept = kept[:max(len(kept)-1, 0)]
		default:
			kept = append(kept, segment)
		}
	}
	return "/" + strings.Join(kept, "/")
}

// StripPrefix returns the target without the prefix that its path has by the first of its
// Readings. What is left begins with one slash: behind two of them some see a host.
func StripPrefix(target, prefix string) string {
	i := 0
	for k := 0; k < len(prefix) && i < len(target); k++ {
		_, n := byteAt(target, i, false)
		i += n
	}
	return "/" + strings.TrimLeft(target[i:], "/\\")
}
