package edge

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// ListenTCP opens the port of a tcp endpoint and serves its visitors until the
// returned closer is closed; visitors who are in by then stay until ctx ends.
func (e *Edge) ListenTCP(ctx context.Context, port uint16) (io.Closer, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(e.cfg.TCPHost, strconv.Itoa(int(port))))
	if err != nil {
		return nil, fmt.Errorf("listen for tcp endpoint: %w", err)
	}
	name := endpoint.Name{Kind: endpoint.TCP, Port: port}
	e.ports.Enter()
	go func() {
		defer e.ports.Leave()
		_ = e.accept(ctx, l, func(ctx context.Context, c net.Conn) {
			e.visits.Enter()
			defer e.visits.Leave()
			e.carry(ctx, c, visitor(c, name), nil)
		})
	}()
	return l, nil
}
