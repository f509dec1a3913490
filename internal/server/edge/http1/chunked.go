package http1

// Chunked follows a body in chunks (RFC 9112, section 7.1) without holding any of it.
// The zero value is at the beginning of a body.
type Chunked struct {
	state  chunkState
	left   uint64 // of the chunk's data
	line   int    // bytes of the present chunk's first line
	digits int
	extra  int // bytes of extensions in all
}

type chunkState uint8

const (
	atSize chunkState = iota
	inSize
	inExtension
	atSizeLF
	inData
	atDataCR
	atDataLF
	atTrailers
)

// Limits on what is not content: a line with its extensions, and extensions in all.
const (
	maxChunkLine  = 1 << 10
	maxExtensions = 16 << 10
)

// Done reports whether the last chunk has been seen: a trailer section follows.
func (c *Chunked) Done() bool { return c.state == atTrailers }

// Next looks at b, the bytes that come next. It returns how many of them belong to
// the body up to the next border, and those among them that are content. Call it
// again with the rest until there is none or Done.
func (c *Chunked) Next(b []byte) (n int, data []byte, err error) {
	for n < len(b) {
		if c.state == inData {
			k := int(min(c.left, uint64(len(b)-n)))
			data = b[n : n+k]
			if c.left -= uint64(k); c.left == 0 {
				c.state = atDataCR
			}
			return n + k, data, nil
		}
		if c.state == atTrailers {
			return n, nil, nil
		}
		if err := c.step(b[n]); err != nil {
			return n, nil, err
		}
		n++
	}
	return n, nil, nil
}

// step takes one byte that is not content.
func (c *Chunked) step(b byte) error {
	if c.line++; c.line > maxChunkLine {
		return ErrBadChunk
	}
	switch c.state {
	case atSize, inSize:
		return c.size(b)
	case inExtension:
		if c.extra++; c.extra > maxExtensions {
			return ErrBadChunk
		}
		switch {
		case b == '\r':
			c.state = atSizeLF
		case classes[b]&textByte == 0:
			return ErrBadChunk
		}
	case atSizeLF:
		if b != '\n' {
			return ErrBadChunk
		}
		if c.line, c.digits, c.state = 0, 0, inData; c.left == 0 {
			c.state = atTrailers
		}
	case atDataCR:
		if b != '\r' {
			return ErrBadChunk
		}
		c.state = atDataLF
	case atDataLF:
		if b != '\n' {
			return ErrBadChunk
		}
		c.line, c.state = 0, atSize
	case inData, atTrailers:
	}
	return nil
}

// size takes a byte of a chunk's size, or what ends it.
func (c *Chunked) size(b byte) error {
	digit, ok := hexDigit(b)
	switch {
	case ok && c.digits < 15: // 2^60 bytes and no overflow
		c.digits++
		c.left = c.left<<4 | uint64(digit)
		c.state = inSize
	case c.state == inSize && b == '\r':
		c.state = atSizeLF
	case c.state == inSize && b == ';':
		c.state = inExtension
	default:
		return ErrBadChunk
	}
	return nil
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
