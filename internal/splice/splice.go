// Package splice joins two connections. It moves bytes both ways, passes a
// half-close on as a half-close and a reset as a reset, and buffers nothing beyond
// one piece per direction, so that a reader's pause pauses its sender. It imports
// nothing of ours and knows nothing of what it carries.
package splice

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Config of Join. The zero value works.
type Config struct {
	IdleTimeout time.Duration // without a byte in either direction; 0: none
}

// Counts are the bytes moved.
type Counts struct {
	Forward  int64 // from the first connection to the second
	Backward int64 // from the second to the first
}

// ErrIdle says that no byte came for Config.IdleTimeout.
var ErrIdle = errors.New("idle for too long")

// idleTicks in one idle time-out: it is noticed late by one of them at most.
const idleTicks = 4

// half is the outcome of one direction.
type half struct {
	n       int64
	err     error // nil after the end of input
	forward bool
}

// drainTimeout bounds the delivery of what a dead side had sent before it died.
const drainTimeout = 5 * time.Second

// side is one of the two connections.
type side struct {
	net.Conn
	closed atomic.Bool // wholly, by the end of input, because it can't be half-closed: reading from it fails then, in order
	dead   atomic.Bool // a write failed: the end of its input is no orderly one
}

var errDied = errors.New("connection died")

// Join moves bytes between a and b until both directions have ended, one fails,
// nothing moved for the idle time-out, or ctx ends. The end of one side's input
// becomes CloseWrite on the other; anything else ends both with Reset. That happens at
// once, except that what a side had sent is still delivered when writing to it fails:
// a server that refuses an upload answers, closes, and so resets the connection. When
// Join returns, both are closed and its goroutines have ended. The error is nil
// after an orderly end in both directions.
func Join(ctx context.Context, a, b net.Conn, cfg Config) (Counts, error) {
	var moved atomic.Int64 // only for the idle time-out
	var progress *atomic.Int64
	if cfg.IdleTimeout > 0 {
		progress = &moved
	}
	sideA, sideB := &side{Conn: a}, &side{Conn: b}
	done := make(chan half, 2)
	go func() { done <- copyHalf(sideB, sideA, true, progress) }()
	go func() { done <- copyHalf(sideA, sideB, false, progress) }()

	var counts Counts
	var first error
	var abort sync.Once
	fail := func(err error) {
		abort.Do(func() {
			if first == nil {
				first = err
			}
			Reset(a)
			Reset(b)
		})
	}
	var tick <-chan time.Time
	if progress != nil {
		t := time.NewTicker(max(cfg.IdleTimeout/idleTicks, 1))
		defer t.Stop()
		tick = t.C
	}
	cancelled := ctx.Done()
	var drained <-chan time.Time
	last, silent := int64(0), 0
	for ended := 0; ended < 2; {
		select {
		case h := <-done:
			ended++
			if h.forward {
				counts.Forward = h.n
			} else {
				counts.Backward = h.n
			}
			switch {
			case h.err == nil:
			case ended == 1 && first == nil && isWrite(h.err):
				first = h.err
				drained = time.After(drainTimeout)
			default:
				fail(h.err)
			}
		case <-drained:
			fail(first)
		case <-cancelled:
			cancelled = nil
			fail(context.Cause(ctx))
		case <-tick:
			if now := moved.Load(); now != last {
				last, silent = now, 0
			} else if silent++; silent >= idleTicks {
				fail(ErrIdle)
			}
		}
	}
	if first != nil {
		fail(first)
	}
	// After an orderly end both sides have sent and seen their FIN.
	abort.Do(func() {
		_ = a.Close()
		_ = b.Close()
	})
	return counts, first
}

// copyHalf moves src to dst until src ends, then half-closes dst, or closes it if
// it has no halves.
func copyHalf(dst, src *side, forward bool, progress *atomic.Int64) half {
	n, err := move(dst.Conn, src.Conn, progress)
	switch {
	case err != nil && src.closed.Load():
		err = nil
	case err == nil && src.dead.Load():
		err = errDied // the write that failed took the error from the socket
	case err == nil && !hasHalves(dst.Conn):
		dst.closed.Store(true)
		_ = dst.Close()
	case err == nil:
		err = CloseWrite(dst.Conn)
	case isWrite(err):
		dst.dead.Store(true)
	}
	return half{n: n, err: err, forward: forward}
}

