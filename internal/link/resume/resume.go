// Package resume makes one connection out of many: when the transport connection
// below a Conn dies, another takes its place, and what the other side has not
// received is sent again. Whoever reads and writes above notices a pause, nothing
// else. The package knows neither TLS nor Yamux nor the handshake that gives a
// transport connection to a Conn: link puts them together.
//
// Both sides keep what they sent until the other says that it has it (ring), and
// count the bytes they received. Acknowledgements are asked for by who sends, so a
// receiver holds no timer for them, and a link without traffic sends nothing for
// them. docs/protocol.md has the records.
package resume

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Transport is a connection as a Conn uses it. Write collects and does not block;
// Flush sends what can be sent at once, or with wait blocks until it could send
// something, and says whether nothing is left; Ready says that Read is sure to return
// at once a record's bytes, perhaps the rest of one that was begun. Close is immediate and
// ends the calls under way. Plain makes one of any connection.
type Transport interface {
	net.Conn
	Flush(wait bool) (n int, done bool, err error)
	Ready(begun bool) bool
}

// Errors that end a Conn, besides *ProtocolError and net.ErrClosed.
var (
	// ErrLost says that no transport connection took the place of the last one in time.
	ErrLost = errors.New("the connection was lost and did not come back in time")
	// ErrPeerClosed says that the other side ended the Conn for good.
	ErrPeerClosed = errors.New("the other side closed the connection")
)

// Errors that end a transport connection.
var (
	errSilent   = errors.New("the other side has fallen silent")
	errReplaced = errors.New("another connection takes its place")
)

// ErrOutdated is what Attach returns when another connection came in between.
var ErrOutdated = errors.New("another connection has taken the place already")

// ProtocolError says what the other side did that it must not do. It ends the Conn.
type ProtocolError struct{ Reason string }

func (e *ProtocolError) Error() string { return "resume: the other side " + e.Reason }

// Config of a Conn. The zero value works.
type Config struct {
	Window    time.Duration // how long a Conn lives without a transport connection; default 30 s
	Heartbeat time.Duration // silence after which the other side is asked for life; default 5 s
	Keep      int64         // bound of the bytes kept for sending again; default 16 MiB
	Budget    *Budget       // bound of what all Conns of a process keep; nil: none
	Lost      func(error)   // is told why a transport connection died; nil: nobody is
}

// Defaults of Config.
const (
	DefaultWindow    = 30 * time.Second
	defaultHeartbeat = 5 * time.Second
	defaultKeep      = 16 << 20
)

// Conn is a connection that outlives its transport connections. One goroutine reads
// at a time and one writes, as with yamux. Make one with New, end it with Close.
//
// Locks: mu before in.mu.
type Conn struct {
	cfg   Config
	began time.Time
	lost  chan struct{}
	done  chan struct{}
	tasks sync.WaitGroup // pumps; grows only while mu.err is nil

	heard atomic.Int64 // now, when a byte last came

	mu struct {
		sync.Mutex
		sending
		liveness
		changed sync.Cond // signals whatever a writer may wait for
		err     error     // why the Conn ended
		closing bool      // by Close, which tells the other side
		t       Transport // nil: away
		last    Transport // the last one there was, for its addresses
		losses  uint64    // of transport connections
		claim   uint64    // who detached last may attach
		away    *time.Timer
		since   time.Time     // when the last one was lost
		back    chan struct{} // closed when there is one again, or never will be; nil: there is one
	}
	in receiving
}

// New makes a Conn over its first transport connection.
func New(t Transport, cfg Config) *Conn {
	if cfg.Window <= 0 {
		cfg.Window = DefaultWindow
	}
	if cfg.Heartbeat <= 0 {
		cfg.Heartbeat = defaultHeartbeat
	}
	if cfg.Keep <= 0 {
		cfg.Keep = defaultKeep
	}
	c := &Conn{cfg: cfg, began: time.Now(), lost: make(chan struct{}, 1), done: make(chan struct{})}
	c.mu.changed.L = &c.mu
	c.in.changed.L = &c.in.mu
	c.mu.ring.budget = cfg.Budget
	c.mu.Lock()
	defer c.mu.Unlock()
	c.useLocked(t)
	c.mu.timer = time.AfterFunc(cfg.Heartbeat, c.look)
	return c
}

// useLocked makes t the transport connection, which may be none.
func (c *Conn) useLocked(t Transport) {
	c.mu.t = t
	if t != nil {
		c.mu.last = t
		c.mu.blocked, c.mu.missed, c.mu.progress = false, 0, 0
		c.heard.Store(c.now())
	}
	c.in.mu.Lock()
	c.in.mu.t = t
	c.in.mu.Unlock()
	c.in.changed.Broadcast()
	c.mu.changed.Broadcast()
}

// now is the time since the Conn was made.
func (c *Conn) now() int64 { return int64(time.Since(c.began)) }

// Lost has a token when the transport connection has died.
func (c *Conn) Lost() <-chan struct{} { return c.lost }

