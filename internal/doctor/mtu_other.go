//go:build !linux

package doctor

import "net"

// pathMTU: only Linux says what it believes of a path.
func pathMTU(*Report, net.Conn) {}
