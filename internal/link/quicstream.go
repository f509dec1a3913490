package link

import (
	"errors"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/culvert-tunnel/culvert/yamux"
)

// quicStream is one of QUIC's streams, with the errors that those of Yamux have.
type quicStream struct {
	session *quicSession
	quic    *quic.Stream
	closed  atomic.Bool // by Close or Reset
	halves  atomic.Int32
}

// Halves that have ended.
const (
	reading = 1 << iota
	writing
)

// over notes that halves have ended; the last one ends the stream.
func (st *quicStream) over(halves int32) {
	for {
		was := st.halves.Load()
		is := was | halves
		if is == was {
			return
		}
		if !st.halves.CompareAndSwap(was, is) {
			continue
		}
		if is == reading|writing {
			st.session.flows.remove(st.flow())
			st.session.streams.Leave()
		}
		return
	}
}

// LocalAddr implements net.Conn.
func (st *quicStream) LocalAddr() net.Addr { return st.session.conn.LocalAddr() }

// RemoteAddr implements net.Conn.
func (st *quicStream) RemoteAddr() net.Addr { return st.session.conn.RemoteAddr() }

// SetDeadline implements net.Conn.
func (st *quicStream) SetDeadline(t time.Time) error { return st.quic.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (st *quicStream) SetReadDeadline(t time.Time) error { return st.quic.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (st *quicStream) SetWriteDeadline(t time.Time) error {
	if st.closed.Load() {
		return nil // that of Close must stay
	}
	return st.quic.SetWriteDeadline(t)
}

// Read implements net.Conn.
func (st *quicStream) Read(p []byte) (int, error) {
	n, err := st.quic.Read(p)
	if n > 0 && err != nil && err != io.EOF { //nolint:errorlint // the orderly end, bare
		return n, nil // it is said again
	}
	return n, st.failed("read", reading, err)
}

// Write implements net.Conn.
func (st *quicStream) Write(p []byte) (int, error) {
	s := st.session
	s.queued.Add(int64(len(p)))
	n, err := st.quic.Write(p)
	s.queued.Add(-int64(len(p)))
	s.wrote()
	return n, st.failed("write", writing, err)
}

// failed is what to say of an error of QUIC.
func (st *quicStream) failed(op string, half int32, err error) error {
	if err == nil {
		return nil
	}
	if err == io.EOF { //nolint:errorlint // the orderly end, bare
		st.over(half)
		return err
	}
	var reset *quic.StreamError
	switch {
	case st.closed.Load(), errors.Is(err, quic.ErrStreamClosed):
		err = yamux.ErrStreamClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = os.ErrDeadlineExceeded
	case errors.As(err, &reset) && reset.Remote:
		st.over(half)
		err = yamux.ErrStreamReset
	case errors.As(err, &reset):
		err = yamux.ErrStreamClosed
	default:
		err = st.session.lost(err)
	}
	return &net.OpError{Op: op, Net: "quic", Source: st.LocalAddr(), Addr: st.RemoteAddr(), Err: err}
}

// CloseWrite implements Stream. It is no fault that the other side has closed the stream
// already.
func (st *quicStream) CloseWrite() error {
	err := st.quic.Close()
	st.session.wrote()
	st.over(writing)
	if err == nil {
		return nil
	}
	var told *quic.StreamError
	if _, err = st.quic.Write(nil); errors.As(err, &told) && told.Remote && told.ErrorCode == quicDone {
		return nil
	}
	return st.failed("close", writing, err)
}

// Close implements net.Conn. A Write that waits ends.
func (st *quicStream) Close() error {
	if st.closed.Swap(true) {
		return nil
	}
	_ = st.quic.Close() // behind what was written; else it has ended
	_ = st.quic.SetWriteDeadline(time.Unix(1, 0))
	st.quic.CancelRead(quicDone)
	st.session.wrote()
	st.over(reading | writing)
	return nil
}

// Reset implements Stream.
func (st *quicStream) Reset() error {
	st.closed.Store(true)
	st.quic.SetReliableBoundary()
	st.quic.CancelWrite(quicReset)
	st.quic.CancelRead(quicReset)
	st.session.wrote()
	st.over(reading | writing)
	return nil
}

// glance is how long Quiet waits for what may be there already.
const glance = 20 * time.Microsecond

// Quiet reports whether there is nothing to read now, neither bytes nor the end. Nobody
// else may read meanwhile, nor have set a deadline.
func (st *quicStream) Quiet() bool {
	var b [1]byte
	_ = st.quic.SetReadDeadline(time.Now().Add(glance))
	_, err := st.quic.Peek(b[:])
	_ = st.quic.SetReadDeadline(time.Time{})
	return errors.Is(err, os.ErrDeadlineExceeded)
}

const copySize = 64 << 10 // bytes

var copyBuffers = sync.Pool{New: func() any { return new([copySize]byte) }}

// WriteTo implements io.WriterTo.
func (st *quicStream) WriteTo(w io.Writer) (int64, error) {
	n, err := st.WriteToN(w, math.MaxInt64)
	if err == io.EOF { //nolint:errorlint // the orderly end, bare
		err = nil
	}
	return n, err
}

// WriteToN implements Stream. While there is nothing to read it holds no buffer.
func (st *quicStream) WriteToN(w io.Writer, n int64) (int64, error) {
	var total int64
	for total < n {
		var b [1]byte
		if _, err := st.quic.Peek(b[:]); err != nil {
			_, err = st.Read(b[:]) // the same, as Read has it
			return total, err
		}
		m, err := st.writePiece(w, n-total)
		total += m
		if err != nil && (total < n || err != io.EOF) { //nolint:errorlint // the orderly end, bare
			return total, err
		}
	}
	return total, nil
}

func (st *quicStream) writePiece(w io.Writer, n int64) (int64, error) {
	buf := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buf)
	k, rerr := st.Read(buf[:min(n, copySize)])
	if k == 0 {
		return 0, rerr
	}
	m, err := w.Write(buf[:k])
	if err == nil {
		err = rerr
	}
	return int64(m), err
}

// ReadFrom implements io.ReaderFrom.
func (st *quicStream) ReadFrom(r io.Reader) (int64, error) {
	n, err := st.ReadFromN(r, math.MaxInt64)
	if err == io.EOF { //nolint:errorlint // the orderly end, bare
		err = nil
	}
	return n, err
}

// ReadFromN implements Stream. While a socket has nothing to read it holds no buffer.
func (st *quicStream) ReadFromN(r io.Reader, n int64) (int64, error) {
	var total int64
	socket := socketOf(r)
	for total < n {
		m, err := st.readPiece(socket, r, n-total)
		total += m
		if err != nil && (total < n || err != io.EOF) { //nolint:errorlint // the orderly end, bare
			return total, err
		}
	}
	return total, nil
}

func (st *quicStream) readPiece(socket *socket, r io.Reader, n int64) (int64, error) {
	if socket != nil {
		buf, k, err := socket.read(int(min(n, readBatch)))
		if err != nil {
			if err != io.EOF { //nolint:errorlint // the orderly end, bare
				err = &net.OpError{Op: "read", Net: "tcp", Err: err}
			}
			return 0, err
		}
		defer readBuffers.Put(buf)
		m, err := st.Write(buf[:k])
		return int64(m), err
	}
	buf := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buf)
	k, rerr := r.Read(buf[:min(n, copySize)])
	if k == 0 {
		return 0, rerr
	}
	m, err := st.Write(buf[:k])
	if err == nil {
		err = rerr
	}
	return int64(m), err
}