// Done is closed when the Conn has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Away returns, while the Conn waits for a transport connection, since when, and a channel
// that is closed when it has one or has ended; else nil.
func (c *Conn) Away() (since time.Time, back <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.since, c.mu.back
}

// loseLocked notes that t has died.
func (c *Conn) loseLocked(t Transport, cause error) {
	if c.mu.err != nil || c.mu.t != t {
		return
	}
	if c.mu.closing { // the other side has heard, and closes too
		c.endLocked(net.ErrClosed)
		return
	}
	_ = t.Close()
	c.useLocked(nil)
	if c.cfg.Lost != nil && cause != errReplaced { //nolint:errorlint // made here, never wrapped
		c.tasks.Go(func() { c.cfg.Lost(cause) })
	}
	c.mu.since, c.mu.back = time.Now(), make(chan struct{})
	c.mu.losses++
	loss := c.mu.losses
	c.mu.away = time.AfterFunc(c.cfg.Window, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.mu.t == nil && c.mu.losses == loss {
			c.endLocked(fmt.Errorf("%w: %w", ErrLost, cause))
		}
	})
	select {
	case c.lost <- struct{}{}:
	default:
	}
}

// Detach takes the transport connection, if there still is one, away. It returns how
// many bytes this side has received, which no byte of that connection will change any
// more, and what Attach is to be given.
func (c *Conn) Detach() (received, claim uint64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.err != nil {
		return 0, 0, c.mu.err
	}
	if c.mu.t != nil {
		c.loseLocked(c.mu.t, errReplaced)
	}
	c.mu.claim++
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	return c.in.mu.received, c.mu.claim, nil
}

// Attach makes t the transport connection and sends again what the other side, by its
// count, has not received. It fails with ErrOutdated when there was a Detach after the one
// that returned claim. On failure t is still the caller's.
func (c *Conn) Attach(claim uint64, t Transport, theirs uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.mu.err != nil:
		return c.mu.err
	case c.mu.claim != claim || c.mu.t != nil:
		return ErrOutdated
	}
	if err := c.ackLocked(theirs, c.mu.sent); err != nil {
		c.endLocked(err)
		return err
	}
	c.mu.next, c.mu.asked = theirs, theirs
	c.mu.away.Stop()
	select {
	case <-c.lost: // of the connection before
	default:
	}
	c.useLocked(t)
	close(c.mu.back)
	c.mu.back = nil
	c.mu.timer.Reset(c.cfg.Heartbeat)
	c.pumpAsideLocked()
	return nil
}

// Fail ends the Conn because there is no hope of another transport connection.
func (c *Conn) Fail(why error) {
	c.mu.Lock()
	c.endLocked(why)
	c.mu.Unlock()
	c.tasks.Wait()
}

// Close ends the Conn at once, and tells the other side so if that can be done.
func (c *Conn) Close() error {
	c.mu.Lock()
	c.mu.closing = true
	if t := c.mu.t; t != nil {
		c.farewellLocked(t)
	}
	c.endLocked(net.ErrClosed)
	c.mu.Unlock()
	c.tasks.Wait()
	return nil
}

// farewell bounds the time that Close takes to tell the other side.
const farewell = 250 * time.Millisecond

func (c *Conn) farewellLocked(t Transport) {
	var b [headerSize]byte
	putHeader(b[:], kindClose, 0)
	if _, err := t.Write(b[:]); err != nil || c.mu.pumping {
		return // whoever pumps may still send it
	}
	_, done, err := t.Flush(false)
	if err != nil || done || t.SetWriteDeadline(time.Now().Add(farewell)) != nil {
		return
	}
	c.mu.pumping = true
	c.mu.Unlock()
	for err == nil && !done {
		_, done, err = t.Flush(true)
	}
	c.mu.Lock()
	c.mu.pumping = false
}

// endLocked ends the Conn for good.
func (c *Conn) endLocked(why error) {
	if c.mu.err != nil {
		return
	}
	c.mu.err = why
	c.mu.timer.Stop()
	if c.mu.away != nil {
		c.mu.away.Stop()
	}
	if c.mu.t != nil {
		_ = c.mu.t.Close()
	}
	c.in.mu.Lock()
	c.in.mu.err = why
	c.in.mu.Unlock()
	c.useLocked(nil)
	if c.mu.back != nil {
		close(c.mu.back)
		c.mu.back = nil
	}
	c.mu.ring.drop(c.mu.ring.end)
	close(c.done)
}

// LocalAddr is that of the present transport connection, or the last.
func (c *Conn) LocalAddr() net.Addr { return c.latest().LocalAddr() }

// RemoteAddr is that of the present transport connection, or the last.
func (c *Conn) RemoteAddr() net.Addr { return c.latest().RemoteAddr() }

func (c *Conn) latest() Transport {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.last
}

// SetDeadline is not supported, and neither are the other two: streams have deadlines
// of their own.
func (c *Conn) SetDeadline(time.Time) error { return errors.ErrUnsupported }

// SetReadDeadline is not supported.
func (c *Conn) SetReadDeadline(time.Time) error { return errors.ErrUnsupported }

// SetWriteDeadline is not supported.
func (c *Conn) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }
