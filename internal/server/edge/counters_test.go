package edge

import (
	"bytes"
	"io"
	"testing"
	"time"
)

// TestUnservedIsCounted: what finishes no ClientHello in time, isn't one, or names
// nobody is closed and counted.
func TestUnservedIsCounted(t *testing.T) {
	r := run(t, Config{HelloTimeout: 100 * time.Millisecond})
	hello := clientHello(t, "nobody.example.org")
	for _, first := range [][]byte{nil, hello[:len(hello)/2], {0}, bytes.Repeat([]byte{22, 3, 1, 0, 1, 1}, 20_000), hello} {
		c := dial(t, r.secure)
		_, _ = c.Write(first)
		_, _ = io.ReadAll(c) // until it is closed
	}
	eventually(t, "all to be counted", func() bool {
		n := r.edge.Counters()
		return n.NoHello == 2 && n.NotTLS == 2 && n.UnknownName == 1
	})
}
