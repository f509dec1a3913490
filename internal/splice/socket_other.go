//go:build !unix

package splice

import "net"

// socketReader is for systems that tell when a socket can be read.
func socketReader(*net.TCPConn) func() (*[]byte, int, error) { return nil }
