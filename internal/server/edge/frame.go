package edge

import (
	"bytes"
	"io"
	"strconv"

	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
)

// framed follows a body through the reader it comes by, to its end and no further.
type framed struct {
	in      *http1.Reader
	left    int64 // of a body with a length; http1.Unknown: of none
	chunked bool
	decode  bool // give out the content of chunks alone, not as they came
	chunks  http1.Chunked
	trailer []http1.Field // after the end of a body in chunks

	content int64
	done    bool
}

func newFramed(in *http1.Reader, h *http1.Head, decode bool) framed {
	return framed{in: in, left: h.Length, chunked: h.Chunked, decode: decode, done: !h.Chunked && h.Length == 0}
}

// next returns what of the body is there, as it is to be passed on, which may be nothing.
// It never reads; what it returns is valid until the next read.
func (f *framed) next() ([]byte, error) {
	switch {
	case f.done:
		return nil, nil
	case f.chunked:
		return f.nextChunks()
	}
	b := f.in.Buffered()
	if f.left != http1.Unknown {
		b = b[:min(int64(len(b)), f.left)]
		f.left -= int64(len(b))
		f.done = f.left == 0
	}
	f.content += int64(len(b))
	f.in.Discard(len(b))
	return b, nil
}

// nextChunks returns whole runs of chunks, or the content of one. The trailer section
// ends the body and is not among it.
func (f *framed) nextChunks() ([]byte, error) {
	b := f.in.Buffered()
	n := 0
	for n < len(b) && !f.chunks.Done() {
		k, data, err := f.chunks.Next(b[n:])
		if err != nil {
			return nil, err
		}
		n += k
		f.content += int64(len(data))
		if f.decode && len(data) > 0 {
			f.in.Discard(n)
			return data, nil
		}
	}
	f.in.Discard(n)
	if f.chunks.Done() && hasSection(b[n:]) {
		if err := f.readTrailers(); err != nil {
			return nil, err
		}
	}
	if f.decode {
		return nil, nil
	}
	return b[:n], nil
}

// hasSection reports whether a trailer section can be read without waiting.
func hasSection(b []byte) bool {
	return bytes.HasPrefix(b, []byte("\r\n")) || bytes.Contains(b, []byte("\r\n\r\n"))
}

// more reads on. The end of the connection is the end of a body without any other.
func (f *framed) more() error {
	if f.chunks.Done() {
		return noEOF(f.readTrailers())
	}
	err := f.in.Fill()
	if err == io.EOF && !f.chunked && f.left == http1.Unknown { //nolint:errorlint // the orderly end (io.Reader)
		f.done = true
		return nil
	}
	return noEOF(err)
}

func noEOF(err error) error {
	if err == io.EOF { //nolint:errorlint // the orderly end, which this is not
		return io.ErrUnexpectedEOF
	}
	return err
}

// readTrailers reads the section behind the last chunk. Its fields are copies, as what
// they came in goes on to be used.
func (f *framed) readTrailers() error {
	section, err := f.in.ReadTrailers()
	if err != nil {
		return err
	}
	if len(section) > 2 {
		if f.trailer, err = http1.ParseTrailers(nil, bytes.Clone(section)); err != nil {
			return err
		}
	}
	f.in.Discard(len(section))
	f.done = true
	return nil
}

// appendChunk appends b as one chunk.
func appendChunk(to, b []byte) []byte {
	if len(b) == 0 {
		return to
	}
	to = append(strconv.AppendInt(to, int64(len(b)), 16), "\r\n"...)
	return append(append(to, b...), "\r\n"...)
}
