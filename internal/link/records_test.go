package link

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
)

// record is a TLS record of n bytes behind its header.
func record(n int, fill byte) []byte {
	return append([]byte{23, 3, 3, byte(n >> 8), byte(n)}, bytes.Repeat([]byte{fill}, n)...) //nolint:gosec // 16 bits
}

// TestRecordsStop: a Read stops at the end of a record, however the bytes come, and all
// come in order.
func TestRecordsStop(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test
		var stream []byte
		ends := make(map[int]bool)
		for i := range 60 {
			n := []int{0, 1, r.IntN(100), r.IntN(16<<10 + 17)}[r.IntN(4)]
			stream = append(stream, record(n, byte(i))...)
			ends[len(stream)] = true
		}
		near, far := sockets(t)
		before := r.IntN(20_000)
		reader := newRecords(near, bytes.Clone(stream[:before]))
		go func() {
			for rest := stream[before:]; len(rest) > 0; {
				n := 1 + r.IntN(len(rest))
				_, _ = far.Write(rest[:n])
				rest = rest[n:]
			}
			_ = far.Close()
		}()
		sizes := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // likewise
		var got []byte
		for {
			p := make([]byte, 1+sizes.IntN(20_000))
			n, err := reader.Read(p)
			for at := len(got) + 1; at < len(got)+n; at++ {
				if ends[at] {
					t.Fatalf("seed %d: a Read from %d to %d passes the end of a record at %d", seed, len(got), len(got)+n, at)
				}
			}
			got = append(got, p[:n]...)
			if err == io.EOF { //nolint:errorlint // bare
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, stream) {
			t.Fatalf("seed %d: %d bytes of %d came, or others", seed, len(got), len(stream))
		}
	}
}

// TestRecordsReady: what brings nothing of a stream, or is not all there, is not waited for
// with something in hand.
func TestRecordsReady(t *testing.T) {
	ack := record(12+sealed, 0)
	data := record(13+sealed, 0)
	for name, tt := range map[string]struct {
		there []byte
		taken int
		want  bool
	}{
		"nothing":                        {nil, 0, false},
		"half a header":                  {data[:3], 0, false},
		"all but a byte":                 {data[:len(data)-1], 0, false},
		"a record":                       {data, 0, true},
		"a record and half":              {append(bytes.Clone(data), data[:4]...), 0, true},
		"an acknowledgement":             {ack, 0, false},
		"one and a record":               {append(bytes.Clone(ack), data...), 0, false},
		"a record behind another":        {append(bytes.Clone(data), data...), len(data), true},
		"a record of which TLS has some": {append(bytes.Clone(data), data...), len(data) - 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := new(records)
			r.in.buf = new([readBatch]byte)
			r.in.w = copy(r.in.buf[:], tt.there)
			for left := tt.taken; left > 0; {
				n := r.in.record.pass(r.in.buf[r.in.r : r.in.r+left])
				r.in.r += n
				left -= n
			}
			if got := r.ready(); got != tt.want {
				t.Errorf("ready: %v", got)
			}
		})
	}
}
