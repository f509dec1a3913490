//go:build !linux

package yamux

import (
	"io"
	"net"
	"sync/atomic"
)

// newSocketWire knows no better way on this system than net.Conn's.
func newSocketWire(net.Conn, *atomic.Int64) wire { return nil }

// newSink knows no better way on this system than a wake-up.
func newSink(any) sink { return nil }

// readerInto knows no better way on this system than io.Reader's.
func readerInto(r io.Reader) func(limit int) (*sendBuf, int, error) { return plainReader(r) }
