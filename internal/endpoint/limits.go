package endpoint

import (
	"fmt"
	"time"
)

// Limits of an endpoint's visitors, which the edge holds. Those of bytes hold for each
// direction by itself. The zero value has none.
type Limits struct {
	Connections         uint32 // at a time; of a UDP endpoint: flows
	Rate                uint32 // new ones per second
	Bandwidth           uint64 // bytes per second of all together
	ConnectionBandwidth uint64 // bytes per second of each
	// IdleTimeout ends a connection without a byte in either direction; zero: none,
	// of a UDP endpoint the node's own.
	IdleTimeout time.Duration
	// KeepAlive is the silence after which a visitor's TCP connection is asked for
	// life; zero: the node's own, negative: never.
	KeepAlive time.Duration
}

// LeastBandwidth is the lowest limit, in bytes per second: less is a slip of the unit.
const LeastBandwidth = 128

func (l Limits) validate(kind Kind) error {
	switch {
	case l == Limits{}:
		return nil
	case kind == HTTP:
		return fmt.Errorf("%w: limits of connections are for tcp, tls and udp endpoints", ErrBadSpec)
	case kind == UDP && l.KeepAlive != 0:
		return fmt.Errorf("%w: udp has no keep-alive", ErrBadSpec)
	case l.Bandwidth > 0 && l.Bandwidth < LeastBandwidth, l.ConnectionBandwidth > 0 && l.ConnectionBandwidth < LeastBandwidth:
		return fmt.Errorf("%w: a bandwidth is at least %d bytes per second", ErrBadSpec, LeastBandwidth)
	case l.IdleTimeout < 0 || l.IdleTimeout > 0 && l.IdleTimeout < time.Second, l.KeepAlive > 0 && l.KeepAlive < time.Second:
		return fmt.Errorf("%w: idle time-out and keep-alive are at least one second", ErrBadSpec)
	case l.IdleTimeout > maxTime || l.KeepAlive > maxTime:
		return fmt.Errorf("%w: idle time-out and keep-alive are at most a week", ErrBadSpec)
	}
	return nil
}

const maxTime = 7 * 24 * time.Hour
