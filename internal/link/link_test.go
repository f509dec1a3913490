package link

import (
	"io"
	"net"
	"sync"
	"testing"
)

// TestLostLinkIsNoEnd: whatever a stream was doing when the link's connection went
// away, its reader must not take that for an orderly end: half a download would look
// whole.
func TestLostLinkIsNoEnd(t *testing.T) {
	for range 50 {
		a, b := net.Pipe()
		sends, reads := Client(a, Config{}), Server(b, Config{})
		var tasks sync.WaitGroup
		tasks.Go(func() { _ = sends.Run(t.Context()) })
		tasks.Go(func() { _ = reads.Run(t.Context()) })
		out, err := sends.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		tasks.Go(func() {
			for buf := make([]byte, 64<<10); ; {
				if _, err := out.Write(buf); err != nil {
					return
				}
			}
		})
		in, err := reads.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, in, 512<<10); err != nil {
			t.Fatal(err)
		}
		tasks.Go(func() { _ = a.Close() })
		n, err := io.Copy(io.Discard, in)
		_, _ = sends.Close(), reads.Close()
		tasks.Wait()
		if err == nil {
			t.Fatalf("after %d bytes it looked like an orderly end", n)
		}
	}
}
