package edge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/netip"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
	"github.com/culvert-tunnel/culvert/internal/server/edge/http2"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// visit2 is a visitor's connection on which he speaks HTTP/2.
type visit2 struct {
	edge   *Edge
	conn   *http2.Conn
	remote netip.AddrPort
	local  netip.AddrPort
	sni    string                // canonical
	chains [][]*x509.Certificate // see exchange
}

// serveHTTP2 serves a connection until it ends, and closes it.
func (e *Edge) serveHTTP2(ctx context.Context, c *tls.Conn, sni string) {
	v := &visit2{edge: e, remote: addrPort(c.RemoteAddr()), local: addrPort(c.LocalAddr()), sni: sni}
	v.chains = c.ConnectionState().VerifiedChains
	v.conn = http2.New(c, http2.Config{
		Handle: v.serve, HeaderTimeout: e.cfg.HeaderTimeout, IdleTimeout: e.cfg.IdleTimeout,
		BodyTimeout: e.cfg.BodyTimeout, WriteTimeout: e.cfg.WriteTimeout, MaxHeadBytes: maxHeaderBytes, MaxStreams: maxStreams,
	})
	e.watch.enter(v)
	defer e.watch.leave(v)
	if e.watch.draining.Load() {
		v.conn.Shutdown()
	}
	if err := v.conn.Run(ctx); err != nil {
		e.cfg.Logger.Debug("connection of HTTP/2 ended", "remote", v.remote.String(), "error", err)
	}
}

// look implements looker.
func (v *visit2) look(now int64) { v.conn.Look(time.Duration(now)) }

// drain implements drainer.
func (v *visit2) drain(*watch) { v.conn.Shutdown() }

// serve serves one exchange.
func (v *visit2) serve(s *http2.Stream) {
	e := v.edge
	p := &streamParty{visit: v, s: s}
	x := &p.x
	x.proto, x.secure, x.head, x.chains = "HTTP/2.0", true, p, v.chains
	x.method, x.host, x.target = methodName(s.Request.Method), string(s.Request.Host), string(s.Request.Target)
	x.webSocket = s.Protocol == "websocket" && x.method == http.MethodConnect
	x.visitor = endpoint.Visitor{Remote: v.remote, Local: v.local}
	if s.Scheme == "https" { // whose name the certificate was for; http has none
		x.visitor.ServerName = v.sni
	}
	if id := s.Request.Get("x-request-id"); s.Fault == nil && isRequestID(id) {
		x.visitor.ID = string(id)
	} else {
		x.visitor.ID = newVisitorID()
	}
	e.begin(x)
	defer e.end(s.Context(), x)
	if s.Fault != nil {
		x.err = s.Fault
		p.refuse(codeOf(s.Fault))
		return
	}
	if e.cfg.Access.described() {
		x.userAgent, x.referer = string(s.Request.Get("user-agent")), string(s.Request.Get("referer"))
	}
	code, to := e.route(s.Context(), x, "")
	switch {
	case code != "":
		if code == tunnel.CodeCertificateRequired {
			v.conn.Shutdown() // another certificate takes another connection
		}
		p.refuse(code)
	case x.answer != nil:
		p.handle(x.challenge)
	case to != "":
		p.handle(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusPermanentRedirect) })
	case x.webSocket:
		e.carryWebSocket(p, x)
	default:
		p.dispatch(true)
	}
}

// streamParty is a visitor of HTTP/2 in one of his exchanges.
type streamParty struct {
	visit  *visit2
	s      *http2.Stream
	x      exchange
	fields []http1.Field // of the answer
}

// dispatch serves the exchange by what the upstream speaks, of which once says that it may
// be found out to be something else.
func (p *streamParty) dispatch(once bool) {
	e, x := p.visit.edge, &p.x
	protocol, err := e.speaks(p.s.Context(), x)
	switch {
	case err != nil:
		x.err = err
		p.refuse(codeOf(err))
	case x.route.Spec.Compress:
		p.handle(func(w http.ResponseWriter, r *http.Request) { e.dispatchHTTP(w, r, x) })
	case protocol == alpnH2:
		p.handle(func(w http.ResponseWriter, r *http.Request) { e.carryHTTP2(w, r, x) })
	case e.carryHTTP(p, x, once):
		p.dispatch(false)
	}
}

