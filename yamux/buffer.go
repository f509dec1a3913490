package yamux

import "sync"

// sendBuf holds frames, headers included, until they are sent, or longer if a Keeper
// wants that.
type sendBuf struct {
	next   *sendBuf
	stream *Stream // whose frame it is, in the bulk queue
	n      int     // bytes of b in use
	b      []byte  // all of a but a Keeper's room
	done   func()  // free, made once
	a      [KeepRoom + maxFrame]byte
}

var sendBufs sync.Pool

func newSendBuf() *sendBuf {
	if b, ok := sendBufs.Get().(*sendBuf); ok {
		return b
	}
	b := new(sendBuf)
	b.b, b.done = b.a[KeepRoom:], b.free
	return b
}

func (b *sendBuf) free() {
	b.next, b.stream, b.n = nil, nil, 0
	sendBufs.Put(b)
}

// chunk holds received bytes, b[r:w], until the stream's reader takes them.
type chunk struct {
	next *chunk
	r, w int
	b    []byte
}

// room is how many bytes more it holds.
func (c *chunk) room() uint32 { return uint32(len(c.b) - c.w) } //nolint:gosec // small

// Chunks come in three sizes, so that neither a byte that nobody reads holds much
// nor bulk is cut into small pieces. The largest is that of a TLS record.
const (
	smallChunk  = 512
	mediumChunk = 4 << 10
	largeChunk  = 16 << 10
)

func chunkPool(size int) *sync.Pool {
	return &sync.Pool{New: func() any { return &chunk{b: make([]byte, size)} }}
}

var smallChunks, mediumChunks, largeChunks = chunkPool(smallChunk), chunkPool(mediumChunk), chunkPool(largeChunk)

// newChunk returns an empty chunk for n bytes or, if they are more, a large one.
func newChunk(n int) *chunk {
	switch {
	case n <= smallChunk:
		return smallChunks.Get().(*chunk)
	case n <= mediumChunk:
		return mediumChunks.Get().(*chunk)
	}
	return largeChunks.Get().(*chunk)
}

func (c *chunk) free() {
	c.next, c.r, c.w = nil, 0, 0
	switch len(c.b) {
	case smallChunk:
		smallChunks.Put(c)
	case mediumChunk:
		mediumChunks.Put(c)
	default:
		largeChunks.Put(c)
	}
}

// unread is how many bytes are in a list.
func unread(c *chunk) int {
	n := 0
	for ; c != nil; c = c.next {
		n += c.w - c.r
	}
	return n
}

// freeChunks frees a list.
func freeChunks(c *chunk) {
	for c != nil {
		next := c.next
		c.free()
		c = next
	}
}

// lookahead is how many bytes are read beyond the frame at hand: many small
// frames, or little enough of a large one's payload to be copied.
const lookahead = 4 << 10

var lookaheads = sync.Pool{New: func() any { return new([lookahead]byte) }}
