package inspect

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// maxDecoded bounds what a body is decoded to, in bytes, and the memory that it takes.
const maxDecoded = 8 << 20

var errUnknownCoding = errors.New("a content coding that is not known here")

// decode undoes the content codings of a body. What came before an error, or before
// the limit, is returned with it.
func decode(body []byte, encoding string) ([]byte, error) {
	codings := strings.Split(encoding, ",")
	if len(codings) > 3 {
		return body, errUnknownCoding
	}
	for _, coding := range slices.Backward(codings) {
		r, err := decoder(strings.ToLower(strings.TrimSpace(coding)), body)
		if err != nil {
			return body, err
		}
		if r == nil {
			continue
		}
		out, err := io.ReadAll(io.LimitReader(r, maxDecoded+1))
		_ = r.Close()
		if len(out) > maxDecoded {
			return out[:maxDecoded], fmt.Errorf("more than %d MiB when decoded", maxDecoded>>20)
		}
		if body = out; err != nil {
			return body, err
		}
	}
	return body, nil
}

// decoder returns a reader of what was encoded, nil for none.
func decoder(coding string, body []byte) (io.ReadCloser, error) {
	in := bytes.NewReader(body)
	switch coding {
	case "", "identity":
		return nil, nil //nolint:nilnil // nothing to undo
	case "gzip", "x-gzip":
		return gzip.NewReader(in)
	case "deflate": // zlib by RFC 9110, but some send bare deflate
		if r, err := zlib.NewReader(in); err == nil {
			return r, nil
		}
		return flate.NewReader(bytes.NewReader(body)), nil
	case "br":
		return io.NopCloser(brotli.NewReader(in)), nil
	case "zstd":
		r, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(4*maxDecoded), zstd.WithDecoderMaxWindow(maxDecoded))
		if err != nil {
			return nil, err
		}
		return r.IOReadCloser(), nil
	}
	return nil, errUnknownCoding
}
