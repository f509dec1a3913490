package datagram

import "net"

// receive is Receive for what is no socket.
func receive(c net.Conn, each func(datagram []byte)) error {
	buf := make([]byte, MaxSize)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		each(buf[:n])
	}
}
