//go:build !unix

package link

import "net"

// socket is for systems whose sockets can be written to without blocking.
type socket struct{}

func newSocket(net.Conn) *socket { return nil }

func (s *socket) read() (*[readBatch]byte, int, error) { return nil, 0, net.ErrClosed }

func (r *records) flushLocked() (bool, error) { return true, nil }

func (r *records) flush(bool) (bool, error) { return true, nil }
