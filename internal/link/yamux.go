package link

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/libp2p/go-yamux/v5"
)

// yamuxMux carries streams over Yamux.
type yamuxMux struct {
	session *yamux.Session
}

func newYamux(conn net.Conn, cfg Config, client bool) multiplexer {
	yc := yamux.DefaultConfig()
	yc.KeepAliveInterval = cfg.heartbeat()
	yc.ConnectionWriteTimeout = cfg.heartbeat()
	yc.MaxIncomingStreams = 1 << 16
	yc.AcceptBacklog = 4096
	yc.WriteCoalesceDelay = 0
	yc.LogOutput = io.Discard
	var s *yamux.Session
	if client {
		s, _ = yamux.Client(conn, yc, nil)
	} else {
		s, _ = yamux.Server(conn, yc, nil)
	}
	return &yamuxMux{session: s}
}

func (y *yamuxMux) open(ctx context.Context) (Stream, error) {
	s, err := y.session.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (y *yamuxMux) accept(context.Context) (Stream, error) {
	s, err := y.session.AcceptStream()
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (y *yamuxMux) run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		_ = y.session.Close()
		return context.Cause(ctx)
	case <-y.session.CloseChan():
		return y.err()
	}
}

func (y *yamuxMux) close() error          { return y.session.Close() }
func (y *yamuxMux) done() <-chan struct{} { return y.session.CloseChan() }
func (y *yamuxMux) queued() int           { return 0 }
func (y *yamuxMux) rtt() time.Duration    { return y.session.RTT() }

func (y *yamuxMux) err() error {
	if y.session.IsClosed() {
		return net.ErrClosed
	}
	return nil
}
