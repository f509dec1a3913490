//go:build !unix

package link

import (
	"io"
	"net"
)

// socket is for systems whose sockets can be written to without blocking.
type socket struct{}

func newSocket(net.Conn) *socket { return nil }

func socketOf(io.Reader) *socket { return nil }

func (s *socket) read(int) (*[readBatch]byte, int, error) { return nil, 0, net.ErrClosed }

func (r *records) tryLocked() {}

func (r *records) delivered() int64 { return 0 }

func (r *records) flush(bool) (int, bool, error) { return 0, true, nil }
