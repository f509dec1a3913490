package line

import (
	"io"
	"testing"
	"time"
)

// BenchmarkLine shows that a line is what it was asked to be: 100 Mbit/s and 20 ms.
func BenchmarkLine(b *testing.B) {
	l, err := New(Config{Rate: 100e6, Delay: 10 * time.Millisecond})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	c, s, err := l.Pair(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	defer s.Close()
	echoed := make(chan error, 1)
	go func() {
		_, err := io.CopyN(s, s, 1)
		echoed <- err
	}()
	start := time.Now()
	one := make([]byte, 1)
	if _, err := c.Write(one); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(c, one); err != nil {
		b.Fatal(err)
	}
	trip := time.Since(start)
	if err := <-echoed; err != nil {
		b.Fatal(err)
	}
	const size = 1 << 20
	go func() {
		for {
			if _, err := c.Write(make([]byte, size)); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, size)
	if _, err := io.ReadFull(s, buf); err != nil { // TCP's start doesn't count
		b.Fatal(err)
	}
	start = time.Now()
	for b.Loop() {
		if _, err := io.ReadFull(s, buf); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(trip.Microseconds())/1e3, "ms/round-trip")
	b.ReportMetric(float64(b.N)*size*8/time.Since(start).Seconds()/1e6, "Mbit/s")
}