// handle lets h answer.
func (p *streamParty) handle(h http.HandlerFunc) {
	e := p.visit.edge
	r := p.s.NetHTTP(p.visit.remote.String(), p.x.visitor.ServerName)
	failure := p.s.Serve(func(w http.ResponseWriter, r *http.Request) {
		h(&notedWriter{ResponseWriter: w, x: &p.x, edge: e}, r)
	}, r)
	if failure != nil {
		e.cfg.Logger.ErrorContext(p.s.Context(), "panic in a handler", "error", failure)
	}
}

// Context implements party.
func (p *streamParty) Context() context.Context { return p.s.Context() }

// Read implements party.
func (p *streamParty) Read(b []byte) (int, error) { return p.s.Read(b) }

func (p *streamParty) brings() (body, chunked, expects bool) {
	req := &p.s.Request
	return req.Chunked || req.Length > 0, req.Chunked, req.Expect
}

// wholeLimit is up to where a body goes along with its head.
const wholeLimit = 4 << 10

func (p *streamParty) here() ([]byte, bool) { return p.s.Here(wholeLimit) }

func (p *streamParty) appendRequest(b []byte, x *exchange) []byte {
	return appendRequest(b, &p.s.Request, x)
}

func (p *streamParty) asGet() {
	req := &p.s.Request
	fields := req.Fields[:0]
	for _, f := range req.Fields {
		if f.Kind != http1.ContentLength && !http1.EqualFold(f.Name, "sec-websocket-key") { // which is of HTTP/1.1 alone
			fields = append(fields, f)
		}
	}
	_ = req.Assemble([]byte(http.MethodGet), req.Target, req.Host, fields, false) // all but the method has been judged
}

func (p *streamParty) frames() io.Reader {
	p.s.Await()
	return p.s
}

func (p *streamParty) stopReading() { p.s.ExpireRead() }

func (p *streamParty) trailer() []http1.Field { return p.s.Trailer() }

func (p *streamParty) goOn() error {
	if err := p.s.WriteHead(http.StatusContinue, nil, false); err != nil {
		return err
	}
	return p.s.Flush()
}

func (p *streamParty) head(res *http1.Response, end bool) error {
	fields := p.fields[:0]
	dated := res.Status < 200
	for i := range res.Fields {
		if f := &res.Fields[i]; passesInAnswer(res, f) {
			dated = dated || http1.EqualFold(f.Name, "date")
			fields = append(fields, *f)
		}
	}
	if !dated {
		fields = append(fields, http1.Field{Name: []byte("date"), Value: time.Now().UTC().AppendFormat(nil, http.TimeFormat)})
	}
	if res.Status >= 200 {
		p.x.status = res.Status
		fields = append(fields, http1.Field{Name: []byte("x-request-id"), Value: []byte(p.x.visitor.ID)})
		if announced := p.visit.edge.announced(&p.x); announced != nil {
			fields = append(fields, http1.Field{Name: []byte("alt-svc"), Value: []byte(announced[0])})
		}
		if cookie := p.x.setMember(); cookie != "" {
			fields = append(fields, http1.Field{Name: []byte("set-cookie"), Value: []byte(cookie)})
		}
	}
	p.fields = fields
	err := p.s.WriteHead(res.Status, fields, end)
	if err == nil && res.Status < 200 {
		err = p.s.Flush()
	}
	return err
}

func (p *streamParty) write(b []byte, end bool) error {
	err := p.s.Write(b, end)
	if err == nil {
		p.x.bytesOut += int64(len(b))
	}
	return err
}

func (p *streamParty) flush() error { return p.s.Flush() }

func (p *streamParty) finish(trailer []http1.Field, _ bool) error {
	if len(trailer) == 0 {
		return nil
	}
	return p.s.WriteTrailer(trailer)
}

func (p *streamParty) refuse(code tunnel.Code) {
	p.x.code = code
	p.handle(func(w http.ResponseWriter, r *http.Request) {
		p.visit.edge.cfg.Pages.writeError(w, r, code, p.x.visitor.ID)
	})
}

func (p *streamParty) abort() { p.s.Reset(xhttp2.ErrCodeInternal) }
