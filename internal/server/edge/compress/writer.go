package compress

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxEncoders bounds the encoders at work in the process, of about 1 MiB each. Beyond it,
// answers pass as they are.
const maxEncoders = 512

// Encoders lends encoders.
type Encoders struct {
	lent  atomic.Int64
	pools [len(preferred)]sync.Pool
}

type encoder interface {
	io.WriteCloser
	Flush() error
	Reset(w io.Writer)
}

func (e *Encoders) lend(c Coding, w io.Writer) encoder {
	if e.lent.Add(1) > maxEncoders {
		e.lent.Add(-1)
		return nil
	}
	for i, p := range preferred {
		if p != c {
			continue
		}
		if kept, ok := e.pools[i].Get().(encoder); ok {
			kept.Reset(w)
			return kept
		}
	}
	enc := newEncoder(c, w)
	if enc == nil {
		e.lent.Add(-1)
	}
	return enc
}

// newEncoder makes an encoder whose speed suits answers that are made as they are asked
// for. Windows are small: most answers are, and each encoder holds one.
func newEncoder(c Coding, w io.Writer) encoder {
	switch c {
	case Zstd:
		enc, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(128<<10), zstd.WithLowerEncoderMem(true), zstd.WithEncoderLevel(zstd.SpeedDefault))
		if err != nil {
			return nil
		}
		return enc
	case Brotli:
		return brotli.NewWriterOptions(w, brotli.WriterOptions{Quality: 4, LGWin: 17})
	case Gzip:
		enc, err := gzip.NewWriterLevel(w, 5)
		if err != nil {
			return nil
		}
		return enc
	}
	return nil
}

func (e *Encoders) giveBack(c Coding, enc encoder) {
	e.lent.Add(-1)
	enc.Reset(io.Discard) // holds on to nobody's connection
	for i, p := range preferred {
		if p == c {
			e.pools[i].Put(enc)
		}
	}
}

// Writer compresses one answer if it fits. Close ends it; without, an answer that was
// broken off looks so to the visitor, too.
type Writer struct {
	http.ResponseWriter
	encoders *Encoders
	coding   Coding // that the visitor likes best; empty: none
	toHEAD   bool

	begun bool
	enc   encoder // nil: the answer passes as it is
}

// New makes the writer of the answer to r.
func (e *Encoders) New(w http.ResponseWriter, r *http.Request) *Writer {
	c := &Writer{ResponseWriter: w, encoders: e, toHEAD: r.Method == http.MethodHead}
	if r.Header.Get("Range") == "" {
		c.coding = Negotiate(r.Header["Accept-Encoding"])
	}
	return c
}

// WriteHeader implements http.ResponseWriter.
func (w *Writer) WriteHeader(status int) {
	if !w.begun && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.begun = true
		w.begin(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *Writer) begin(status int) {
	h := w.Header()
	switch {
	case status == http.StatusNotModified && w.coding != "":
		Weaken(h) // as that of the answer which the visitor has
		Vary(h)
		return
	case !Fits(status, h):
		return
	}
	Vary(h)
	if w.coding == "" {
		return
	}
	if !w.toHEAD {
		if w.enc = w.encoders.lend(w.coding, w.ResponseWriter); w.enc == nil {
			return
		}
	}
	Weaken(h)
	h.Set("Content-Encoding", string(w.coding))
	h.Del("Content-Length")
	h.Del("Accept-Ranges")
	h.Del("Content-Md5")
	h.Del("Digest")
	h.Del("Content-Digest") // of the content as it was coded (RFC 9530, section 2)
}

// Write implements http.ResponseWriter.
func (w *Writer) Write(p []byte) (int, error) {
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	if w.enc != nil {
		return w.enc.Write(p)
	}
	return w.ResponseWriter.Write(p)
}

// FlushError sends what was written so far, so that the visitor can decode it.
func (w *Writer) FlushError() error {
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	if w.enc != nil {
		if err := w.enc.Flush(); err != nil {
			return err
		}
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush implements http.Flusher.
func (w *Writer) Flush() { _ = w.FlushError() }

// Unwrap is for http.ResponseController.
func (w *Writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Close ends the answer if it was written to its end, and gives up what it needed.
func (w *Writer) Close(whole bool) error {
	if w.enc == nil {
		return nil
	}
	var err error
	if whole {
		err = w.enc.Close()
	}
	w.encoders.giveBack(w.coding, w.enc)
	w.enc = nil
	return err
}
