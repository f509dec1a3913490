package inspect

import (
	"strings"
	"testing"
)

// BenchmarkExchange is what one request costs: seen by the tap, taken apart, kept, and
// another one dropped for it.
func BenchmarkExchange(b *testing.B) {
	cv := newConversation(Config{Memory: 4 << 20})
	ask := []byte("GET /api/orders?limit=20 HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate, br\r\n" +
		"Forwarded: for=203.0.113.9;host=\"shop.example.com\";proto=https\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Host: shop.example.com\r\nX-Forwarded-Proto: https\r\nX-Real-Ip: 203.0.113.9\r\n\r\n")
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: Tue, 24 Nov 2026 23:54:22 GMT\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("x", 1024))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		cv.t.saw(toUpstream, ask)
		cv.t.saw(toVisitor, answer)
		if n++; n%3 == 0 { // a few requests of a connection come in one batch
			cv.in.work()
		}
	}
}
