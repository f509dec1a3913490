package http2

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
)

// Writer lets handlers of net/http answer a stream. The first part of an answer waits for
// what follows, so that a short one has a length.
type Writer struct {
	s      *Stream
	header http.Header

	mu       sync.Mutex // a 100 and the answer come from different goroutines
	status   int        // 0: none yet
	begun    bool       // the head is sent
	bodiless bool
	pending  []byte // of the body
	over     bool
}

// pendingLimit is how much of an answer waits for its head, whose length it may give.
const pendingLimit = 4 << 10

// Serve lets h answer the stream. An h that panics with http.ErrAbortHandler breaks the
// answer off; another panic does too, and is returned.
func (s *Stream) Serve(h http.HandlerFunc, r *http.Request) (failure any) {
	w := &Writer{s: s, header: make(http.Header)}
	if b, ok := r.Body.(*requestBody); ok {
		b.w = w
	}
	defer func() {
		if failure = recover(); failure != nil {
			s.Reset(http2.ErrCodeInternal)
		} else {
			w.finish()
		}
		if failure == http.ErrAbortHandler { //nolint:errorlint // the very same, as net/http compares it
			failure = nil
		}
	}()
	h(w, r)
	return nil
}

// NetHTTP is the request as net/http has it; its Body is good for Serve alone.
func (s *Stream) NetHTTP(remote, serverName string) *http.Request {
	req := &s.Request
	r := &http.Request{
		Method: string(req.Method), Proto: "HTTP/2.0", ProtoMajor: 2, Host: string(req.Host), RequestURI: string(req.Target),
		RemoteAddr: remote, Header: make(http.Header, len(req.Fields)), ContentLength: req.Length, Body: http.NoBody,
		TLS: &tls.ConnectionState{HandshakeComplete: true, ServerName: serverName},
	}
	if s.Fault != nil {
		r.ContentLength = 0
	} else {
		for i := range req.Fields {
			if f := &req.Fields[i]; f.Kind != http1.Host {
				name := http.CanonicalHeaderKey(string(f.Name))
				r.Header[name] = append(r.Header[name], string(f.Value))
			}
		}
	}
	if r.ContentLength != 0 {
		body := &requestBody{s: s, expects: req.Expect, trailer: make(http.Header)}
		for name := range strings.SplitSeq(strings.Join(r.Header["Trailer"], ","), ",") {
			if name = strings.TrimSpace(name); name != "" {
				body.trailer[http.CanonicalHeaderKey(name)] = nil
			}
		}
		delete(r.Header, "Trailer")
		r.Body, r.Trailer = body, body.trailer
	}
	var err error
	if r.URL, err = url.ParseRequestURI(r.RequestURI); err != nil {
		r.URL = &url.URL{Path: "/"}
	}
	return r.WithContext(s.ctx)
}

// Header implements http.ResponseWriter.
func (w *Writer) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *Writer) WriteHeader(status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status != 0 {
		return
	}
	if status < 200 {
		_ = w.s.WriteHead(status, w.fields(), false)
		_ = w.s.Flush()
		return
	}
	w.status = status
	w.bodiless = string(w.s.Request.Method) == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified
}

func (w *Writer) fields() []http1.Field {
	fields := make([]http1.Field, 0, len(w.header)+2)
	for name, values := range w.header {
		switch http1.KindOf([]byte(name)) {
		case http1.Connection, http1.TransferEncoding, http1.Upgrade, http1.HopByHop:
			continue
		default:
		}
		if strings.HasPrefix(name, http.TrailerPrefix) {
			continue
		}
		for _, value := range values {
			fields = append(fields, http1.Field{Name: []byte(name), Value: []byte(oneLine.Replace(value))})
		}
	}
	return fields
}

var oneLine = strings.NewReplacer("\r", " ", "\n", " ", "\x00", " ")

