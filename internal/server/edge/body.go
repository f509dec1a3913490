package edge

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"

	"golang.org/x/net/http/httpguts"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/splice"
)

// requestBody is a visitor's body on its way to the upstream.
type requestBody struct {
	io.Reader
	visitor  *http.Request // as the server made it: its Trailer is filled in at the end of the body
	trailers http.Header   // of the upstream's request, sent after the body; nil: none
	failed   atomic.Bool   // the visitor's body could not be read
	begin    func() error  // called before the first Read; nil afterwards
}

var errNotWanted = errors.New("body not wanted")

func (b *requestBody) Read(p []byte) (int, error) {
	if b.begin != nil {
		if err := b.begin(); err != nil {
			return 0, err
		}
		b.begin = nil
	}
	n, err := b.Reader.Read(p)
	switch {
	case err == io.EOF:
		if b.trailers != nil {
			copyTrailers(b.trailers, b.visitor.Trailer, true)
		}
	case err != nil:
		b.failed.Store(true)
	}
	return n, err
}

// Close leaves the visitor's body alone: Transport closes a body also when it has not
// sent a byte of it, and the request may still find another route.
func (b *requestBody) Close() error { return nil }

// visitorWriter is the server's writer without three surprises for ReverseProxy.
type visitorWriter struct {
	http.ResponseWriter
	pass *passage
}

// WriteHeader leaves the 100 to the reading of the body, which the upstream's own 100
// sets off; ReverseProxy would pass that on as a second one.
func (w visitorWriter) WriteHeader(status int) {
	if status != http.StatusContinue {
		w.ResponseWriter.WriteHeader(status)
	}
}

// Hijack puts what the server has read already back before the connection: ReverseProxy
// reads the connection alone.
func (w visitorWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if n := rw.Reader.Buffered(); n > 0 {
		early := make([]byte, n)
		if _, err := io.ReadFull(rw.Reader, early); err != nil {
			_ = c.Close()
			return nil, nil, err
		}
		c = splice.Prepend(c, early)
	}
	return c, rw, nil
}

// Unwrap is for http.ResponseController.
// FlushError leaves an answer without a body to the handler's end, which is at hand:
// flushed before, its head would not say that nothing follows. gRPC goes by that
// (its "Trailers-Only").
func (w visitorWriter) FlushError() error {
	if w.pass.bodiless.Load() {
		return nil
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w visitorWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// copyTrailers copies names, and values if asked for, except those that have no place
// in a trailer (RFC 9110, section 6.5.1) and those that the edge owns: an upstream may
// merge trailers into headers.
func copyTrailers(to, from http.Header, values bool) {
	for k, vv := range from {
		if !httpguts.ValidTrailerHeader(k) || endpoint.IsOwned([]byte(k)) {
			continue
		}
		if !values {
			vv = nil
		}
		to[k] = vv
	}
}
