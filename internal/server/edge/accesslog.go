package edge

import (
	"context"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"
)

// AccessLog says where to write a line for each request, at its end. The zero value writes
// none, but to Config.Logger when that is for debugging.
type AccessLog struct {
	Attributes *slog.Logger // nil: none of this form
	Combined   io.Writer    // of lines in the combined format of Apache and nginx; nil: none
	// Query keeps the queries of targets and referrers, which may hold secrets.
	Query bool
}

// described reports whether the lines hold what a visitor says of himself.
func (a *AccessLog) described() bool { return a.Attributes != nil || a.Combined != nil }

func (e *Edge) log(ctx context.Context, x *exchange) {
	access := &e.cfg.Access
	log, level := access.Attributes, slog.LevelInfo
	if log == nil {
		log, level = e.cfg.Logger, slog.LevelDebug
	}
	if log.Enabled(ctx, level) {
		log.LogAttrs(ctx, level, "request served", x.attributes(access.Query)...)
	}
	if access.Combined != nil {
		_, _ = access.Combined.Write(appendCombined(nil, x, access.Query)) // nobody is to suffer from a full disk
	}
}

// attributes describe an exchange that has ended. Durations are in milliseconds: until
// there was a stream to the agent, from there to the head of the answer, and of all.
func (x *exchange) attributes(query bool) []slog.Attr {
	attrs := []slog.Attr{
		slog.String("request_id", x.visitor.ID), slog.String("remote", x.visitor.Remote.String()),
		slog.String("proto", x.proto), slog.String("method", x.method), slog.String("host", x.host), slog.String("target", withQuery(x.target, query)),
		slog.Int("status", x.status), slog.Int64("bytes_in", x.bytesIn), slog.Int64("bytes_out", x.bytesOut),
		milliseconds("duration_ms", time.Since(x.began)),
	}
	if !x.sent.IsZero() {
		attrs = append(attrs, milliseconds("queue_ms", x.sent.Sub(x.began)))
	}
	if !x.answered.IsZero() {
		attrs = append(attrs, milliseconds("upstream_ms", x.answered.Sub(x.sent)))
	}
	if x.route != nil {
		attrs = append(attrs, slog.String("endpoint", x.route.ID), slog.String("name", x.route.Name.String()), slog.String("session", x.route.Owner.SessionID))
	}
	if x.code != "" {
		attrs = append(attrs, slog.String("code", string(x.code)))
	}
	if x.userAgent != "" {
		attrs = append(attrs, slog.String("user_agent", x.userAgent))
	}
	if x.referer != "" {
		attrs = append(attrs, slog.String("referer", withQuery(x.referer, query)))
	}
	if x.err != nil {
		attrs = append(attrs, slog.Any("error", x.err))
	}
	return attrs
}

func milliseconds(key string, d time.Duration) slog.Attr {
	return slog.Float64(key, float64(max(d, 0).Microseconds())/1000)
}

// withQuery is a URL with its query, or without.
func withQuery(url string, query bool) string {
	if query {
		return url
	}
	url, _, _ = strings.Cut(url, "?")
	return url
}

// appendCombined appends a line as Apache and nginx write it by default.
func appendCombined(b []byte, x *exchange, query bool) []byte {
	b = append(x.visitor.Remote.Addr().AppendTo(b), " - - ["...)
	b = append(x.began.AppendFormat(b, "02/Jan/2006:15:04:05 -0700"), `] "`...)
	b = appendQuotable(b, x.method)
	b = append(b, ' ')
	b = appendQuotable(b, withQuery(x.target, query))
	b = append(b, ' ')
	b = append(append(b, x.proto...), `" `...)
	b = append(strconv.AppendInt(b, int64(x.status), 10), ' ')
	b = append(strconv.AppendInt(b, x.bytesOut, 10), ` "`...)
	b = append(appendOrDash(b, withQuery(x.referer, query)), `" "`...)
	return append(appendOrDash(b, x.userAgent), "\"\n"...)
}

func appendOrDash(b []byte, s string) []byte {
	if s == "" {
		return append(b, '-')
	}
	return appendQuotable(b, s)
}

// appendQuotable appends s so that it stays within its quotes and its line.
func appendQuotable(b []byte, s string) []byte {
	const digits = "0123456789abcdef"
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			b = append(b, '\\', 'x', digits[c>>4], digits[c&15])
		} else {
			b = append(b, c)
		}
	}
	return b
}

// maxRequestID is the longest X-Request-Id that is kept.
const maxRequestID = 128

// isRequestID reports whether a visitor's X-Request-Id may name his request: in logs, in
// headers, and on pages.
func isRequestID[T string | []byte](id T) bool {
	if len(id) == 0 || len(id) > maxRequestID {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("-_.:+/=@", rune(c)) {
			return false
		}
	}
	return true
}
