package inspect

import (
	"bytes"
	"encoding/base64"
	"io"
	"mime"
	"mime/multipart"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Summary is an exchange as lists show it, without credentials.
type Summary struct {
	ID           string  `json:"id"`
	Endpoint     string  `json:"endpoint"`
	Visitor      string  `json:"visitor,omitempty"`
	ReplayOf     string  `json:"replay_of,omitempty"`
	Edited       bool    `json:"edited,omitempty"`
	Kind         Kind    `json:"kind"`
	State        State   `json:"state"`
	Protocol     string  `json:"protocol"`
	Method       string  `json:"method"`
	Host         string  `json:"host,omitempty"`
	Path         string  `json:"path"` // with the query
	Status       int     `json:"status,omitempty"`
	Start        string  `json:"start"`       // RFC 3339
	Duration     float64 `json:"duration_ms"` // so far
	RequestSize  int64   `json:"request_size"`
	ResponseSize int64   `json:"response_size"`
	ContentType  string  `json:"content_type,omitempty"` // of the answer
	Frames       int     `json:"frames,omitempty"`
	Gap          bool    `json:"gap,omitempty"`       // not all of it was captured
	Unreached    string  `json:"unreached,omitempty"` // why the upstream could not be dialled
}

// Detail is an exchange as it is shown alone.
type Detail struct {
	Summary
	URL           string      `json:"url"`
	Timing        Timing      `json:"timing"`
	Interim       []int       `json:"interim,omitempty"` // 1xx
	Request       MessageView `json:"request"`
	Response      MessageView `json:"response"`
	Messages      []FrameView `json:"messages,omitempty"` // of a WebSocket, event stream or gRPC; the newest
	MessagesLost  int         `json:"messages_dropped,omitempty"`
	Redacted      bool        `json:"redacted"` // credentials were hidden in it
	Repeatable    bool        `json:"repeatable"`
	NotRepeatable string      `json:"not_repeatable,omitempty"` // why
}

// Timing is milliseconds since the first byte of the request; absent: not yet.
type Timing struct {
	RequestEnd *float64 `json:"request_end,omitempty"`
	FirstByte  *float64 `json:"first_byte,omitempty"`
	End        *float64 `json:"end,omitempty"`
}

// MessageView is a request or an answer.
type MessageView struct {
	Line     string      `json:"line"` // the first line of its head
	Headers  [][2]string `json:"headers"`
	Trailers [][2]string `json:"trailers,omitempty"`
	Body     BodyView    `json:"body"`
}

// BodyView is a body, decoded and without chunks' framing. One of Text and Base64 is
// set if there is any.
type BodyView struct {
	Size        int64      `json:"size"` // on the wire
	ContentType string     `json:"content_type,omitempty"`
	Encoding    string     `json:"encoding,omitempty"` // that was undone
	Cut         bool       `json:"cut,omitempty"`      // the end is missing
	Error       string     `json:"error,omitempty"`    // of decoding
	Text        string     `json:"text,omitempty"`
	Base64      string     `json:"base64,omitempty"`
	Form        []PartView `json:"form,omitempty"` // of a form: its fields
}

// PartView is one field of a form.
type PartView struct {
	Name        string `json:"name"`
	Value       string `json:"value,omitempty"`
	Base64      string `json:"base64,omitempty"`
	FileName    string `json:"filename,omitempty"`
	ContentType string `json:"content_type,omitempty"`
	Size        int    `json:"size"`
}

// FrameView is a Frame.
type FrameView struct {
	At         float64 `json:"at"` // milliseconds since the request
	ToVisitor  bool    `json:"to_visitor"`
	Type       string  `json:"type"`
	Event      string  `json:"event,omitempty"`
	ID         string  `json:"id,omitempty"`
	Size       int64   `json:"size"`
	Text       string  `json:"text,omitempty"`
	Base64     string  `json:"base64,omitempty"`
	Cut        bool    `json:"cut,omitempty"`
	Compressed bool    `json:"compressed,omitempty"`
	Opaque     bool    `json:"opaque,omitempty"` // compressed, and shown as it was on the wire
}

func idString(id uint64) string {
	if id == 0 {
		return ""
	}
	return strconv.FormatUint(id, 10)
}

// text makes a string of bytes that should be text, for JSON.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// Summary returns x as lists show it.
func (x *Exchange) Summary() Summary {
	end := x.End
	if end.IsZero() {
		end = time.Now()
	}
	return Summary{
		ID: idString(x.ID), Endpoint: x.Endpoint, Visitor: text(x.Visitor), ReplayOf: idString(x.ReplayOf), Edited: x.Edited,
		Kind: x.Kind, State: x.State, Protocol: text(x.Protocol), Method: text(x.Method), Host: text(x.Host),
		Path: text(RedactTarget(x.Target)), Status: x.Status, Start: x.Start.UTC().Format(time.RFC3339Nano),
		Duration: milliseconds(end.Sub(x.Start)), RequestSize: x.Request.Size, ResponseSize: x.Response.Size,
		ContentType: text(x.Response.ContentType), Frames: x.FramesTotal, Gap: x.Gap, Unreached: text(x.Unreached),
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// View returns all of x. Without secrets, credentials are hidden.
func (x *Exchange) View(secrets bool) Detail {
	v := viewer{secrets: secrets}
	d := Detail{Summary: x.Summary(), Interim: x.Interim, MessagesLost: x.FramesDropped}
	if secrets {
		d.Path = text(x.Target)
	} else if d.Path != text(x.Target) {
		v.hid = true
	}
	d.URL = text(v.target(x.URL()))
	after := func(t time.Time) *float64 {
		if t.IsZero() {
			return nil
		}
		ms := milliseconds(t.Sub(x.Start))
		return &ms
	}
	d.Timing = Timing{RequestEnd: after(x.RequestEnd), FirstByte: after(x.FirstByte), End: after(x.End)}
	d.Request, d.Response = v.message(&x.Request), v.message(&x.Response)
	for i := range x.Frames {
		d.Messages = append(d.Messages, v.frame(x, &x.Frames[i]))
	}
	d.Redacted = v.hid
	err := x.repeatable()
	if d.Repeatable = err == nil; err != nil {
		d.NotRepeatable = err.Error()
	}
	return d
}

// URL is the public one, as far as the request says.
func (x *Exchange) URL() string {
	if strings.Contains(x.Target, "://") {
		return x.Target
	}
	_, fields := cutLine(x.Request.Head)
	scheme, host := "https", x.Host
	eachField(fields, func(name, value string) {
		switch strings.ToLower(name) {
		case "x-forwarded-proto":
			if s := value; s == "http" || s == "https" {
				scheme = s
			}
		case "x-forwarded-host":
			host = value
		}
	})
	return scheme + "://" + host + x.Target
}

// viewer shows messages, and notes whether it hid something.
type viewer struct {
	secrets bool
	hid     bool
}

func (v *viewer) target(s string) string {
	if v.secrets {
		return s
	}
	r := RedactTarget(s)
	v.hid = v.hid || r != s
	return r
}

func (v *viewer) message(m *Message) MessageView {
	line, fields := cutLine(m.Head)
	words := strings.SplitN(line, " ", 3)
	if len(words) == 3 {
		words[1] = v.target(words[1])
	}
	return MessageView{
		Line: text(strings.Join(words, " ")), Headers: v.fields(fields), Trailers: v.fields(m.Trailer), Body: v.body(m),
	}
}

func (v *viewer) fields(raw string) [][2]string {
	list := [][2]string{}
	eachField(raw, func(name, value string) {
		f := Field{Name: name, Value: value}
		if !v.secrets {
			r := f.Redact()
			v.hid = v.hid || r != f
			f = r
		}
		list = append(list, [2]string{text(f.Name), text(f.Value)})
	})
	return list
}

// content returns a body decoded and, as asked, without credentials.
func (v *viewer) content(m *Message) (b []byte, isText bool, err error) {
	b, err = decode(m.Body, m.Encoding)
	isText = looksLikeText(b)
	if form, _, _ := strings.Cut(strings.ToLower(m.ContentType), ";"); !v.secrets && (isText || strings.HasPrefix(form, "multipart/")) {
		r, hid := redactBody(b, m.ContentType)
		b, v.hid = r, v.hid || hid
	}
	return b, isText, err
}

func (v *viewer) body(m *Message) BodyView {
	b, isText, err := v.content(m)
	body := BodyView{Size: m.Size, ContentType: text(m.ContentType), Encoding: text(m.Encoding), Cut: m.Cut}
	if err != nil && !m.Cut { // what is cut can't be decoded to its end
		body.Error = text(err.Error())
	}
	body.Form = form(b, m.ContentType)
	if isText {
		body.Text = text(string(b))
	} else {
		body.Base64 = base64.StdEncoding.EncodeToString(b)
	}
	return body
}

func (v *viewer) frame(x *Exchange, f *Frame) FrameView {
	out := FrameView{
		At: milliseconds(f.At.Sub(x.Start)), ToVisitor: f.ToVisitor, Type: f.Type, Event: text(f.Event), ID: text(f.ID),
		Size: f.Size, Cut: f.Cut, Compressed: f.Compressed, Opaque: f.Opaque,
	}
	if f.Opaque || !looksLikeText(f.Data) {
		out.Base64 = base64.StdEncoding.EncodeToString(f.Data)
		return out
	}
	b := f.Data
	if !v.secrets {
		var hid bool
		b, hid = redactBody(b, "")
		v.hid = v.hid || hid
	}
	out.Text = text(string(b))
	return out
}

// looksLikeText reports whether bytes are UTF-8 without control characters, but for
// a character at the end that may have been cut.
func looksLikeText(b []byte) bool {
	for i := 0; i < len(b); {
		c := b[i]
		if c < 0x20 && c != '\n' && c != '\r' && c != '\t' && c != '\f' && c != 0x1b || c == 0x7f {
			return false
		}
		if c < utf8.RuneSelf {
			i++
			continue
		}
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return len(b)-i < utf8.UTFMax && !utf8.FullRune(b[i:])
		}
		i += n
	}
	return true
}

// maxParts of a form that are shown.
const maxParts = 200

// form returns the fields of a form, nil if the body is none.
func form(b []byte, contentType string) []PartView {
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil || len(b) == 0 {
		return nil
	}
	var parts []PartView
	switch media {
	case "application/x-www-form-urlencoded":
		for pair := range strings.SplitSeq(strings.TrimSpace(string(b)), "&") {
			name, value, _ := strings.Cut(pair, "=")
			if len(parts) == maxParts {
				break
			}
			parts = append(parts, PartView{Name: unescape(name), Value: unescape(value), Size: len(value)})
		}
	case "multipart/form-data":
		r := multipart.NewReader(bytes.NewReader(b), params["boundary"])
		for len(parts) < maxParts {
			p, err := r.NextRawPart()
			if err != nil {
				break
			}
			value, _ := io.ReadAll(p)
			part := PartView{
				Name: text(p.FormName()), FileName: text(p.FileName()), ContentType: text(p.Header.Get("Content-Type")), Size: len(value),
			}
			if looksLikeText(value) {
				part.Value = text(string(value))
			} else {
				part.Base64 = base64.StdEncoding.EncodeToString(value)
			}
			parts = append(parts, part)
		}
	}
	return parts
}

func unescape(s string) string {
	if u, err := url.QueryUnescape(s); err == nil {
		s = u
	}
	return text(s)
}

// Content returns the body, decoded, as far as it was kept. Without secrets,
// credentials are hidden in it.
func (m *Message) Content(secrets bool) []byte {
	v := viewer{secrets: secrets}
	b, _, _ := v.content(m)
	return b
}
