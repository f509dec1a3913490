package edge

import (
	"bytes"
	"net/http"
	"slices"
	"strconv"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
)

// appendRequest appends the head that the upstream gets for a request that came by
// HTTP/1.1: the visitor's, but for what ends here and what the edge owns.
func appendRequest(b []byte, r *http1.Request, x *exchange) []byte {
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, upstreamTarget(x.target, x.route)...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(append(b, upstreamHost(x)...), "\r\n"...)
	for i := range r.Fields {
		f := &r.Fields[i]
		switch f.Kind {
		case http1.Plain, http1.Trailer:
			if endpoint.IsOwned(f.Name) || r.Named(f.Name) {
				continue
			}
		case http1.Expect:
			if r.Minor == 0 {
				continue // RFC 9110, section 10.1.1
			}
		default:
			continue
		}
		b = http1.AppendField(b, f.Name, f.Value)
	}
	switch {
	case r.Chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case r.HasLength():
		b = http1.AppendLength(b, r.Length)
	}
	if r.Trailers {
		b = append(b, "Te: trailers\r\n"...)
	}
	if up := upgradeOf(r); up != nil {
		b = append(b, "Connection: Upgrade\r\n"...)
		b = http1.AppendField(b, []byte("Upgrade"), up)
	}
	return append(appendForwarded(b, x), "\r\n"...)
}

// upgradeOf is what the request may go over to. An upgrade to HTTP/2 would make the
// connection one nobody here can read.
func upgradeOf(r *http1.Request) []byte {
	if r.Upgrade == nil || http1.HasToken(r.Upgrade, "h2c") {
		return nil
	}
	return r.Upgrade
}

// upstreamTarget is the target that the upstream sees.
func upstreamTarget(target string, route *registry.Route) string {
	if !route.Spec.StripPrefix {
		return target
	}
	return endpoint.StripPrefix(target, route.Name.Path)
}

// upstreamHost is the Host that the upstream sees.
func upstreamHost(x *exchange) string {
	if h := x.route.Spec.HostHeader; h != "" {
		return h
	}
	return x.host
}

// appendRequestOf is appendRequest for a request that net/http has read. chunked says
// how its body goes on; a length it has is announced otherwise.
func appendRequestOf(b []byte, r *http.Request, x *exchange, chunked bool) []byte {
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, upstreamTarget(r.RequestURI, x.route)...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(append(b, upstreamHost(x)...), "\r\n"...)
	for name, values := range r.Header {
		n := []byte(name)
		switch http1.KindOf(n) {
		case http1.Plain, http1.Expect:
			if endpoint.IsOwned(n) || !httpguts.ValidHeaderFieldName(name) {
				continue
			}
		case http1.TE:
			if slices.ContainsFunc(values, func(v string) bool { return http1.HasToken([]byte(v), "trailers") }) {
				b = append(b, "Te: trailers\r\n"...)
			}
			continue
		default:
			continue
		}
		for _, v := range values {
			b = http1.AppendField(b, n, []byte(v))
		}
	}
	switch {
	case chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		for name := range r.Trailer {
			if !endpoint.IsOwned([]byte(name)) && httpguts.ValidTrailerHeader(name) {
				b = http1.AppendField(b, []byte("Trailer"), []byte(name))
			}
		}
	case r.ContentLength > 0 || r.Header["Content-Length"] != nil:
		b = http1.AppendLength(b, r.ContentLength)
	}
	return append(appendForwarded(b, x), "\r\n"...)
}

// ending says how a visitor's connection goes on after an answer.
type ending uint8

const (
	stays    ending = iota // as HTTP/1.1 does unless told otherwise
	staysOld               // for HTTP/1.0, which must be told
	closes
)

// appendAnswer appends the head of an answer for a visitor of HTTP/1.1 or 1.0. coding
// says that the body goes in chunks.
func appendAnswer(b []byte, r *http1.Response, coding bool, end ending) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = append(b, ' ')
	b = append(append(b, r.Reason...), "\r\n"...)
	dated := r.Status < 200
	for i := range r.Fields {
		f := &r.Fields[i]
		switch f.Kind {
		case http1.Plain, http1.Host, http1.Expect:
			if r.Named(f.Name) {
				continue
			}
			dated = dated || (len(f.Name) == len("Date") && bytes.EqualFold(f.Name, []byte("Date")))
		case http1.Trailer:
			if !coding {
				continue
			}
		case http1.ContentLength:
			// Of an answer without a body it says how long that would be, but for those that
			// never have one (RFC 9110, section 8.6).
			if r.Status < 200 || r.Status == http.StatusNoContent {
				continue
			}
		default:
			continue
		}
		b = http1.AppendField(b, f.Name, f.Value)
	}
	if !dated {
		// Who passes an answer on says when it came, if nobody has (RFC 9110, section 6.6.1).
		b = append(b, "Date: "...)
		b = append(time.Now().UTC().AppendFormat(b, http.TimeFormat), "\r\n"...)
	}
	if coding {
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	switch end {
	case stays:
	case staysOld:
		b = append(b, "Connection: keep-alive\r\n"...)
	case closes:
		b = append(b, "Connection: close\r\n"...)
	}
	return append(b, "\r\n"...)
}

// appendTrailers appends a trailer section with the fields that may pass: those with
// a place there (RFC 9110, section 6.5.1) that the edge does not own, since an upstream
// may merge trailers into headers.
func appendTrailers(b []byte, fields []http1.Field) []byte {
	for i := range fields {
		if f := &fields[i]; passesAsTrailer(f) {
			b = http1.AppendField(b, f.Name, f.Value)
		}
	}
	return append(b, "\r\n"...)
}

func passesAsTrailer(f *http1.Field) bool {
	return f.Kind == http1.Plain && !endpoint.IsOwned(f.Name) && httpguts.ValidTrailerHeader(http.CanonicalHeaderKey(string(f.Name)))
}

// passesInAnswer reports whether a field passes of an answer to a visitor of HTTP/2 or
// HTTP/3.
func passesInAnswer(r *http1.Response, f *http1.Field) bool {
	switch f.Kind {
	case http1.Plain, http1.Host, http1.Expect, http1.Trailer:
		return !r.Named(f.Name)
	case http1.ContentLength:
		return r.Status >= 200 && r.Status != http.StatusNoContent
	default:
		return false
	}
}
