package edge

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// netParty is a visitor whose request net/http, or something like it, has read.
type netParty struct {
	edge    *Edge
	w       http.ResponseWriter
	control *http.ResponseController
	r       *http.Request
	x       *exchange

	announced []string // trailers of the answer

	readBy, writeBy atomic.Int64 // as a visit's
}

func newNetParty(e *Edge, w http.ResponseWriter, r *http.Request, x *exchange) *netParty {
	p := &netParty{edge: e, w: w, control: http.NewResponseController(w), r: r, x: x}
	// The upstream may answer while the body still comes; HTTP/2 does so anyway.
	_ = p.control.EnableFullDuplex()
	return p
}

// look implements looker.
func (p *netParty) look(now int64) {
	if by := p.writeBy.Load(); by != 0 && now > by {
		_ = p.control.SetWriteDeadline(past)
	}
	if by := p.readBy.Load(); by != 0 && now > by {
		_ = p.control.SetReadDeadline(past)
	}
}

// timely lets write take as long as it may: a visitor who takes nothing of one stream may
// keep his connection alive with others.
func (p *netParty) timely(write func() error) error {
	p.writeBy.Store(p.edge.watch.in(p.edge.cfg.WriteTimeout))
	err := write()
	p.writeBy.Store(0)
	return err
}

// Context implements party.
func (p *netParty) Context() context.Context { return p.r.Context() }

// Read implements party.
func (p *netParty) Read(b []byte) (int, error) {
	p.readBy.Store(p.edge.watch.in(p.edge.cfg.BodyTimeout))
	n, err := p.r.Body.Read(b)
	p.readBy.Store(0)
	return n, err
}

func (p *netParty) brings() (body, chunked, expects bool) {
	body = p.r.ContentLength != 0 && p.r.Body != nil && p.r.Body != http.NoBody
	chunked = body && (p.r.ContentLength < 0 || len(p.r.Trailer) > 0)
	return body, chunked, body && http1.HasToken([]byte(p.r.Header.Get("Expect")), "100-continue")
}

func (p *netParty) here() ([]byte, bool) { return nil, false }

func (p *netParty) goOn() error { return nil } // reading makes net/http send its own 100

func (p *netParty) appendRequest(b []byte, x *exchange) []byte {
	_, chunked, _ := p.brings()
	return appendRequestOf(b, p.r, x, chunked)
}

func (p *netParty) asGet() {
	get := *p.r
	get.Method, get.ContentLength = http.MethodGet, 0
	get.Header = p.r.Header.Clone()
	get.Header.Del("Content-Length")
	get.Header.Del("Sec-WebSocket-Key") // of HTTP/1.1 alone
	p.r = &get
}

func (p *netParty) frames() io.Reader { return p.r.Body }

func (p *netParty) stopReading() { _ = p.r.Body.Close() }

func (p *netParty) trailer() []http1.Field {
	var fields []http1.Field
	for name, values := range p.r.Trailer {
		for _, value := range values {
			fields = append(fields, http1.Field{Name: []byte(name), Value: []byte(value), Kind: http1.KindOf([]byte(name))})
		}
	}
	return fields
}

func (p *netParty) head(res *http1.Response, _ bool) error {
	h := p.w.Header()
	for i := range res.Fields {
		if f := &res.Fields[i]; passesInAnswer(res, f) {
			name := http.CanonicalHeaderKey(string(f.Name))
			h[name] = append(h[name], string(f.Value))
		}
	}
	if res.Status < 200 {
		p.w.WriteHeader(res.Status)
		clear(h)
		return nil
	}
	if h["Content-Type"] == nil {
		h["Content-Type"] = nil // the upstream's or none, not a guess
	}
	p.announced = slices.Clone(h["Trailer"])
	p.w.WriteHeader(res.Status)
	return nil
}

func (p *netParty) write(b []byte, _ bool) error {
	if len(b) == 0 {
		return nil
	}
	return p.timely(func() error { _, err := p.w.Write(b); return err })
}

func (p *netParty) flush() error { return p.timely(p.control.Flush) }

func (p *netParty) finish(trailer []http1.Field, uploaded bool) error {
	if !uploaded {
		if err := p.flush(); err != nil { // ahead of the reset that net/http ends the upload with
			return err
		}
	} else {
		// What net/http still holds, it writes when all this is over.
		_ = p.control.SetWriteDeadline(time.Now().Add(p.edge.cfg.WriteTimeout))
	}
	names := strings.ToLower(strings.Join(p.announced, ","))
	h := p.w.Header()
	for i := range trailer {
		f := &trailer[i]
		name := http.CanonicalHeaderKey(string(f.Name))
		if !http1.HasToken([]byte(names), strings.ToLower(name)) {
			name = http.TrailerPrefix + name
		}
		h[name] = append(h[name], string(f.Value))
	}
	return nil
}

func (p *netParty) refuse(code tunnel.Code) {
	clear(p.w.Header())
	p.edge.cfg.Pages.writeError(p.w, p.r, code, p.x.visitor.ID)
}

func (p *netParty) abort() { panic(http.ErrAbortHandler) }
