//go:build !unix

package datagram

import "net"

// Receive reads datagrams from a connected socket until an error, which it returns.
// each must not keep its argument.
func Receive(c net.Conn, each func(datagram []byte)) error { return receive(c, each) }
