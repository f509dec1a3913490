package edge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
	"github.com/culvert-tunnel/culvert/internal/splice"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// responder lets handlers of net/http answer a visitor whose head was read here: the
// edge's own pages, and what goes to upstreams that don't speak HTTP/1.1.
type responder struct {
	v      *visit
	header http.Header
	body   requestReader

	mu       sync.Mutex // a 100 and the answer come from different goroutines
	status   int        // 0: none yet
	begun    bool       // the head is written
	chunked  bool
	bodiless bool
	hijacked bool
	pending  []byte // of the body
}

// pendingLimit is how much of an answer waits for its head, whose length it may give.
const pendingLimit = 4 << 10

// refuse answers a request with an error.
func (v *visit) refuse(ctx context.Context, code tunnel.Code) {
	v.x.code = code
	v.dropBody()
	v.handle(ctx, func(w http.ResponseWriter, r *http.Request) { v.edge.cfg.Pages.writeError(w, r, code, v.x.visitor.ID) })
}

// dropBody drops what is here of a body that nobody is to have.
func (v *visit) dropBody() {
	for body := &v.upload.body; !v.upload.begun && !body.done; {
		if p, err := body.next(); err != nil || (len(p) == 0 && !body.done) {
			return
		}
	}
}

func (v *visit) redirect(ctx context.Context, to string) {
	v.dropBody()
	v.handle(ctx, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, to, http.StatusPermanentRedirect)
	})
}

// handle lets h answer. It is for requests of which nothing but what came with the head
// has been read; if more was, or more comes than h reads, the connection ends behind the
// answer.
func (v *visit) handle(ctx context.Context, h http.HandlerFunc) {
	w := &responder{v: v, header: make(http.Header), pending: v.out[:0]}
	defer func() { v.out = w.pending[:0] }()
	w.body = requestReader{w: w, expects: v.upload.expects}
	body := &v.upload.body
	if v.upload.begun {
		body.done, v.over = true, true
	}
	body.decode = true
	r, err := v.request(ctx, &w.body)
	if err != nil && v.x.code == "" {
		v.x.code = tunnel.CodeBadRequest
		h = func(w http.ResponseWriter, r *http.Request) {
			v.edge.cfg.Pages.writeError(w, r, tunnel.CodeBadRequest, v.x.visitor.ID)
		}
	}
	defer func() {
		failure := recover()
		_ = w.body.stop()
		if failure != nil {
			v.over = true
			splice.Reset(v.conn)
			if failure != http.ErrAbortHandler { //nolint:errorlint // the very same, as net/http compares it
				v.edge.cfg.Logger.ErrorContext(ctx, "panic in a handler", "error", failure)
			}
			return
		}
		w.finish()
		v.linger = !w.hijacked && (!body.done || v.x.code != "")
	}()
	h(w, r)
}

// request is the request as net/http has it.
func (v *visit) request(ctx context.Context, body *requestReader) (*http.Request, error) {
	r := &http.Request{
		Method: v.x.method, Proto: v.x.proto, ProtoMajor: 1, ProtoMinor: v.req.Minor,
		Host: v.x.host, RequestURI: v.x.target, RemoteAddr: v.remote.String(), Header: make(http.Header, len(v.req.Fields)),
		ContentLength: v.upload.body.left, Body: http.NoBody,
	}
	if !v.upload.begun {
		for i := range v.req.Fields {
			f := &v.req.Fields[i]
			if f.Kind != http1.Host && f.Kind != http1.TransferEncoding {
				name := http.CanonicalHeaderKey(string(f.Name))
				r.Header[name] = append(r.Header[name], string(f.Value))
			}
		}
	}
	if !v.upload.body.done {
		r.Body = body
		body.trailer = make(http.Header)
		for name := range strings.SplitSeq(r.Header.Get("Trailer"), ",") {
			if name = strings.TrimSpace(name); name != "" {
				body.trailer[http.CanonicalHeaderKey(name)] = nil
			}
		}
		delete(r.Header, "Trailer")
		r.Trailer = body.trailer
		if v.upload.body.chunked {
			r.TransferEncoding = []string{"chunked"}
		}
	}
	if v.secure {
		r.TLS = &tls.ConnectionState{HandshakeComplete: true, ServerName: v.sni}
	}
	ctx = context.WithValue(ctx, http.LocalAddrContextKey, v.conn.LocalAddr())
	ctx = context.WithValue(ctx, connKey{}, v.conn)
	u, err := url.ParseRequestURI(v.x.target)
	if err != nil {
		u = &url.URL{Path: "/"}
	}
	r.URL = u
	return r.WithContext(ctx), err
}

