package yamux

import (
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/culvert-tunnel/culvert/internal/nonblock"
)

// unsentLimit bounds what a socket takes beyond what it has sent, in bytes
// (TCP_NOTSENT_LOWAT): what is in the socket can't be overtaken any more.
const unsentLimit = 64 << 10

const tcpNotSentLowat = 25 // TCP_NOTSENT_LOWAT, linux/tcp.h

// socketWriter writes to a socket with as few calls as can be. The function for
// syscall.RawConn is made once, and finds its arguments in the fields: a closure
// for each call would be an allocation for each call.
type socketWriter struct {
	raw    syscall.RawConn
	taken  *atomic.Int64   // counts, if not nil
	iov    []syscall.Iovec // storage
	left   []syscall.Iovec // what is still to be written
	n      int
	err    error
	wait   bool
	waited bool
	call   func(fd uintptr) bool
}

func (w *socketWriter) init(raw syscall.RawConn) {
	w.raw, w.call = raw, w.writev
}

// socketWire is a TCP connection.
type socketWire struct {
	out socketWriter
	in  struct {
		raw   syscall.RawConn
		iov   []syscall.Iovec
		box   *inbox
		n     int
		err   error
		readv func(fd uintptr) bool
		await func(fd uintptr) bool
	}
}

func newSocketWire(conn net.Conn, taken *atomic.Int64) wire {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowat, unsentLimit)
	})
	w := new(socketWire)
	w.out.init(raw)
	w.out.taken = taken
	w.in.raw, w.in.readv, w.in.await = raw, w.scatter, w.first
	return w
}

// iovMax is how many buffers one call takes (IOV_MAX of Linux).
const iovMax = 1024

func atMost(iov []syscall.Iovec) []syscall.Iovec { return iov[:min(len(iov), iovMax)] }

func appendIovec(iov []syscall.Iovec, b []byte) []syscall.Iovec {
	if len(b) == 0 {
		return iov
	}
	v := syscall.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return append(iov, v)
}

// writev is called with the descriptor; false means: call again when it is
// writable.
func (w *socketWriter) writev(fd uintptr) bool {
	for len(w.left) > 0 {
		n, err := nonblock.Writev(fd, atMost(w.left))
		if err == syscall.EAGAIN { //nolint:errorlint // an errno
			w.waited = true
			return !w.wait
		}
		if err != nil {
			w.err = os.NewSyscallError("writev", err)
			return true
		}
		w.n += n
		if w.taken != nil {
			w.taken.Add(int64(n))
		}
		w.left = advance(w.left, n)
	}
	return true
}

// advance drops the first n bytes.
func advance(iov []syscall.Iovec, n int) []syscall.Iovec {
	for n > 0 {
		l := int(iov[0].Len)
		if n < l {
			iov[0].Base = (*byte)(unsafe.Add(unsafe.Pointer(iov[0].Base), n))
			iov[0].SetLen(l - n)
			return iov
		}
		n -= l
		iov = iov[1:]
	}
	return iov
}

// add appends to what the next write writes.
func (w *socketWriter) add(b []byte) { w.iov = appendIovec(w.iov, b) }

// begin makes what was added what is to be written, and finish lets go of it.
func (w *socketWriter) begin(wait bool) {
	w.left, w.n, w.err, w.wait, w.waited = w.iov, 0, nil, wait, false
}

func (w *socketWriter) finish() {
	clear(w.iov)
	w.iov, w.left = w.iov[:0], nil
}

// write writes what was added: all of it with wait, else what is taken at once.
func (w *socketWriter) write(wait bool) (int, error) {
	w.begin(wait)
	err := w.raw.Write(w.call)
	w.finish()
	if err != nil {
		return w.n, err
	}
	return w.n, w.err
}

func (w *socketWire) try(parts []part) (int, bool, error) {
	size := 0
	for _, p := range parts {
		w.out.add(p.b)
		size += len(p.b)
	}
	n, err := w.out.write(false)
	return n, n == size, err
}

func (w *socketWire) send(parts []part) (bool, error) {
	for _, p := range parts {
		w.out.add(p.b)
	}
	_, err := w.out.write(true)
	return w.out.waited, err
}

// scatter is called with the descriptor, like writev.
func (w *socketWire) scatter(fd uintptr) bool {
	n, err := nonblock.Readv(fd, atMost(w.in.iov))
	return w.readDone(n, err)
}

// readDone notes the outcome of a call; false means that there was nothing.
func (w *socketWire) readDone(n int, err error) bool {
	switch {
	case err == syscall.EAGAIN: //nolint:errorlint // an errno
		return false
	case err != nil:
		w.in.err = os.NewSyscallError("read", err)
	case n == 0:
		w.in.err = io.EOF
	}
	w.in.n = n
	return true
}

func (w *socketWire) readv(bufs [][]byte) (int, error) {
	iov := w.in.iov[:0]
	for _, b := range bufs {
		iov = appendIovec(iov, b)
	}
	w.in.iov, w.in.n, w.in.err = iov, 0, nil
	err := w.in.raw.Read(w.in.readv)
	clear(iov)
	w.in.iov = iov[:0]
	if err != nil {
		return 0, err
	}
	return w.in.n, w.in.err
}

func (w *socketWire) ready() bool { return false } // one call has brought what was there

func (w *socketWire) read(p []byte) (int, error) {
	one := [1][]byte{p}
	return w.readv(one[:])
}

