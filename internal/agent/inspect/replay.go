package inspect

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Errors of replays.
var (
	ErrNotFound = errors.New("this request is not kept any more")
	ErrCut      = errors.New("its body was not kept whole, so it can't be sent again")
	ErrUpgrade  = errors.New("a WebSocket can't be sent again: what the visitor said depended on the answers")
	ErrOpen     = errors.New("it is still being sent")
	ErrEdit     = errors.New("the edit can't be sent")
	ErrBusy     = errors.New("too many replays are under way")
)

// Limits of replays.
const (
	maxReplays    = 16
	replayTimeout = 60 * time.Second
)

// repeatable is nil if the request of x can be sent again.
func (x *Exchange) repeatable() error {
	switch {
	case x.Kind == KindWebSocket:
		return ErrUpgrade
	case x.Request.Cut || x.Gap && x.Request.Size > int64(len(x.Request.Body)):
		return ErrCut
	case x.RequestEnd.IsZero():
		return ErrOpen
	}
	return nil
}

// Edit is what a repetition changes; nil fields are left as they were. A header whose
// value is Hidden, or was shown with something hidden, keeps its value.
type Edit struct {
	Method  *string      `json:"method,omitempty"`
	Path    *string      `json:"path,omitempty"` // with the query
	Headers *[][2]string `json:"headers,omitempty"`
	Body    *string      `json:"body,omitempty"`
	Base64  *[]byte      `json:"body_base64,omitempty"`
}

// Dial connects to an endpoint's upstream, which speaks HTTP/2 if h2 is set.
type Dial func(ctx context.Context, endpoint string) (conn net.Conn, h2 bool, err error)

// replay is a repetition under way.
type replay struct {
	of     uint64
	edited bool
	once   sync.Once
	id     chan uint64
}

func (r *replay) made(id uint64) { r.once.Do(func() { r.id <- id }) }
func (r *replay) over()          { r.once.Do(func() { close(r.id) }) }

// Replay sends the request of an exchange to its upstream again, changed by edit, and
// returns the id of the new exchange as soon as there is one. The answer is for whoever
// looks at that.
func (in *Inspector) Replay(ctx context.Context, dial Dial, id uint64, edit *Edit) (uint64, error) {
	x, ok := in.Find(id)
	if !ok {
		return 0, ErrNotFound
	}
	out, err := x.repeat(edit)
	if err != nil {
		return 0, err
	}
	conn, h2, err := dial(ctx, x.Endpoint)
	if err != nil {
		return 0, err
	}
	_ = conn.SetDeadline(time.Now().Add(replayTimeout))
	if !in.enter(conn) {
		_ = conn.Close()
		return 0, ErrBusy
	}
	r := &replay{of: id, edited: edit != nil, id: make(chan uint64, 1)}
	t := in.watch(x.Endpoint, "", conn, r)
	go func() {
		defer in.leave(conn)
		defer t.Close() //nolint:errcheck // over
		// What goes wrong shows in the exchange.
		if h2 {
			_ = out.sendHTTP2(t)
		} else {
			_ = out.send(t)
		}
	}()
	select {
	case newID, ok := <-r.id:
		if !ok {
			return 0, fmt.Errorf("%w: the upstream closed the connection at once", ErrEdit)
		}
		return newID, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// enter counts a replay under way, unless there are too many or Run is over.
func (in *Inspector) enter(conn net.Conn) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.mu.stopped || len(in.mu.replaying) >= maxReplays {
		return false
	}
	in.mu.replaying[conn] = struct{}{}
	in.replays.Add(1)
	return true
}

func (in *Inspector) leave(conn net.Conn) {
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.mu.replaying, conn)
	in.replays.Done()
}

// stopReplays ends those under way.
func (in *Inspector) stopReplays() {
	in.mu.Lock()
	in.mu.stopped = true
	for conn := range in.mu.replaying {
		_ = conn.SetDeadline(time.Unix(1, 0))
	}
	in.mu.Unlock()
	in.replays.Wait()
}

// outgoing is a request to send.
type outgoing struct {
	method, target, host string
	fields               []Field
	body                 []byte
}

// repeat makes a request like that of x, changed by edit.
func (x *Exchange) repeat(edit *Edit) (*outgoing, error) {
	if edit == nil {
		edit = new(Edit)
	}
	bodyGiven := edit.Body != nil || edit.Base64 != nil
	if err := x.repeatable(); err != nil && (!bodyGiven || !errors.Is(err, ErrCut)) {
		return nil, err
	}
	o := &outgoing{method: x.Method, target: x.Target, host: x.Host, body: x.Request.Body}
	if edit.Method != nil {
		o.method = *edit.Method
	}
	if edit.Path != nil && *edit.Path != RedactTarget(x.Target) {
		o.target = *edit.Path
	}
	var fields []Field
	eachField(fieldsOf(x.Request.Head), func(name, value string) {
		fields = append(fields, Field{name, value})
	})
	if edit.Headers != nil {
		fields = merge(*edit.Headers, fields)
	}
	recode := false
	switch {
	case edit.Base64 != nil:
		o.body, recode = *edit.Base64, true
	case edit.Body != nil && strings.Contains(*edit.Body, Hidden), edit.Path != nil && strings.Contains(o.target, Hidden):
		return nil, fmt.Errorf("%w: it still holds a hidden credential; have credentials shown, and edit then", ErrEdit)
	case edit.Body != nil:
		// The text was shown decoded.
		v := viewer{secrets: true}
		shown, _, _ := v.content(&x.Request)
		if *edit.Body != string(shown) {
			o.body, recode = []byte(*edit.Body), true
		}
	}
	for _, f := range fields {
		switch lower := strings.ToLower(f.Name); {
		case byHop[lower], recode && lower == "content-encoding":
		case lower == "host":
			o.host = f.Value
		default:
			o.fields = append(o.fields, f)
		}
	}
	return o, o.check()
}

// merge takes an edited list of fields. Where a value is what was shown in place of a
// hidden one, the original stays.
func merge(edited [][2]string, original []Field) []Field {
	var fields []Field
	for _, e := range edited {
		f := Field{e[0], e[1]}
		for _, o := range original {
			if strings.EqualFold(o.Name, f.Name) && o.Redact().Value == f.Value {
				f.Value = o.Value
				break
			}
		}
		fields = append(fields, f)
	}
	return fields
}

// check refuses what would be read as something else than one request.
func (o *outgoing) check() error {
	for i := range len(o.method) {
		if !isToken(o.method[i]) {
			return fmt.Errorf("%w: the method is not a word", ErrEdit)
		}
	}
	if o.method == "" || o.method == http.MethodConnect {
		return fmt.Errorf("%w: there is no such method here", ErrEdit)
	}
	if o.target == "" || strings.ContainsFunc(o.target, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return fmt.Errorf("%w: the path must not hold spaces or control characters", ErrEdit)
	}
	if o.target[0] != '/' && o.target != "*" && !strings.Contains(o.target, "://") {
		return fmt.Errorf("%w: the path begins with /", ErrEdit)
	}
	for _, f := range append([]Field{{"Host", o.host}}, o.fields...) {
		bad := f.Name == "" || strings.ContainsAny(f.Value, "\r\n\x00")
		for i := range len(f.Name) {
			bad = bad || !isToken(f.Name[i])
		}
		if bad {
			return fmt.Errorf("%w: header %q", ErrEdit, f.Name)
		}
	}
	return nil
}

// send sends the request as HTTP/1.1, with its fields as they were, and reads the
// answer.
func (o *outgoing) send(c net.Conn) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", o.method, o.target, o.host)
	for _, f := range o.fields {
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	if len(o.body) > 0 || o.method == http.MethodPost || o.method == http.MethodPut || o.method == http.MethodPatch {
		b.WriteString("Content-Length: " + strconv.Itoa(len(o.body)) + "\r\n")
	}
	b.WriteString("Connection: close\r\n\r\n")
	b.Write(o.body)
	if _, err := c.Write(b.Bytes()); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: o.method})
	if err != nil {
		return err
	}
	defer res.Body.Close() //nolint:errcheck // read to its end
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

// sendHTTP2 sends the request as HTTP/2.
func (o *outgoing) sendHTTP2(c net.Conn) error {
	// What lies below c, if anything, is TLS already.
	tr := &http.Transport{
		Protocols: new(http.Protocols), DisableCompression: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil },
	}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	at, err := url.ParseRequestURI(o.target)
	if err != nil {
		return err
	}
	at.Scheme, at.Host = "http", o.host
	req := &http.Request{
		Method: o.method, URL: at, Host: o.host, Header: make(http.Header),
		Body: io.NopCloser(bytes.NewReader(o.body)), ContentLength: int64(len(o.body)),
	}
	for _, f := range o.fields {
		req.Header[http.CanonicalHeaderKey(f.Name)] = append(req.Header[http.CanonicalHeaderKey(f.Name)], f.Value)
	}
	for _, f := range o.fields { // gRPC servers insist on it
		if strings.EqualFold(f.Name, "content-type") && strings.HasPrefix(f.Value, "application/grpc") {
			req.Header.Set("Te", "trailers")
		}
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close() //nolint:errcheck // read to its end
	_, err = io.Copy(io.Discard, res.Body)
	return err
}
