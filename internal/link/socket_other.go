//go:build !unix

package link

import "net"

// socket is for systems whose sockets can be written to without blocking.
type socket struct{}

func newSocket(net.Conn) *socket { return nil }

func (s *socket) read() (*[readBatch]byte, int, error) { return nil, 0, net.ErrClosed }

func (r *records) tryLocked() {}

func (r *records) flush(bool) (int, bool, error) { return 0, true, nil }
