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
	"math"
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

// drainTimeout bounds the delivery of what a dead side had sent before it died.
const drainTimeout = 5 * time.Second

// side is one of the two connections.
type side struct {
	net.Conn
	closed atomic.Bool // wholly, by the end of input, because it can't be half-closed: reading from it fails then, in order
	dead   atomic.Bool // a write failed: the end of its input is no orderly one
}

var errDied = errors.New("connection died")

// joint is two connections that are being joined. Nobody waits for what may end that
// besides the two directions, and nobody for a stream of a link: an idle visitor costs
// the stack of one goroutine.
type joint struct {
	a, b     side
	abort    sync.Once
	stop     func() bool // waiting for the end of the context
	progress *atomic.Int64
	counts   Counts       // each of its direction, until both have ended
	left     atomic.Int32 // directions that have not
	done     func(Counts, error)

	mu struct {
		sync.Mutex
		ended int   // directions
		first error // why it ends
		drain *time.Timer
		idle  *time.Timer // nil: there is no time-out, or it is over
	}
}

// Join moves bytes between a and b until both directions have ended, one fails,
// nothing moved for the idle time-out, or ctx ends. The end of one side's input
// becomes CloseWrite on the other; anything else ends both with Reset. That happens at
// once, except that what a side had sent is still delivered when writing to it fails:
// a server that refuses an upload answers, closes, and so resets the connection. When
// Join returns, both are closed and nothing moves any more. The error is nil
// after an orderly end in both directions.
func Join(ctx context.Context, a, b net.Conn, cfg Config) (Counts, error) {
	type outcome struct {
		counts Counts
		err    error
	}
	ended := make(chan outcome, 1)
	Start(ctx, a, b, cfg, func(n Counts, err error) { ended <- outcome{n, err} })
	o := <-ended
	return o.counts, o.err
}

// Start does what Join does and hands the outcome to done, perhaps after it has returned. It
// stays while there is something to move from a to b; if a is a stream of a link, which can be
// waited for without a goroutine, it returns then, else at the end of what a has.
func Start(ctx context.Context, a, b net.Conn, cfg Config, done func(Counts, error)) {
	j := &joint{done: done}
	j.a.Conn, j.b.Conn = a, b
	j.left.Store(2)
	if cfg.IdleTimeout > 0 {
		j.progress = new(atomic.Int64)
		j.watch(cfg.IdleTimeout)
	}
	j.stop = context.AfterFunc(ctx, func() { j.fail(context.Cause(ctx)) })
	go j.move(&j.a, &j.b, &j.counts.Backward)
	j.move(&j.b, &j.a, &j.counts.Forward)
}

// Mover is a source that can be waited for without a goroutine: WriteToThen does what
// WriteTo does and hands its outcome to then, perhaps after it has returned.
type Mover interface {
	WriteToThen(w io.Writer, then func(n int64, err error))
}

// taker is a destination that knows better ways than a buffer to take what a source has.
type taker interface {
	ReadFromN(r io.Reader, n int64) (int64, error)
}

// move moves src to dst until src ends, then half-closes dst, or closes it if it has no
// halves. Streams of links know better ways than a buffer, but would hide progress.
func (j *joint) move(dst, src *side, count *int64) {
	to, from, err := j.unwrap(dst.Conn, src.Conn, count)
	if err != nil {
		j.moved(dst, src, err)
		return
	}
	then := func(n int64, err error) {
		*count += n
		j.moved(dst, src, ended(err))
	}
	if j.progress != nil {
		then(moveBuffered(to, from, j.progress))
		return
	}
	if m, ok := from.(Mover); ok {
		m.WriteToThen(to, then)
		return
	}
	then(moveBest(to, from))
}

// moved is when a direction has come to its end, and why.
func (j *joint) moved(dst, src *side, err error) {
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
	j.mu.Lock()
	j.mu.ended++
	drains := j.mu.ended == 1 && j.mu.first == nil && isWrite(err)
	if drains {
		j.mu.first = err
		j.mu.drain = time.AfterFunc(drainTimeout, func() { j.fail(err) })
	}
	j.mu.Unlock()
	if err != nil && !drains {
		j.fail(err)
	}
	if j.left.Add(-1) == 0 { // only now: who comes last asks what has failed
		j.stop()
		err := j.end()
		j.done(j.counts, err)
	}
}

// fail resets both sides; what failed first counts.
func (j *joint) fail(err error) {
	j.abort.Do(func() {
		j.mu.Lock()
		if j.mu.first == nil {
			j.mu.first = err
		}
		j.mu.Unlock()
		Reset(j.a.Conn)
		Reset(j.b.Conn)
	})
}

// watch fails the joint when nothing has moved for a while.
func (j *joint) watch(timeout time.Duration) {
	tick := max(timeout/idleTicks, 1)
	last, silent := int64(0), 0
	look := func() {
		if now := j.progress.Load(); now != last {
			last, silent = now, 0
		} else if silent++; silent >= idleTicks {
			j.fail(ErrIdle)
			return
		}
		j.mu.Lock()
		defer j.mu.Unlock()
		if j.mu.idle != nil {
			j.mu.idle.Reset(tick)
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.mu.idle = time.AfterFunc(tick, look)
}

// end closes both sides when both directions have ended, and says why if that was not in
// order.
func (j *joint) end() error {
	j.mu.Lock()
	first := j.mu.first
	for _, t := range []*time.Timer{j.mu.drain, j.mu.idle} {
		if t != nil {
			t.Stop()
		}
	}
	j.mu.idle = nil
	j.mu.Unlock()
	if first != nil {
		j.fail(first)
	}
	// After an orderly end both sides have sent and seen their FIN.
	j.abort.Do(func() {
		_ = j.a.Close()
		_ = j.b.Close()
	})
	return j.mu.first // abort is over, and nothing else sets it
}

// isWrite reports whether an error is that of writing to a connection, also one below
// TLS. What can't be written to is dead, and gives out what it still has.
func isWrite(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && (op.Op == "write" || op.Op == "writev")
}

func hasHalves(c net.Conn) bool {
	_, ok := Bare(c).(interface{ CloseWrite() error })
	return ok
}

// Bare returns the connection at the bottom of those that only say something else about
// it (Bare) or have bytes to be read first (Prefixed).
func Bare(c net.Conn) net.Conn {
	for {
		switch w := c.(type) {
		case *Prefixed:
			c = w.Conn
		case interface{ Bare() net.Conn }:
			c = w.Bare()
		default:
			return c
		}
	}
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

// unwrap finds the connections to move bytes between, and moves what was read before.
func (j *joint) unwrap(dst, src net.Conn, count *int64) (to, from net.Conn, err error) {
	dst = Bare(dst)
	for {
		if w, ok := src.(interface{ Bare() net.Conn }); ok {
			src = w.Bare()
			continue
		}
		p, ok := src.(*Prefixed)
		if !ok {
			return dst, src, nil
		}
		n, err := p.flush(dst)
		*count += n
		if j.progress != nil {
			j.progress.Add(n)
		}
		if err != nil {
			return dst, src, err
		}
		src = p.Conn
	}
}

// moveBest moves by what one of the two knows better than a buffer. A socket is not asked: it
// knows no streams, and hides itself from them.
func moveBest(dst, src net.Conn) (int64, error) {
	if w, ok := src.(io.WriterTo); ok && !isSocket(src) {
		return w.WriteTo(dst)
	}
	if t, ok := dst.(taker); ok {
		return t.ReadFromN(src, math.MaxInt64)
	}
	return moveBuffered(dst, src, nil)
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
			return total, err
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
