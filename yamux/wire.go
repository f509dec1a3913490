package yamux

import (
	"net"
	"sync/atomic"
)

// BufferedConn is a connection whose writes are collected until Flush. It is for
// layers such as TLS that turn one write into several of their own: a session
// writes all it has, then flushes once.
type BufferedConn interface {
	net.Conn // Write takes all bytes and does not block

	// Flush sends what can be sent at once of what was collected, and returns how
	// many bytes; done says that nothing is left. With wait it blocks until it could
	// send something.
	Flush(wait bool) (n int, done bool, err error)

	// Ready says whether Read is sure to return something at once.
	Ready() bool

	// Joins says that short writes are as good as long ones. If not, a session puts
	// short ones together before.
	Joins() bool
}

// Keeper is a BufferedConn that holds on to what was written, until the other side has it,
// and need not copy it for that.
type Keeper interface {
	BufferedConn

	// Keep does what Write does for what follows the first KeepRoom bytes of b. All of b
	// is the connection's until it calls done, which it does also if it fails.
	Keep(b []byte, done func()) error
}

// KeepRoom is how many bytes a Keeper has for itself before a frame.
const KeepRoom = 4

// Watched is a socket, as the destination of WriteTo or the source of ReadFrom, that
// wants to see the bytes that pass: through its SyscallConn they pass without its Write
// and Read. Where there is no better way than these, they are used, and the methods here
// are not called. All of it must be quick, for other streams wait.
type Watched interface {
	// Writing shows bytes before they are written, in order and each once.
	Writing(p []byte)

	// HasRead shows bytes that were read, before anybody else has them.
	HasRead(p []byte)
}

// wire is the connection as a session uses it. Its writing methods are called by
// one goroutine at a time, its reading methods by one other.
type wire interface {
	// try sends a frame, or its header and its payload, as far as it can without blocking.
	// The first n bytes are taken; when done is false, send must follow. Like send it may
	// take buffers over, which are in their parts no more then.
	try(parts []part) (n int, done bool, err error)

	// send sends what try left and all of parts. waited says that the connection did not
	// take all of it at once.
	send(parts []part) (waited bool, err error)

	// read reads like io.Reader.
	read(p []byte) (int, error)

	// readv fills several buffers in order, as far as bytes are there.
	readv(bufs [][]byte) (int, error)

	// ready says whether the next read is sure not to wait.
	ready() bool

	// await reads the first bytes of a frame. in holds no buffer while there are
	// none.
	await(in *inbox) error
}

// newWire returns the best wire for conn. It adds to taken what conn takes as soon
// as it does: a call to send may last long.
func newWire(conn net.Conn, taken *atomic.Int64) wire {
	if b, ok := conn.(BufferedConn); ok {
		keeper, _ := conn.(Keeper)
		return &bufferedWire{plainWire{conn, taken}, b, keeper, b.Joins()}
	}
	if w := newSocketWire(conn, taken); w != nil {
		return w
	}
	return &plainWire{conn, taken}
}

// plainWire is any connection. Writing may block, so callers of streams never
// write to it themselves.
type plainWire struct {
	conn  net.Conn
	taken *atomic.Int64
}

func (w *plainWire) try([]part) (int, bool, error) { return 0, false, nil }

func (w *plainWire) send(parts []part) (bool, error) { return false, w.gather(parts) }

func (w *plainWire) read(p []byte) (int, error) { return w.conn.Read(p) }

func (w *plainWire) readv(bufs [][]byte) (int, error) { return w.conn.Read(bufs[0]) }

func (w *plainWire) ready() bool { return false }

func (w *plainWire) await(in *inbox) error {
	in.release()
	n, err := w.conn.Read(in.buf)
	in.w = n
	return noEOF(n, err)
}

// noEOF drops the error of a read that brought something: the next will repeat it.
func noEOF(n int, err error) error {
	if n > 0 {
		return nil
	}
	return err
}