// isWrite reports whether an error is that of writing to a connection, also one below
// TLS. What can't be written to is dead, and gives out what it still has.
func isWrite(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && (op.Op == "write" || op.Op == "writev")
}

func hasHalves(c net.Conn) bool {
	if p, ok := c.(*Prefixed); ok {
		return hasHalves(p.Conn)
	}
	_, ok := c.(interface{ CloseWrite() error })
	return ok
}

// Reset ends a connection so that the other side sees that it did not end well:
// RST for TCP. TLS has no reset of its own, so the connection below it is reset,
// which the peer sees as an end without close_notify.
func Reset(c net.Conn) {
	switch c := c.(type) {
	case interface{ Reset() error }:
		_ = c.Reset()
	case *net.TCPConn:
		_ = c.SetLinger(0)
		_ = c.Close()
	case *tls.Conn:
		Reset(c.NetConn())
	default:
		_ = c.Close()
	}
}

// CloseWrite ends the sending direction of c. A connection that can't do that is
// left as it is: whether the other direction is still in use, the caller knows.
func CloseWrite(c net.Conn) error {
	cw, ok := c.(interface{ CloseWrite() error })
	if !ok {
		return nil
	}
	if err := cw.CloseWrite(); err != nil {
		return fmt.Errorf("close write: %w", err)
	}
	return nil
}

// bufferSize of the plain copy, in bytes.
const bufferSize = 64 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// move copies src to dst. Streams of a link know better ways
// than a buffer (io.WriterTo, io.ReaderFrom).
func move(dst, src net.Conn, progress *atomic.Int64) (int64, error) {
	if p, ok := dst.(*Prefixed); ok {
		return move(p.Conn, src, progress)
	}
	if p, ok := src.(*Prefixed); ok {
		n, err := p.flush(dst)
		if progress != nil {
			progress.Add(n)
		}
		if err != nil {
			return n, err
		}
		m, err := move(dst, p.Conn, progress)
		return n + m, err
	}
	if progress == nil {
		// Not by io.Copy, which would ask a socket first: that knows no streams, and
		// hides itself from them.
		if from, ok := src.(io.WriterTo); ok && !isSocket(src) {
			n, err := from.WriteTo(dst)
			return n, ended(err)
		}
		if to, ok := dst.(io.ReaderFrom); ok && !isSocket(dst) {
			n, err := to.ReadFrom(src)
			return n, ended(err)
		}
	}
	return moveBuffered(dst, src, progress)
}

func isSocket(c net.Conn) bool {
	_, ok := c.(*net.TCPConn)
	return ok
}

func moveBuffered(dst, src net.Conn, progress *atomic.Int64) (int64, error) {
	var total int64
	read := reader(src)
	for {
		buf, n, err := read()
		if n > 0 {
			m, werr := dst.Write((*buf)[:n])
			total += int64(m)
			if progress != nil {
				progress.Add(int64(m))
			}
			if werr != nil {
				buffers.Put(buf)
				return total, werr
			}
		}
		if buf != nil {
			buffers.Put(buf)
		}
		if err != nil {
			return total, ended(err)
		}
	}
}

// reader returns a function that reads from c into a buffer of the pool, which the
// caller puts back. A TCP connection that waits for input holds none.
func reader(c net.Conn) func() (*[]byte, int, error) {
	if t, ok := c.(*net.TCPConn); ok {
		if read := socketReader(t); read != nil {
			return read
		}
	}
	return func() (*[]byte, int, error) {
		buf := buffers.Get().(*[]byte)
		n, err := c.Read(*buf)
		return buf, n, err
	}
}

// ended turns the orderly end of input into nil. That is io.EOF itself (io.Reader):
// an error that wraps it, such as a link's that ended, is not orderly at all.
func ended(err error) error {
	if err == io.EOF { //nolint:errorlint // see above
		return nil
	}
	return err
}
