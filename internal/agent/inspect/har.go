package inspect

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// The types of an HTTP archive, HAR 1.2, as browsers' developer tools import it.
type (
	HAR struct {
		Log HARLog `json:"log"`
	}
	HARLog struct {
		Version string     `json:"version"`
		Creator HARCreator `json:"creator"`
		Entries []HAREntry `json:"entries"`
	}
	HARCreator struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	HAREntry struct {
		Started      string         `json:"startedDateTime"`
		Time         float64        `json:"time"`
		Request      HARRequest     `json:"request"`
		Response     HARResponse    `json:"response"`
		Cache        struct{}       `json:"cache"`
		Timings      HARTimings     `json:"timings"`
		Comment      string         `json:"comment,omitempty"`
		ResourceType string         `json:"_resourceType,omitempty"`
		WebSocket    []HARWebSocket `json:"_webSocketMessages,omitempty"`
	}
	HARRequest struct {
		Method      string       `json:"method"`
		URL         string       `json:"url"`
		HTTPVersion string       `json:"httpVersion"`
		Cookies     []HARPair    `json:"cookies"`
		Headers     []HARPair    `json:"headers"`
		Query       []HARPair    `json:"queryString"`
		PostData    *HARPostData `json:"postData,omitempty"`
		HeadersSize int          `json:"headersSize"`
		BodySize    int64        `json:"bodySize"`
	}
	HARResponse struct {
		Status      int        `json:"status"`
		StatusText  string     `json:"statusText"`
		HTTPVersion string     `json:"httpVersion"`
		Cookies     []HARPair  `json:"cookies"`
		Headers     []HARPair  `json:"headers"`
		Content     HARContent `json:"content"`
		RedirectURL string     `json:"redirectURL"`
		HeadersSize int        `json:"headersSize"`
		BodySize    int64      `json:"bodySize"`
	}
	HARPair struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	HARPostData struct {
		MimeType string `json:"mimeType"`
		Text     string `json:"text"`
		Encoding string `json:"encoding,omitempty"` // base64, as Chromium writes it
		Comment  string `json:"comment,omitempty"`
	}
	HARContent struct {
		Size     int    `json:"size"`
		MimeType string `json:"mimeType"`
		Text     string `json:"text,omitempty"`
		Encoding string `json:"encoding,omitempty"`
		Comment  string `json:"comment,omitempty"`
	}
	HARTimings struct {
		Send    float64 `json:"send"`
		Wait    float64 `json:"wait"`
		Receive float64 `json:"receive"`
	}
	HARWebSocket struct {
		Type   string  `json:"type"` // send or receive, as a browser sees it
		Time   float64 `json:"time"` // seconds since 1970
		Opcode int     `json:"opcode"`
		Data   string  `json:"data"`
	}
)

// Archive makes a HAR of exchanges. Without secrets, credentials are hidden in it.
func Archive(list []Exchange, version string, secrets bool) HAR {
	entries := make([]HAREntry, 0, len(list))
	for i := range list {
		entries = append(entries, list[i].har(secrets))
	}
	return HAR{Log: HARLog{Version: "1.2", Creator: HARCreator{Name: "Culvert", Version: version}, Entries: entries}}
}

func (x *Exchange) har(secrets bool) HAREntry {
	v := viewer{secrets: secrets}
	e := HAREntry{Started: x.Start.UTC().Format(time.RFC3339Nano)}
	e.Timings, e.Time = x.harTimings()
	version := strings.Replace(x.Protocol, "HTTP/2.0", "h2", 1)
	fields := pairs(v.fields(fieldsOf(x.Request.Head)))
	e.Request = HARRequest{
		Method: text(x.Method), URL: text(v.target(x.URL())), HTTPVersion: version, Headers: fields, Cookies: cookies(fields, "cookie"),
		Query: query(v.target(x.Target)), HeadersSize: len(x.Request.Head), BodySize: x.Request.Size,
	}
	if len(x.Request.Body) > 0 {
		content := x.harContent(&v, &x.Request)
		e.Request.PostData = &HARPostData{MimeType: content.MimeType, Text: content.Text, Encoding: content.Encoding, Comment: content.Comment}
	}
	fields = pairs(v.fields(fieldsOf(x.Response.Head)))
	e.Response = HARResponse{
		Status: x.Status, StatusText: http.StatusText(x.Status), HTTPVersion: version, Headers: fields,
		Cookies: cookies(fields, "set-cookie"), Content: x.harContent(&v, &x.Response), HeadersSize: len(x.Response.Head), BodySize: x.Response.Size,
	}
	for _, f := range fields {
		if strings.EqualFold(f.Name, "location") {
			e.Response.RedirectURL = f.Value
		}
	}
	if x.State == Failed {
		e.Comment = "the connection ended before the answer did"
	}
	e.ResourceType = x.resourceType()
	if x.Kind == KindWebSocket {
		for i := range x.Frames {
			e.WebSocket = append(e.WebSocket, harFrame(&v, x, &x.Frames[i]))
		}
	}
	return e
}

