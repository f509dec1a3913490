package control

import (
	"fmt"
	"sync/atomic"

	"github.com/culvert-tunnel/culvert/internal/server/auth"
	"github.com/culvert-tunnel/culvert/internal/server/limit"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// usage is what the agents of one token use of this node together. The limits of a token
// are each node's to keep: to count sessions and streams across nodes would cost every
// visitor a message.
type usage struct {
	sessions  int // guarded by Control.mu
	streams   atomic.Int64
	bandwidth *limit.Bandwidth // nil: no limit
}

func newUsage(g auth.Grant) *usage {
	u := &usage{}
	if g.Bandwidth > 0 {
		u.bandwidth = limit.NewBandwidth(g.Bandwidth)
	}
	return u
}

// admit returns a session's Admit for a limit of streams; nil for none.
func (u *usage) admit(limit int) func() (func(), error) {
	if limit <= 0 {
		return nil
	}
	return func() (func(), error) {
		if u.streams.Add(1) > int64(limit) {
			u.streams.Add(-1)
			return nil, &tunnel.StreamError{
				Code:    tunnel.CodeTooManyConnections,
				Message: fmt.Sprintf("the token allows %d connections at once", limit),
			}
		}
		return func() { u.streams.Add(-1) }, nil
	}
}
