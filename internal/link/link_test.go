package link

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
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

// TestAgentOpensFewStreams: what an agent opens beyond its control stream is reset,
// before it can fill the node's memory.
func TestAgentOpensFewStreams(t *testing.T) {
	a, b := net.Pipe()
	agent, node := Client(a, Config{}), Server(b, Config{})
	var tasks sync.WaitGroup
	tasks.Go(func() { _ = agent.Run(t.Context()) })
	tasks.Go(func() { _ = node.Run(t.Context()) })
	refused := 0
	for i := range 20 {
		s, err := agent.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if i < ofAgent {
			continue // waits to be accepted
		}
		if _, err := s.Read(make([]byte, 1)); errors.Is(err, syscall.ECONNRESET) {
			refused++
		}
	}
	if refused != 20-ofAgent {
		t.Errorf("%d of 20 streams refused", refused)
	}
	_, _ = agent.Close(), node.Close()
	tasks.Wait()
}
