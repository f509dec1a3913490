package http1

import (
	"bytes"
	"io"
)

// Reader reads heads from a connection, and gives out what it has read beyond them.
// The zero value reads nothing; set Source.
type Reader struct {
	Source io.Reader
	buf    []byte
	r, w   int // what was read and not used is buf[r:w]
}

// SetBuffer gives the reader another buffer, into which what is not used is copied.
// It returns the old one.
func (r *Reader) SetBuffer(b []byte) []byte {
	old := r.buf
	r.w = copy(b, old[r.r:r.w])
	r.r, r.buf = 0, b
	return old
}

// Size is the size of the buffer.
func (r *Reader) Size() int { return len(r.buf) }

// Buffered is what was read and not used. It is valid until the next read.
func (r *Reader) Buffered() []byte { return r.buf[r.r:r.w] }

// Discard says that the first n bytes of Buffered are used.
func (r *Reader) Discard(n int) {
	r.r += n
	if r.r == r.w {
		r.r, r.w = 0, 0
	}
}

// Fill reads once more, behind what is buffered. A full buffer is an error: the one for
// heads, which only they can be.
func (r *Reader) Fill() error {
	if r.r > 0 {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	if r.w == len(r.buf) {
		return ErrHeadTooLarge
	}
	n, err := r.Source.Read(r.buf[r.w:])
	r.w += n
	if n > 0 {
		return nil // the error comes again
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// Read implements io.Reader: what is buffered, then the source.
func (r *Reader) Read(p []byte) (int, error) {
	if r.r == r.w {
		return r.Source.Read(p)
	}
	n := copy(p, r.buf[r.r:r.w])
	r.Discard(n)
	return n, nil
}

// ReadHead reads a head of at most limit bytes, up to the empty line and with it.
// It grows the buffer as bytes come. One empty line ahead is skipped (RFC 9112,
// section 2.2). The head is part of Buffered until Discard; without a byte of it the
// error is the source's own, later io.ErrUnexpectedEOF for io.EOF.
func (r *Reader) ReadHead(limit int) ([]byte, error) {
	return r.readSection(limit, true)
}

// ReadTrailers reads a trailer section, which may be the empty line alone, like a head.
func (r *Reader) ReadTrailers() ([]byte, error) { return r.readSection(MaxTrailerBytes, false) }

func (r *Reader) readSection(limit int, head bool) ([]byte, error) {
	skipped := !head
	line := 0 // where the present line begins
	for {
		for {
			b := r.buf[r.r:r.w]
			end := bytes.IndexByte(b[line:], '\n')
			if end < 0 {
				break
			}
			if end == 0 || b[line+end-1] != '\r' {
				return nil, ErrBareLF
			}
			next := line + end + 1
			if next > limit {
				return nil, ErrHeadTooLarge
			}
			if end == 1 {
				if line > 0 || skipped {
					return b[:next], nil
				}
				skipped = true
				r.Discard(next)
				continue
			}
			line = next
		}
		if n := r.w - r.r; n >= limit {
			return nil, ErrHeadTooLarge
		}
		if r.r == 0 && r.w == len(r.buf) {
			r.SetBuffer(make([]byte, 2*max(len(r.buf), 1<<10)))
		}
		if err := r.Fill(); err != nil {
			if err == io.EOF && r.w > r.r { //nolint:errorlint // the orderly end (io.Reader)
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}
