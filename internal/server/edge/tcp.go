package edge

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// Listen opens the port of a tcp or udp endpoint, as ListenTCP and ListenUDP do.
func (e *Edge) Listen(ctx context.Context, name endpoint.Name) (io.Closer, error) {
	if name.Kind == endpoint.UDP {
		return e.ListenUDP(ctx, name.Port)
	}
	return e.ListenTCP(ctx, name.Port)
}

// ListenTCP opens the port of a tcp endpoint and serves its visitors until the
// returned closer is closed; visitors who are in by then stay until ctx ends.
func (e *Edge) ListenTCP(ctx context.Context, port uint16) (io.Closer, error) {
	l, err := e.cfg.Listen(ctx, "tcp", net.JoinHostPort(e.cfg.TCPHost, strconv.Itoa(int(port))))
	if err != nil {
		return nil, fmt.Errorf("listen for tcp endpoint: %w", err)
	}
	name := endpoint.Name{Kind: endpoint.TCP, Port: port}
	e.ports.Enter()
	go func() {
		defer e.ports.Leave()
		_ = e.accept(ctx, l, func(ctx context.Context, c net.Conn, _ func()) rest {
			return e.carry(ctx, c, visitor(c, name), nil)
		})
	}()
	return l, nil
}