// resourceType is what developer tools go by when they filter: what it was asked for, as
// far as the answer tells. Without one, Chromium guesses, and takes a webhook for a script.
func (x *Exchange) resourceType() string {
	kind, _, _ := strings.Cut(x.Response.ContentType, ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	family, sub, _ := strings.Cut(kind, "/")
	switch {
	case x.Kind == KindWebSocket:
		return "websocket"
	case kind == "text/event-stream":
		return "eventsource"
	case kind == "text/html" || kind == "application/xhtml+xml":
		return "document"
	case kind == "text/css":
		return "stylesheet"
	case strings.HasSuffix(sub, "javascript"):
		return "script"
	case family == "image" || family == "font":
		return family
	case family == "audio" || family == "video":
		return "media"
	}
	return "fetch"
}

func (x *Exchange) harTimings() (t HARTimings, total float64) {
	sent, first, end := x.RequestEnd, x.FirstByte, x.End
	if end.IsZero() {
		end = time.Now()
	}
	if first.IsZero() {
		first = end
	}
	if sent.IsZero() || sent.After(first) { // an answer may come before the request has ended
		sent = first
	}
	t = HARTimings{Send: milliseconds(sent.Sub(x.Start)), Wait: milliseconds(first.Sub(sent)), Receive: milliseconds(end.Sub(first))}
	return t, t.Send + t.Wait + t.Receive
}

func (x *Exchange) harContent(v *viewer, m *Message) HARContent {
	b, isText, _ := v.content(m)
	c := HARContent{Size: len(b), MimeType: text(m.ContentType)}
	if m.Cut {
		c.Comment = "cut: the body is longer than what was kept of it"
	}
	if isText {
		c.Text = text(string(b))
		return c
	}
	c.Text, c.Encoding = base64.StdEncoding.EncodeToString(b), "base64"
	return c
}

var opcodes = map[string]int{"text": 1, "binary": 2, "close": 8, "ping": 9, "pong": 10}

func harFrame(v *viewer, x *Exchange, f *Frame) HARWebSocket {
	shown := v.frame(x, f)
	w := HARWebSocket{Type: "send", Time: float64(f.At.UnixMicro()) / 1e6, Opcode: opcodes[f.Type], Data: shown.Text + shown.Base64}
	if f.ToVisitor {
		w.Type = "receive"
	}
	return w
}

func pairs(fields [][2]string) []HARPair {
	list := make([]HARPair, 0, len(fields))
	for _, f := range fields {
		list = append(list, HARPair{f[0], f[1]})
	}
	return list
}

// cookies returns those of a field, as far as archives need them: name and value.
func cookies(fields []HARPair, name string) []HARPair {
	list := []HARPair{}
	for _, f := range fields {
		if !strings.EqualFold(f.Name, name) {
			continue
		}
		for i, c := range strings.Split(f.Value, ";") {
			if name == "set-cookie" && i > 0 {
				break // attributes
			}
			key, value, _ := strings.Cut(strings.TrimSpace(c), "=")
			list = append(list, HARPair{key, value})
		}
	}
	return list
}

func query(target string) []HARPair {
	list := []HARPair{}
	_, q, _ := strings.Cut(target, "?")
	for pair := range strings.SplitSeq(q, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		if u, err := url.QueryUnescape(name); err == nil {
			name = u
		}
		if u, err := url.QueryUnescape(value); err == nil {
			value = u
		}
		list = append(list, HARPair{text(name), text(value)})
	}
	return list
}