// Header implements http.ResponseWriter.
func (w *responder) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *responder) WriteHeader(status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status != 0 {
		return
	}
	if status < 200 && status != http.StatusSwitchingProtocols {
		if w.v.req.Minor > 0 {
			_ = w.v.write(append(w.appendFields(appendStatus(nil, status)), "\r\n"...))
		}
		return
	}
	w.status, w.v.x.status = status, status
	w.bodiless = w.v.x.method == http.MethodHead || status < 200 || status == http.StatusNoContent || status == http.StatusNotModified
	if status == http.StatusSwitchingProtocols {
		w.beginLocked(-1)
	}
}

func appendStatus(b []byte, status int) []byte {
	b = append(strconv.AppendInt(append(b, "HTTP/1.1 "...), int64(status), 10), ' ')
	return append(append(b, http.StatusText(status)...), "\r\n"...)
}

func (w *responder) appendFields(b []byte) []byte {
	for name, values := range w.header {
		if strings.HasPrefix(name, http.TrailerPrefix) || name == "Connection" && w.status != http.StatusSwitchingProtocols || name == "Transfer-Encoding" {
			continue
		}
		for _, value := range values {
			b = http1.AppendField(b, []byte(name), []byte(oneLine.Replace(value)))
		}
	}
	return b
}

var oneLine = strings.NewReplacer("\r", " ", "\n", " ")

// beginLocked writes the head, and what waits behind it. length is that of the whole
// body; -1: not known.
func (w *responder) beginLocked(length int) {
	v := w.v
	w.begun = true
	b := getBuffer()[:0]
	if w.header.Get("Date") == "" && w.status >= 200 {
		w.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	}
	v.edge.setOwn(w.header, &v.x)
	b = w.appendFields(appendStatus(b, w.status))
	switch {
	case w.bodiless || w.header.Get("Content-Length") != "":
	case length >= 0:
		b = http1.AppendLength(b, int64(length))
	case v.req.Minor > 0:
		w.chunked = true
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	default:
		v.over = true
	}
	if w.status >= 200 {
		v.over = v.over || !w.body.over() || v.edge.watch.draining.Load()
		switch {
		case v.over:
			b = append(b, "Connection: close\r\n"...)
		case v.req.Minor == 0:
			b = append(b, "Connection: keep-alive\r\n"...)
		}
	}
	b = append(b, "\r\n"...)
	w.writeLocked(b)
	putBuffer(b)
}

// writeLocked writes head, and what waits of the body.
func (w *responder) writeLocked(head []byte) {
	b := head
	switch {
	case len(w.pending) == 0 || w.bodiless:
	case w.chunked:
		b = appendChunk(b, w.pending)
	default:
		b = append(b, w.pending...)
	}
	w.pending = w.pending[:0]
	if len(b) > 0 && w.v.write(b) != nil {
		w.v.leave()
	}
}

// Write implements http.ResponseWriter.
func (w *responder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.v.hasLeft():
		return 0, errLeft
	case w.hijacked:
		return 0, http.ErrHijacked
	case w.bodiless:
		return len(p), nil
	}
	w.v.x.bytesOut += int64(len(p))
	w.pending = append(w.pending, p...)
	if len(w.pending) > pendingLimit {
		if !w.begun {
			w.beginLocked(-1)
		} else {
			w.writeLocked(nil)
		}
	}
	return len(p), nil
}

// FlushError is for http.ResponseController.
func (w *responder) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.begun {
		w.beginLocked(-1)
	} else {
		w.writeLocked(nil)
	}
	if w.v.hasLeft() {
		return errLeft
	}
	return nil
}

// Flush implements http.Flusher.
func (w *responder) Flush() { _ = w.FlushError() }

// EnableFullDuplex is for http.ResponseController: it is always so.
func (w *responder) EnableFullDuplex() error { return nil }

