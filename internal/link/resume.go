package link

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/culvert-tunnel/culvert/internal/link/resume"
	"github.com/culvert-tunnel/culvert/yamux"
)

// Resume says how a link outlives its connection.
type Resume struct {
	Window time.Duration // how long it waits for the next one; default ResumeWindow
	Kept   *KeptBudget   // of what all links of a node keep for sending again; nil: no common one
	Redial Redial        // of the side that dials; nil: the other side does, see Resume. Not of links by QUIC
	Lost   func(error)   // is told why a connection died; nil: nobody is
	Back   func()        // is told when a link by QUIC hears of the other side again; nil: nobody is
}

// Redial makes a new connection for a link, of which this side has received so many
// bytes, and returns how many the other side has. It is called again, after a pause,
// until its error wraps ErrGone.
type Redial func(ctx context.Context, received uint64) (conn net.Conn, theirs uint64, err error)

// The multiplexer's frames are kept for sending again where they are, with the room before
// them that takes (the index is out of range if the two differ).
var (
	_ yamux.Keeper = (*resume.Conn)(nil)
	_              = [1]int{}[yamux.KeepRoom-resume.KeepRoom]
)

// KeptBudget bounds bytes over several links.
type KeptBudget = resume.Budget

// NewKeptBudget returns a budget of so many bytes.
func NewKeptBudget(bytes int64) *KeptBudget { return resume.NewBudget(bytes) }

// ResumeWindow is how long a link waits for its next connection.
const ResumeWindow = resume.DefaultWindow

// ErrGone says that the other side knows the link no more, or does not want it.
var ErrGone = errors.New("the link can't be resumed")

// ErrOutdated is what Resume returns when another connection has taken the place.
var ErrOutdated = resume.ErrOutdated

// over makes a resumable connection, now over conn.
func (r *Resume) over(conn net.Conn, heartbeat time.Duration) *resume.Conn {
	return resume.New(transport(conn), resume.Config{Window: r.Window, Heartbeat: heartbeat, Budget: r.Kept, Lost: r.Lost})
}

// transport returns a connection as a resumable one is to use it.
func transport(conn net.Conn) resume.Transport {
	c, ok := conn.(*tlsConn)
	switch {
	case ok && c.below.socket != nil:
		return secured{batched{c}}
	case ok:
		return resume.Plain(gathered{c})
	}
	return resume.Plain(conn)
}

// secured is a Conn below a resumable connection, whose own record says the end: that
// of TLS would have Close wait for a socket which takes nothing.
type secured struct{ batched }

// Ready implements resume.Transport: a record is one of TLS too, and there as a whole.
func (s secured) Ready(begun bool) bool { return begun || s.below.ready() }

// Close ends the connection at once.
func (s secured) Close() error { return s.below.Close() }

// Delivered implements resume.Deliverer.
func (s secured) Delivered() int64 { return s.below.delivered() }

// Pauses between attempts to reach a node that has been away for some time: a tenth of
// that, so that a node which is back after a moment is found after a moment, and one
// that is down for long is left in peace. A random half is taken off so that the agents
// of a node don't come in one wave.
const (
	minPause = 50 * time.Millisecond
	maxPause = 15 * time.Second
)

// Pause is how long to wait before the next attempt.
func Pause(away time.Duration) time.Duration {
	d := min(max(away/10, minPause), maxPause)
	return d/2 + rand.N(d/2+1) //nolint:gosec // spreads load, hides nothing
}

// keep finds a new connection whenever the link has lost its own.
func (l *Link) keep(ctx context.Context) {
	for {
		select {
		case <-l.conn.Lost():
		case <-l.again:
		case <-l.conn.Done():
			return
		case <-ctx.Done():
			return
		}
		if err := l.reconnect(ctx); err != nil {
			l.conn.Fail(err)
			return
		}
	}
}

// Reconnect has the link take another connection in the place of its own, without loss for
// its streams. It is for the side that dials, and doesn't wait.
func (l *Link) Reconnect() {
	select {
	case l.again <- struct{}{}:
	default: // asked for already, or it never can
	}
}

// reconnect tries until the link has a connection, and returns why it never will.
func (l *Link) reconnect(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-l.conn.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	for began := time.Now(); ; {
		err := l.reconnectOnce(ctx)
		if err == nil || errors.Is(err, ErrGone) || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(Pause(time.Since(began))):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *Link) reconnectOnce(ctx context.Context) error {
	received, claim, err := l.conn.Detach()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	conn, theirs, err := l.redial(ctx, received)
	if err != nil {
		return err
	}
	if err := l.conn.Attach(claim, transport(conn), theirs); err != nil {
		_ = conn.Close()
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	return nil
}

// Resuming is a connection that takes the place of a link's last one.
type Resuming struct {
	Received uint64 // bytes that this side has
	link     *Link
	claim    uint64
}

// Resume takes the link's connection away, if it still has one, so that another can
// take its place. It is for the side that did not dial.
func (l *Link) Resume() (*Resuming, error) {
	if l.conn == nil {
		return nil, ErrGone
	}
	received, claim, err := l.conn.Detach()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	}
	return &Resuming{Received: received, link: l, claim: claim}, nil
}

// With gives the link its new connection, on which the handshake is done. The other
// side has received so many bytes. On failure, with ErrOutdated for one, the connection
// is still the caller's.
func (r *Resuming) With(conn net.Conn, theirs uint64) error {
	return r.link.conn.Attach(r.claim, transport(conn), theirs)
}