// beginLocked sends the head. length is that of the whole body; -1: not known.
func (w *Writer) beginLocked(length int, end bool) {
	w.begun = true
	if w.header.Get("Date") == "" {
		w.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	}
	if length >= 0 && !w.bodiless && w.header.Get("Content-Length") == "" {
		w.header.Set("Content-Length", strconv.Itoa(length))
	}
	w.over = end
	_ = w.s.WriteHead(w.status, w.fields(), end) // that it was not taken, the next write tells
}

// sendLocked sends what waits of the body.
func (w *Writer) sendLocked(end bool) error {
	w.over = end
	b := w.pending
	w.pending = w.pending[:0]
	if w.bodiless {
		b = nil
	}
	return w.s.Write(b, end)
}

// Write implements http.ResponseWriter.
func (w *Writer) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bodiless {
		return len(p), nil
	}
	if len(w.pending)+len(p) <= pendingLimit {
		w.pending = append(w.pending, p...)
		return len(p), nil
	}
	if !w.begun {
		w.beginLocked(-1, false)
	}
	if err := w.sendLocked(false); err != nil {
		return 0, err
	}
	if err := w.s.Write(p, false); err != nil {
		return 0, err
	}
	return len(p), nil
}

// FlushError is for http.ResponseController.
func (w *Writer) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.begun {
		w.beginLocked(-1, false)
	}
	if err := w.sendLocked(false); err != nil {
		return err
	}
	return w.s.Flush()
}

// Flush implements http.Flusher.
func (w *Writer) Flush() { _ = w.FlushError() }

// EnableFullDuplex is for http.ResponseController: it is always so.
func (w *Writer) EnableFullDuplex() error { return nil }

// SetReadDeadline is for http.ResponseController. Deadlines to come are the connection's
// to keep.
func (w *Writer) SetReadDeadline(t time.Time) error {
	if !t.IsZero() && !t.After(time.Now()) {
		w.s.ExpireRead()
	}
	return nil
}

// SetWriteDeadline is SetReadDeadline for what is sent.
func (w *Writer) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() && !t.After(time.Now()) {
		w.s.ExpireWrite()
	}
	return nil
}

// finish ends the answer.
func (w *Writer) finish() {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	trailer := w.trailer()
	none := len(trailer) == 0
	if !w.begun {
		length := len(w.pending)
		if !none {
			length = -1
		}
		w.beginLocked(length, none && (w.bodiless || len(w.pending) == 0))
	}
	if w.over {
		return
	}
	if err := w.sendLocked(none); err == nil && !none {
		_ = w.s.WriteTrailer(trailer)
	}
}

// trailer is what follows the body: what was announced, and what is named for it.
func (w *Writer) trailer() (fields []http1.Field) {
	add := func(name string, values []string) {
		for _, value := range values {
			fields = append(fields, http1.Field{Name: []byte(name), Value: []byte(oneLine.Replace(value))})
		}
	}
	for name, values := range w.header {
		if name, late := strings.CutPrefix(name, http.TrailerPrefix); late {
			add(name, values)
		}
	}
	if w.begun {
		for _, names := range w.header["Trailer"] {
			for name := range strings.SplitSeq(names, ",") {
				name = http.CanonicalHeaderKey(strings.TrimSpace(name))
				add(name, w.header[name])
			}
		}
	}
	return fields
}

// requestBody is a stream's body for a handler.
type requestBody struct {
	s       *Stream
	w       *Writer
	expects bool // a 100 before the first byte
	trailer http.Header
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	if b.expects {
		b.expects = false
		b.w.mu.Lock()
		if b.w.status == 0 {
			_ = b.s.WriteHead(http.StatusContinue, nil, false)
			_ = b.s.Flush()
		}
		b.w.mu.Unlock()
	}
	n, err := b.s.Read(p)
	if err == io.EOF { //nolint:errorlint // the orderly end (io.Reader)
		for _, f := range b.s.Trailer() {
			b.trailer.Add(string(f.Name), string(f.Value))
		}
	}
	return n, err
}

// Close implements io.Closer.
func (b *requestBody) Close() error { return nil }