// SetReadDeadline is for http.ResponseController.
func (w *responder) SetReadDeadline(t time.Time) error { return w.v.conn.SetReadDeadline(t) }

// SetWriteDeadline is for http.ResponseController.
func (w *responder) SetWriteDeadline(t time.Time) error { return w.v.conn.SetWriteDeadline(t) }

// finish ends the answer.
func (w *responder) finish() {
	if w.hijacked {
		return
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.begun {
		w.beginLocked(len(w.pending))
		return
	}
	if !w.chunked || w.bodiless {
		w.writeLocked(nil)
		return
	}
	var trailers []http1.Field
	for name, values := range w.header {
		if name, late := strings.CutPrefix(name, http.TrailerPrefix); late {
			for _, value := range values {
				trailers = append(trailers, http1.Field{Name: []byte(name), Value: []byte(oneLine.Replace(value))})
			}
		}
	}
	for _, names := range w.header["Trailer"] {
		for name := range strings.SplitSeq(names, ",") {
			name = http.CanonicalHeaderKey(strings.TrimSpace(name))
			for _, value := range w.header[name] {
				trailers = append(trailers, http1.Field{Name: []byte(name), Value: []byte(oneLine.Replace(value))})
			}
		}
	}
	b := getBuffer()[:0]
	if len(w.pending) > 0 {
		b = appendChunk(b, w.pending)
		w.pending = w.pending[:0]
	}
	b = appendTrailers(append(b, "0\r\n"...), trailers)
	w.writeLocked(b)
	putBuffer(b)
}

// Hijack implements http.Hijacker.
func (w *responder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if err := w.body.stop(); err != nil {
		return nil, nil, err
	}
	v := w.v
	w.mu.Lock()
	w.hijacked, v.over = true, true
	w.mu.Unlock()
	v.waits.Store(0)
	early := bytes.Clone(v.in.Buffered())
	r := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(early), v.conn), max(len(early), 16))
	if _, err := r.Peek(len(early)); err != nil {
		return nil, nil, err
	}
	return v.conn, bufio.NewReadWriter(r, bufio.NewWriter(v.conn)), nil
}

// requestReader is a request's body for a handler.
type requestReader struct {
	w       *responder
	expects bool // a 100 before the first byte
	trailer http.Header

	mu   sync.Mutex // held in Read
	rest []byte
	done bool
}

// Read implements io.Reader.
func (b *requestReader) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.done {
		return 0, http.ErrBodyReadAfterClose
	}
	v := b.w.v
	body := &v.upload.body
	for len(b.rest) == 0 {
		if body.done {
			for _, f := range body.trailer {
				b.trailer.Add(string(f.Name), string(f.Value))
			}
			return 0, io.EOF
		}
		rest, err := body.next()
		if b.rest = rest; err != nil {
			return 0, err
		}
		if len(rest) > 0 || body.done {
			continue
		}
		b.goOn()
		v.readBy.Store(v.edge.watch.in(v.edge.cfg.BodyTimeout))
		err = body.more()
		v.readBy.Store(0)
		if err != nil {
			return 0, err
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	v.x.bytesIn += int64(n)
	return n, nil
}

// goOn tells a visitor who waits for that to send the body.
func (b *requestReader) goOn() {
	if !b.expects {
		return
	}
	b.expects = false
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	if b.w.status == 0 {
		_ = b.w.v.write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
	}
}

// over reports whether nothing of the body is still to come.
func (b *requestReader) over() bool {
	if !b.mu.TryLock() {
		return false
	}
	defer b.mu.Unlock()
	body := &b.w.v.upload.body
	for !body.done {
		if len(b.rest) > 0 {
			return false
		}
		p, err := body.next()
		if b.rest = p; err != nil || (len(p) == 0 && !body.done) {
			return false
		}
	}
	return true
}

// Close implements io.Closer.
func (b *requestReader) Close() error { return nil }

// stop ends a Read that is under way, and all to come.
func (b *requestReader) stop() error {
	if !b.mu.TryLock() {
		_ = b.w.v.conn.SetReadDeadline(past)
		b.w.v.over = true
		b.mu.Lock()
		_ = b.w.v.conn.SetReadDeadline(time.Time{})
	}
	defer b.mu.Unlock()
	b.done = true
	return nil
}
