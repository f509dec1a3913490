package http2

import (
	"context"
	"testing"

	"golang.org/x/net/http2"

	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
)

// BenchmarkRequests: what a request costs that comes with others and is answered at once.
func BenchmarkRequests(b *testing.B) {
	fields := []http1.Field{
		{Name: []byte("Content-Type"), Value: []byte("text/plain")},
		{Name: []byte("Content-Length"), Value: []byte("1024")},
		{Name: []byte("Date"), Value: []byte("Wed, 25 Nov 2026 03:00:00 GMT")},
		{Name: []byte("x-request-id"), Value: []byte("2uc1n2fhyo5gm")},
	}
	body := []byte(long(1024))
	const at = 200
	in := script(func(f *http2.Framer, head func(...string) []byte) {
		_ = f.WriteWindowUpdate(0, 1<<30)
		for id := uint32(1); id < 2*at; id += 2 {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, EndStream: true, BlockFragment: head(":method", "GET", ":scheme", "https", ":authority", "app.example.com", ":path", "/",
				"user-agent", "Mozilla/5.0", "accept", "*/*", "accept-encoding", "gzip, br")})
		}
	})
	b.ReportAllocs()
	for n := 0; n < b.N; n += at {
		served := make(chan struct{}, at)
		m := newMemory(in)
		_ = New(waiting{m, served}, Config{Handle: func(s *Stream) {
			_ = s.WriteHead(200, fields, false)
			_ = s.Write(body, true)
			served <- struct{}{}
		}}).Run(context.Background())
	}
}

// waiting ends when all is served.
type waiting struct {
	*memory
	served chan struct{}
}

func (w waiting) Read(p []byte) (int, error) {
	n, err := w.memory.Read(p)
	if err != nil {
		for range cap(w.served) {
			<-w.served
		}
	}
	return n, err
}
