package yamux

import (
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// sentinelError is an error of its own that also is what users of package net
// expect in its place.
type sentinelError struct {
	text string
	is   error
}

func (e *sentinelError) Error() string { return "yamux: " + e.text }
func (e *sentinelError) Unwrap() error { return e.is }

// Why an operation on a stream or session failed. Methods of streams return them
// within a *net.OpError that names the operation, as connections of package net do. Deadlines that passed are
// os.ErrDeadlineExceeded, and the end of a stream is io.EOF.
var (
	// ErrSessionClosed: Close or Shutdown was called here. Is net.ErrClosed.
	ErrSessionClosed error = &sentinelError{"session closed", net.ErrClosed}
	// ErrPeerClosed: the other side closed the connection. Is ECONNRESET.
	ErrPeerClosed error = &sentinelError{"connection closed by the other side", syscall.ECONNRESET}
	// ErrKeepAlive: the other side was silent for too long. Is ETIMEDOUT.
	ErrKeepAlive error = &sentinelError{"no sign of life from the other side", syscall.ETIMEDOUT}
	// ErrGoAway: no new streams, because one side said GoAway.
	ErrGoAway error = &sentinelError{"the session takes no new streams", net.ErrClosed}
	// ErrStreamClosed: this side closed the stream. Is net.ErrClosed.
	ErrStreamClosed error = &sentinelError{"stream closed", net.ErrClosed}
	// ErrStreamReset: the other side reset the stream. Is ECONNRESET.
	ErrStreamReset error = &sentinelError{"stream reset by the other side", syscall.ECONNRESET}
	// ErrTooManyPings: more pings wait for their answers than are reasonable.
	ErrTooManyPings error = &sentinelError{"too many pings are unanswered", nil}
	// ErrStreamIDs: this side has opened as many streams as the protocol allows.
	ErrStreamIDs error = &sentinelError{"stream ids are used up", net.ErrClosed}
)

// What a peer can do wrong, found inside a ProtocolError. To the streams of the
// session each is what a reset is: ECONNRESET.
var (
	ErrVersion        error = &sentinelError{"unknown protocol version", syscall.ECONNRESET}
	ErrFrameType      error = &sentinelError{"unknown frame type", syscall.ECONNRESET}
	ErrStreamID       error = &sentinelError{"stream id not allowed here", syscall.ECONNRESET}
	ErrWindowExceeded error = &sentinelError{"more data than the window allows", syscall.ECONNRESET}
	ErrWindowOverflow error = &sentinelError{"window counter overflows", syscall.ECONNRESET}
	ErrFlood          error = &sentinelError{"more requests than are reasonable", syscall.ECONNRESET}
	ErrTruncated      error = &sentinelError{"connection ended within a frame", syscall.ECONNRESET}
)

// GoAwayCode is the reason in a GoAway frame.
type GoAwayCode uint32

// Codes of the specification.
const (
	GoAwayNormal   GoAwayCode = 0
	GoAwayProtocol GoAwayCode = 1
	GoAwayInternal GoAwayCode = 2
)

// ProtocolError ends a session whose other side broke the protocol or a limit.
type ProtocolError struct {
	Reason error  // one of the errors above
	Stream uint32 // the stream concerned, or 0
}

func (e *ProtocolError) Error() string {
	if e.Stream == 0 {
		return e.Reason.Error()
	}
	return fmt.Sprintf("%v (stream %d)", e.Reason, e.Stream)
}

// Unwrap returns the reason.
func (e *ProtocolError) Unwrap() error { return e.Reason }

// GoAwayError ends a session whose other side gave it up with an error code.
type GoAwayError struct{ Code GoAwayCode }

func (e *GoAwayError) Error() string {
	return fmt.Sprintf("yamux: the other side ended the session with code %d", e.Code)
}

// Unwrap returns ECONNRESET.
func (e *GoAwayError) Unwrap() error { return syscall.ECONNRESET }

var errDeadline = os.ErrDeadlineExceeded

// opError names the operation that failed. The end of input stays bare, as
// io.Reader has it.
func (st *Stream) opError(op string, err error) error {
	if err == nil || err == io.EOF { //nolint:errorlint // see above
		return err
	}
	return &net.OpError{Op: op, Net: "yamux", Source: st.LocalAddr(), Addr: st.RemoteAddr(), Err: err}
}