// first takes a buffer for an attempt to read, and gives it back if there is
// nothing.
func (w *socketWire) first(fd uintptr) bool {
	in := w.in.box
	in.grow()
	w.in.iov = appendIovec(w.in.iov[:0], in.buf)
	n, err := nonblock.Readv(fd, atMost(w.in.iov))
	clear(w.in.iov) // an idle session holds nothing
	if !w.readDone(n, err) {
		in.release()
		return false
	}
	return true
}

func (w *socketWire) await(in *inbox) error {
	w.in.box, w.in.n, w.in.err = in, 0, nil
	if err := w.in.raw.Read(w.in.await); err != nil {
		return err
	}
	in.w = w.in.n
	return noEOF(w.in.n, w.in.err)
}

// streamSocket returns the raw connection of a TCP or unix stream socket, also
// when it is wrapped as io.Copy does; else nil.
func streamSocket(v any) syscall.RawConn {
	c, ok := v.(interface {
		syscall.Conn
		LocalAddr() net.Addr
	})
	if !ok {
		return nil
	}
	if a := c.LocalAddr(); a == nil || (a.Network() != "tcp" && a.Network() != "unix") {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// socketError says of an error of a socket that isn't ours what package net would.
func socketError(op string, c any, err error) error {
	if raw, ok := err.(*net.OpError); ok { //nolint:errorlint // of syscall.RawConn, never wrapped
		err = raw.Err
	}
	e := &net.OpError{Op: op, Err: err}
	if c, ok := c.(net.Conn); ok {
		e.Net, e.Source, e.Addr = c.LocalAddr().Network(), c.LocalAddr(), c.RemoteAddr()
	}
	return e
}

// newSink returns the way to write to w without blocking, nil if there is none.
func newSink(w any) sink {
	raw := streamSocket(w)
	if raw == nil {
		return nil
	}
	s := &socketSink{conn: w}
	s.init(raw)
	s.control = func(fd uintptr) { s.writev(fd) }
	if socket, ok := w.(Watched); ok {
		return &watchedSink{sink: s, socket: socket}
	}
	return s
}

// watchedSink shows a socket what goes to it before it goes: shown afterwards, a
// message could come to be seen after the answer to it.
type watchedSink struct {
	sink
	socket Watched
	shown  int // of the bytes that are to be written next, those that were shown in an attempt before
}

// show shows p, which is to be written behind `before` other bytes.
func (s *watchedSink) show(p []byte, before int) {
	if from := max(s.shown-before, 0); from < len(p) {
		s.socket.Writing(p[from:])
		s.shown = before + len(p)
	}
}

func (s *watchedSink) showChunks(list *chunk) {
	before := 0
	for c := list; c != nil; c = c.next {
		s.show(c.b[c.r:c.w], before)
		before += c.w - c.r
	}
}

func (s *watchedSink) try(p []byte) int {
	s.show(p, 0)
	n := s.sink.try(p)
	s.shown -= n
	return n
}

func (s *watchedSink) tryChunks(list *chunk) int {
	s.showChunks(list)
	n := s.sink.tryChunks(list)
	s.shown -= n
	return n
}

func (s *watchedSink) write(list *chunk) (int64, error) {
	s.showChunks(list)
	n, err := s.sink.write(list)
	s.shown -= int(n)
	return n, err
}

// socketSink is a socket as the destination of a stream.
type socketSink struct {
	socketWriter
	conn    any
	control func(fd uintptr) // writev, made once
}

func (s *socketSink) try(p []byte) int {
	s.socketWriter.add(p)
	return s.attempt()
}

func (s *socketSink) add(list *chunk) {
	for c := list; c != nil; c = c.next {
		s.socketWriter.add(c.b[c.r:c.w])
	}
}

// attempt writes what was added without waiting for anything: not for the socket, and
// not for somebody else who is writing to it either, as syscall.RawConn's Write would.
// What fails here fails again for who writes the rest.
func (s *socketSink) attempt() int {
	s.begin(false)
	_ = s.raw.Control(s.control)
	s.finish()
	return s.n
}

func (s *socketSink) tryChunks(list *chunk) int {
	s.add(list)
	return s.attempt()
}

func (s *socketSink) write(list *chunk) (int64, error) {
	s.add(list)
	n, err := s.socketWriter.write(true)
	if err != nil {
		err = socketError("write", s.conn, err)
	}
	return int64(n), err
}

// readerInto returns a function that reads from r into a buffer behind the place
// for a header. While a socket has nothing to read, no buffer is held.
func readerInto(r io.Reader) func(limit int) (*sendBuf, int, error) {
	raw := streamSocket(r)
	if raw == nil {
		return plainReader(r)
	}
	watched, _ := r.(Watched)
	var buf *sendBuf
	var n, limit int
	var rerr error
	attempt := func(fd uintptr) bool {
		buf = newSendBuf()
		n, rerr = nonblock.Read(fd, buf.b[headerSize:headerSize+limit])
		if rerr == syscall.EAGAIN { //nolint:errorlint // an errno
			buf.free()
			buf = nil
			return false
		}
		return true
	}
	return func(most int) (*sendBuf, int, error) {
		buf, n, rerr, limit = nil, 0, nil, most
		err := raw.Read(attempt)
		if err == nil && rerr != nil {
			err = os.NewSyscallError("read", rerr)
		}
		if err != nil {
			return buf, 0, socketError("read", r, err)
		}
		if n == 0 {
			return buf, 0, io.EOF
		}
		if watched != nil {
			watched.HasRead(buf.b[headerSize : headerSize+n])
		}
		return buf, n, nil
	}
}
