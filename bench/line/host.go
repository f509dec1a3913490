package line

import (
	"context"
	"net"
	"os/exec"
)

// Host is where a part of a benchmark runs: this machine itself, or one end of a line.
type Host interface {
	// IP is its address, for other hosts and for itself.
	IP() string
	Listen(ctx context.Context, address string) (net.Listener, error)
	Dial(ctx context.Context, address string) (net.Conn, error)
	// Start starts a process there.
	Start(cmd *exec.Cmd) error
}

// Loopback is this machine.
var Loopback Host = loopback{}

type loopback struct{}

func (loopback) IP() string { return "127.0.0.1" }

func (loopback) Listen(ctx context.Context, address string) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", address)
}

func (loopback) Dial(ctx context.Context, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

func (loopback) Start(cmd *exec.Cmd) error { return cmd.Start() }
