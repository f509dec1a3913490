package link

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"
	"time"
)

// Transport is what carries a link between agent and node.
type Transport string

// The transports there are.
const (
	Auto      Transport = "auto"      // the first of the others that gets through
	TLS       Transport = "tls"       // TLS over TCP
	QUIC      Transport = "quic"      // QUIC, with its own streams and datagrams
	WebSocket Transport = "websocket" // TLS in a WebSocket over HTTPS, for where only HTTP passes
)

// Transports are those besides Auto, in the order in which Auto tries them. QUIC comes after
// TLS as it costs both sides more, and is better only where packets are lost, if at all.
func Transports() []Transport { return []Transport{TLS, QUIC, WebSocket} }

// ParseTransport reads the name of a transport; empty is Auto.
func ParseTransport(s string) (Transport, error) {
	if t := Transport(s); t == Auto || slices.Contains(Transports(), t) {
		return t, nil
	}
	if s == "" {
		return Auto, nil
	}
	return "", fmt.Errorf("there is no transport %q: choose auto, tls, quic or websocket", s)
}

// How long a transport may take before the next one is tried beside it. UDP that is blocked
// answers nothing, and a node that answers by QUIC does so within a round trip.
const (
	FallBack = 3 * time.Second
	stagger  = 300 * time.Millisecond
)

func (t Transport) patience() time.Duration {
	if t == QUIC {
		return stagger
	}
	return FallBack
}

// dial dials by the transport that is asked for, or by those that there are.
func (d *Dialer) dial(ctx context.Context, host, address string) (Conn, error) {
	if d.Transport != "" && d.Transport != Auto {
		return d.by(ctx, d.Transport, host, address)
	}
	order := d.order(address)
	attempts := make([]func(context.Context) (Conn, error), len(order))
	for i, t := range order {
		attempts[i] = func(ctx context.Context) (Conn, error) {
			conn, err := d.by(ctx, t, host, address)
			if t == TLS && brokenOff(err) && rest(ctx, breath) {
				conn, err = d.by(ctx, t, host, address)
			}
			return conn, err
		}
	}
	conn, errs := race(ctx, attempts, func(i int) time.Duration { return order[i].patience() }, func(err error) bool {
		_, nothing := errors.AsType[unreachableError](err)
		return nothing
	})
	if conn == nil {
		// The best one's, or that which ended the race.
		return nil, cmp.Or(errs[slices.Index(order, TLS)], errs[slices.Index(order, WebSocket)], errs[0])
	}
	if d.Worked != nil {
		d.Worked(address, conn.Transport())
	}
	return conn, nil
}

// breath is the time before TLS is tried again that was broken off. The server may just have
// died, and refuses connections then; whoever went on to QUIC would meet its successor there,
// though TLS gets through as ever.
const breath = 50 * time.Millisecond

func brokenOff(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// rest waits, and reports whether ctx lasted.
func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// order is that in which transports are tried: the one that worked last, then the others.
func (d *Dialer) order(address string) []Transport {
	order := Transports()
	if d.Last != nil {
		if last := d.Last(address); slices.Contains(order, last) {
			order = slices.Insert(slices.DeleteFunc(order, func(t Transport) bool { return t == last }), 0, last)
		}
	}
	if d.Proxy == nil {
		return order
	}
	if via, err := d.Proxy(address); via == nil && err == nil {
		return order
	}
	return slices.DeleteFunc(order, func(t Transport) bool { return t == QUIC }) // it passes none
}

func (d *Dialer) by(ctx context.Context, t Transport, host, address string) (Conn, error) {
	if t == QUIC {
		return d.overQUIC(ctx, host, address)
	}
	dial := d.overTCP
	if t == WebSocket {
		dial = d.overWebSocket
	}
	conn, err := dial(ctx, host, address)
	if err != nil {
		return nil, err
	}
	conn.by = t
	return conn, nil
}

// race makes attempts one after the other, without waiting for longer than patience for one
// alone, and returns the connection of the first that succeeds; else nil and the error of
// each. An error that is final ends it.
func race(ctx context.Context, attempts []func(context.Context) (Conn, error), patience func(i int) time.Duration, final func(error) bool) (Conn, []error) {
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		i    int
		conn Conn
		err  error
	}
	results := make(chan result, len(attempts))
	begun, pending := 0, 0
	defer func() {
		cancel()
		for ; pending > 0; pending-- {
			if late := <-results; late.conn != nil {
				_ = late.conn.Close()
			}
		}
	}()
	errs := make([]error, len(attempts))
	wait := time.NewTimer(0)
	defer wait.Stop()
	next := func() {
		if begun == len(attempts) {
			return
		}
		i := begun
		begun++
		pending++
		wait.Reset(patience(i))
		go func() {
			conn, err := attempts[i](ctx)
			results <- result{i, conn, err}
		}()
	}
	for next(); pending > 0; {
		select {
		case <-wait.C:
			next()
		case r := <-results:
			pending--
			if r.err == nil {
				return r.conn, nil
			}
			errs[r.i] = r.err
			if final != nil && final(r.err) {
				return nil, errs
			}
			next()
		}
	}
	return nil, errs
}

// Probe reports whether the best transport reaches an address, and has Worked told. It is
// for a link that another one carries.
func (d *Dialer) Probe(ctx context.Context, address string) bool {
	best := *d
	best.Transport, best.Timeout = Transports()[0], FallBack
	conn, err := best.Dial(ctx, address)
	if err != nil {
		return false
	}
	_ = conn.Close()
	if d.Worked != nil {
		d.Worked(address, best.Transport)
	}
	return true
}