// copyBelow is the size of buffers that are put together before a write: a write,
// and a TLS record, cost more than copying so many bytes.
const copyBelow = 8 << 10

func (w *plainWire) write(b []byte) error {
	n, err := w.conn.Write(b)
	w.taken.Add(int64(n))
	return err
}

// gather writes parts in order in few and large writes.
func (w *plainWire) gather(parts []part) error {
	var joined *sendBuf
	defer func() {
		if joined != nil {
			joined.free()
		}
	}()
	flush := func() error {
		if joined == nil || joined.n == 0 {
			return nil
		}
		err := w.write(joined.b[:joined.n])
		joined.n = 0
		return err
	}
	for i, p := range parts {
		b := p.b
		alone := joined == nil || joined.n == 0
		if len(b) >= copyBelow || (alone && i == len(parts)-1) {
			if err := flush(); err != nil {
				return err
			}
			if err := w.write(b); err != nil {
				return err
			}
			continue
		}
		if joined == nil {
			joined = newSendBuf()
		}
		if joined.n+len(b) > len(joined.b) {
			if err := flush(); err != nil {
				return err
			}
		}
		joined.n += copy(joined.b[joined.n:], b)
	}
	return flush()
}

// bufferedWire is a connection that collects writes.
type bufferedWire struct {
	plainWire
	buffered BufferedConn
	keeper   Keeper // nil: it is none
	joins    bool
}

func (w *bufferedWire) ready() bool { return w.buffered.Ready() }

// tlsRecord is the payload of a full TLS record (RFC 8446, section 5.1).
const tlsRecord = 16 << 10

func (w *bufferedWire) try(parts []part) (int, bool, error) {
	n := 0
	for _, p := range parts {
		n += len(p.b)
	}
	var err error
	switch {
	case w.joins:
		err = w.writeParts(parts)
	case len(parts) == 1:
		_, err = w.conn.Write(parts[0].b)
	default:
		err = w.join(parts[0].b, parts[1].b)
	}
	if err != nil {
		return 0, false, err
	}
	_, done, err := w.buffered.Flush(false)
	return n, done, err
}

// keepAbove is the size of frames that a Keeper is given: to copy less costs less than the
// memory of a buffer that it holds for it.
const keepAbove = maxFrame / 2

// keep gives a frame to a Keeper, if it is one that it is to be given.
func (w *bufferedWire) keep(buf *sendBuf) (taken bool, err error) {
	if w.keeper == nil || buf == nil || buf.n < keepAbove {
		return false, nil
	}
	w.taken.Add(int64(buf.n))
	return true, w.keeper.Keep(buf.a[:KeepRoom+buf.n], buf.done)
}

// join writes head and as much of body as fits into one record with it, then the
// rest, so that only that much is copied.
func (w *bufferedWire) join(head, body []byte) error {
	joined := newSendBuf()
	defer joined.free()
	first := min(len(body), max(tlsRecord-len(head), 0))
	n := copy(joined.b[:], head)
	n += copy(joined.b[n:], body[:first])
	if _, err := w.conn.Write(joined.b[:n]); err != nil {
		return err
	}
	if first == len(body) {
		return nil
	}
	_, err := w.conn.Write(body[first:])
	return err
}

// writeParts writes each of parts for itself.
func (w *bufferedWire) writeParts(parts []part) error {
	for i := range parts {
		p := &parts[i]
		taken, err := w.keep(p.buf)
		if taken {
			p.buf = nil
		} else {
			err = w.write(p.b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *bufferedWire) send(parts []part) (waited bool, err error) {
	if w.joins {
		err = w.writeParts(parts)
	} else {
		err = w.gather(parts)
	}
	if err != nil {
		return false, err
	}
	for {
		n, done, err := w.buffered.Flush(waited)
		w.taken.Add(int64(n))
		if err != nil || done {
			return waited, err
		}
		waited = true
	}
}
