package harness

import (
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// FreePort is a port of loopback that nobody uses, for a process that is about to and can't
// be given the port 0. It is none of those that the system gives to who asks for any (32768
// and up on Linux), which the next connection could have before the process does.
func FreePort(t testing.TB) string {
	t.Helper()
	for range 1000 {
		port := strconv.Itoa(10_000 + rand.IntN(10_000)) //nolint:gosec // chance, not a secret
		address := net.JoinHostPort("127.0.0.1", port)
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		_ = l.Close()
		p, err := net.ListenPacket("udp", address)
		if err != nil {
			continue
		}
		_ = p.Close()
		return port
	}
	t.Fatal("no port is free")
	return ""
}

// FreeAddress is 127.0.0.1 with a FreePort.
func FreeAddress(t testing.TB) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", FreePort(t))
}
