package http2

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// visitor speaks HTTP/2 to a Conn, frame by frame, within a bubble of synctest: what it has
// sent has had all its effects when synctest.Wait returns.
type visitor struct {
	*http2.Framer
	t     *testing.T
	conn  *Conn
	net   net.Conn
	ended chan error
	enc   *hpack.Encoder
	block bytes.Buffer

	mu   sync.Mutex
	got  []got
	hold chan struct{} // when not nil, nothing is read before it is closed
}

// got is a frame that came.
type got struct {
	kind   http2.FrameType
	id     uint32
	end    bool
	ack    bool
	data   string
	fields map[string]string
	code   http2.ErrCode
	last   uint32
	by     uint32
}

// pipe counts what is written by one call.
type pipe struct {
	net.Conn
	mu     sync.Mutex
	writes [][]byte
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	p.writes = append(p.writes, bytes.Clone(b))
	p.mu.Unlock()
	return p.Conn.Write(b)
}

// visit begins a connection, whose settings the visitor has read.
func visit(t *testing.T, cfg Config, settings ...http2.Setting) *visitor {
	t.Helper()
	v, _ := visitPipe(t, cfg, nil, settings...)
	return v
}

func visitPipe(t *testing.T, cfg Config, hold chan struct{}, settings ...http2.Setting) (*visitor, *pipe) {
	t.Helper()
	a, b := net.Pipe()
	p := &pipe{Conn: b}
	v := &visitor{t: t, conn: New(p, cfg), net: a, ended: make(chan error, 1), hold: hold}
	v.Framer = http2.NewFramer(a, nil)
	v.enc = hpack.NewEncoder(&v.block)
	go func() { v.ended <- v.conn.Run(t.Context()) }()
	read := make(chan struct{})
	go func() { defer close(read); v.read() }()
	t.Cleanup(func() {
		_ = a.Close()
		<-read
		<-v.ended
	})
	_, err := io.WriteString(a, http2.ClientPreface)
	check(t, err)
	check(t, v.WriteSettings(settings...))
	synctest.Wait()
	return v, p
}

func (v *visitor) read() {
	if v.hold != nil {
		<-v.hold
	}
	frames := http2.NewFramer(nil, v.net)
	frames.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		f, err := frames.ReadFrame()
		if err != nil {
			return
		}
		g := got{kind: f.Header().Type, id: f.Header().StreamID}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			g.end, g.fields = f.StreamEnded(), make(map[string]string)
			for _, field := range f.Fields {
				g.fields[field.Name] += field.Value
			}
		case *http2.DataFrame:
			g.end, g.data = f.StreamEnded(), string(f.Data())
		case *http2.RSTStreamFrame:
			g.code = f.ErrCode
		case *http2.GoAwayFrame:
			g.code, g.last = f.ErrCode, f.LastStreamID
		case *http2.WindowUpdateFrame:
			g.by = f.Increment
		case *http2.PingFrame:
			g.ack = f.IsAck()
		case *http2.SettingsFrame:
			g.ack = f.IsAck()
		}
		v.mu.Lock()
		v.got = append(v.got, g)
		v.mu.Unlock()
	}
}

// all returns what came of a stream, or of the connection, when nothing moves any more.
func (v *visitor) all(id uint32) []got {
	synctest.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	var frames []got
	for _, g := range v.got {
		if g.id == id {
			frames = append(frames, g)
		}
	}
	return frames
}

// answer is what came of a stream: its status, body and trailers, and how it ended.
func (v *visitor) answer(id uint32) (status, body string, last got) {
	for _, g := range v.all(id) {
		switch g.kind {
		case http2.FrameHeaders:
			if g.fields[":status"] != "" {
				status += g.fields[":status"]
			}
		case http2.FrameData:
			body += g.data
		default:
		}
		if g.kind != http2.FrameWindowUpdate {
			last = g
		}
	}
	return status, body, last
}

// head is the head block of the fields, given as names and values.
func (v *visitor) head(fields ...string) []byte {
	v.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		check(v.t, v.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	return bytes.Clone(v.block.Bytes())
}

// request sends the head of a request.
func (v *visitor) request(id uint32, end bool, fields ...string) {
	v.t.Helper()
	method := "POST"
	if end {
		method = "GET"
	}
	all := append([]string{":method", method, ":scheme", "https", ":authority", "a", ":path", "/"}, fields...)
	check(v.t, v.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: v.head(all...), EndHeaders: true, EndStream: end}))
}

// goneAway returns the code that the connection ended with.
func (v *visitor) goneAway() (code http2.ErrCode, ok bool) {
	for _, g := range v.all(0) {
		if g.kind == http2.FrameGoAway {
			code, ok = g.code, true
		}
	}
	return code, ok
}

// echo answers with the body.
func echo(s *Stream) {
	if s.Fault != nil {
		_ = s.WriteHead(400, nil, true)
		return
	}
	b, err := io.ReadAll(s)
	if err != nil {
		return
	}
	if err := s.WriteHead(200, nil, false); err != nil {
		return
	}
	trailer := s.Trailer()
	if s.Write(b, len(trailer) == 0) == nil && len(trailer) > 0 {
		_ = s.WriteTrailer(trailer)
	}
}

// memory is a connection on which something has come already, and nothing comes after it.
type memory struct {
	net.Conn
	in *bytes.Reader

	mu     sync.Mutex
	out    bytes.Buffer
	closed bool
}

func newMemory(b []byte) *memory {
	a, c := net.Pipe() // for deadlines and addresses
	_ = c.Close()
	return &memory{Conn: a, in: bytes.NewReader(b)}
}

func (m *memory) Read(p []byte) (int, error) { return m.in.Read(p) }

func (m *memory) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return 0, net.ErrClosed
	}
	return m.out.Write(p)
}

func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return m.Conn.Close()
}

// serveBytes lets a connection read b, which ends with it.
func serveBytes(t *testing.T, b []byte, cfg Config) []byte {
	t.Helper()
	m := newMemory(b)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := New(m, cfg).Run(ctx); err == nil {
		t.Error("it ended without a reason")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.out.Bytes()
}

func isTrue(t *testing.T, what string, ok bool) {
	t.Helper()
	if !ok {
		t.Error(what)
	}
}

var errNone = errors.New("none")

func long(n int) string { return strings.Repeat("x", n) }
