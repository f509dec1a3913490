// Package compress compresses answers on their way to visitors: it negotiates a coding
// (RFC 9110, section 12.5.3), judges what is worth it, and writes it with the flushes of
// who writes. It knows answers as net/http has them and nothing of where they come from.
package compress

import (
	"net/http"
	"strconv"
	"strings"
)

// Coding is a content coding by its name; empty: none.
type Coding string

// The codings, the best first.
const (
	Zstd   Coding = "zstd" // RFC 8878
	Brotli Coding = "br"   // RFC 7932
	Gzip   Coding = "gzip" // RFC 1952
)

var preferred = [...]Coding{Zstd, Brotli, Gzip}

// Negotiate returns the coding that the visitor gives the highest weight, the best among
// equals.
func Negotiate(accept []string) Coding {
	best, weight := Coding(""), 0.0
	for _, c := range preferred {
		if q := weightOf(accept, c); q > weight {
			best, weight = c, q
		}
	}
	if weight < weightOf(accept, "identity") {
		return ""
	}
	return best
}

// weightOf is what Accept-Encoding says of a coding, itself or by "*".
func weightOf(accept []string, c Coding) float64 {
	any, itself := -1.0, -1.0
	for _, line := range accept {
		for part := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(part, ";")
			switch name = strings.TrimSpace(name); {
			case strings.EqualFold(name, string(c)), c == Gzip && strings.EqualFold(name, "x-gzip"):
				itself = max(itself, quality(params))
			case name == "*":
				any = max(any, quality(params))
			}
		}
	}
	switch {
	case itself >= 0:
		return itself
	case any >= 0 && c != "identity":
		return any
	}
	return 0
}

// quality reads ";q=0.5"; what can't be read is not wanted.
func quality(params string) float64 {
	params = strings.TrimSpace(params)
	if params == "" {
		return 1
	}
	name, value, ok := strings.Cut(params, "=")
	if !ok || !strings.EqualFold(strings.TrimSpace(name), "q") {
		return 0
	}
	q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
	if err != nil || !(q >= 0 && q <= 1) {
		return 0
	}
	return q
}

// minLength is the least that is worth it, in bytes.
const minLength = 512

// Fits reports whether an answer with this head may be compressed, and is worth it. Whose
// coding the visitor did not choose, who must get it as it is (no-transform), parts of
// something, and what is compressed in itself stay as they are.
func Fits(status int, h http.Header) bool {
	switch status {
	case http.StatusNoContent, http.StatusPartialContent, http.StatusSwitchingProtocols, http.StatusNotModified:
		return false
	}
	if status < 200 || h.Get("Content-Encoding") != "" || h.Get("Content-Range") != "" || hasDirective(h["Cache-Control"], "no-transform") {
		return false
	}
	if n, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64); err == nil && n < minLength {
		return false
	}
	return compressible(h.Get("Content-Type"))
}

func hasDirective(lines []string, directive string) bool {
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(part), directive) {
				return true
			}
		}
	}
	return false
}

// compressible knows the types that gain by it. Unknown ones are left alone: most formats
// that are not text are compressed in themselves.
func compressible(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	if strings.HasPrefix(kind, "text/") || strings.HasSuffix(kind, "+json") || strings.HasSuffix(kind, "+xml") || strings.HasSuffix(kind, "+text") {
		return true
	}
	switch kind {
	case "application/json", "application/javascript", "application/x-javascript", "application/ecmascript", "application/xml", "application/xhtml+xml",
		"application/x-ndjson", "application/jsonl", "application/graphql", "application/manifest+json", "application/wasm", "application/toml", "application/yaml", "application/x-yaml",
		"application/rtf", "application/x-sh", "application/sql", "application/vnd.ms-fontobject",
		"font/ttf", "font/otf", "font/collection", "application/x-font-ttf", "image/bmp", "image/x-icon", "image/vnd.microsoft.icon":
		return true
	}
	return false
}

// Vary says in a head that the answer differs by Accept-Encoding.
func Vary(h http.Header) {
	if !hasDirective(h["Vary"], "Accept-Encoding") && !hasDirective(h["Vary"], "*") {
		h.Add("Vary", "Accept-Encoding")
	}
}

// Weaken makes the entity tag one of what is the same but for its coding (RFC 9110, section
// 8.8.1).
func Weaken(h http.Header) {
	if tag := h.Get("Etag"); strings.HasPrefix(tag, `"`) {
		h.Set("Etag", "W/"+tag)
	}
}
