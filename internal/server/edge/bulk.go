package edge

import (
	"errors"
	"io"
	"net"
	"syscall"

	"github.com/culvert-tunnel/culvert/internal/splice"
)

// worthMoving is the least that is left of a body for it to go between a visitor's socket
// and a stream without a buffer of ours, in bytes.
const worthMoving = 16 << 10

// source and sink are what streams of a link know beside Read and Write (link.Stream).
type (
	source interface {
		WriteToN(w io.Writer, n int64) (int64, error)
	}
	sink interface {
		ReadFromN(r io.Reader, n int64) (int64, error)
	}
)

// moveAnswer writes the rest of a body to the visitor, straight from the stream. It reports
// whether that can be: a body in chunks is to be looked at, one over TLS to be encrypted.
func (v *visit) moveAnswer(body *framed) (moved bool, err error) {
	from, ok := body.in.Source.(source)
	if !ok || body.chunked || body.left < worthMoving || len(body.in.Buffered()) > 0 {
		return false, nil
	}
	to := socketFor(v, splice.Bare(v.conn))
	if to == nil {
		return false, nil
	}
	n, err := from.WriteToN(to, body.left)
	body.moved(n)
	if isOp(err, "write") {
		v.leave()
		err = errLeft
	}
	return true, noEOF(err)
}

// moveUpload sends the rest of a body, straight from the visitor's socket.
func (v *visit) moveUpload(u *upstream, body *framed) (moved bool, err error) {
	to, ok := u.Conn.(sink)
	if !ok || body.chunked || body.left < worthMoving || len(body.in.Buffered()) > 0 {
		return false, nil
	}
	from := socketFor(v, v.conn)
	if from == nil {
		return false, nil
	}
	v.readBy.Store(0)
	n, err := to.ReadFromN(from, body.left)
	body.moved(n)
	switch {
	case err == nil:
		return true, nil
	case err == io.EOF || isOp(err, "read"): //nolint:errorlint // the orderly end (io.Reader)
		return true, &bodyError{noEOF(err)}
	}
	return true, errUpstreamWrite
}

// moved notes that n bytes went on without passing through next.
func (f *framed) moved(n int64) {
	f.left -= n
	f.content += n
	f.done = f.left == 0
}

func isOp(err error, op string) bool {
	failed, ok := errors.AsType[*net.OpError](err)
	return ok && failed.Op == op
}

// socket is a visitor's TCP connection for who uses its descriptor. The watch's times
// hold there too.
type socket struct {
	*net.TCPConn
	raw timed
}

func socketFor(v *visit, c net.Conn) *socket {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	return &socket{TCPConn: tcp, raw: timed{RawConn: raw, visit: v}}
}

// SyscallConn implements syscall.Conn.
func (s *socket) SyscallConn() (syscall.RawConn, error) { return &s.raw, nil }

// Read is for systems where the descriptor is of no use.
func (s *socket) Read(p []byte) (n int, err error) {
	s.raw.reading(func() { n, err = s.TCPConn.Read(p) })
	return n, err
}

// Write is described with Read.
func (s *socket) Write(p []byte) (int, error) {
	if err := s.raw.visit.write(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// timed is a descriptor that the watch knows somebody waits for.
type timed struct {
	syscall.RawConn
	visit *visit
}

func (t *timed) reading(f func()) {
	v := t.visit
	v.readBy.Store(v.edge.watch.in(v.edge.cfg.BodyTimeout))
	f()
	v.readBy.Store(0)
}

// Read implements syscall.RawConn.
func (t *timed) Read(f func(fd uintptr) bool) (err error) {
	t.reading(func() { err = t.RawConn.Read(f) })
	return err
}

// Write implements syscall.RawConn.
func (t *timed) Write(f func(fd uintptr) bool) error {
	v := t.visit
	v.writeBy.Store(v.edge.watch.in(v.edge.cfg.WriteTimeout))
	err := t.RawConn.Write(f)
	v.writeBy.Store(0)
	return err
}
