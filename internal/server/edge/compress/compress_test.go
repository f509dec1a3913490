package compress

import (
	"bytes"
	"compress/gzip"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

func TestNegotiate(t *testing.T) {
	for accept, want := range map[string]Coding{
		"": "", "identity": "", "gzip": Gzip, "GZip": Gzip, "x-gzip": Gzip, "br": Brotli, "zstd": Zstd, "deflate": "", "compress, foo": "",
		"gzip, deflate, br, zstd": Zstd, "gzip, deflate, br": Brotli, "gzip;q=1.0, br;q=0.5": Gzip, "gzip ; q=0.9 , br; q=0.8": Gzip,
		"gzip;q=0": "", "*": Zstd, "*;q=0.1, gzip": Gzip, "*, zstd;q=0, br;q=0": Gzip, "br;q=0, *;q=0": "",
		"identity, gzip;q=0.5": "", "identity;q=0.5, gzip": Gzip, "gzip;q=2": "", "gzip;q=x": "", "gzip;level=9": "", "gzip;q=nan": "",
	} {
		if got := Negotiate([]string{accept}); got != want {
			t.Errorf("%q: %q, want %q", accept, got, want)
		}
	}
	if got := Negotiate([]string{"gzip", "br"}); got != Brotli {
		t.Errorf("two lines: %q", got)
	}
}

func decode(t *testing.T, c string, b []byte) string {
	t.Helper()
	var r io.Reader
	var err error
	switch Coding(c) {
	case Gzip:
		r, err = gzip.NewReader(bytes.NewReader(b))
	case Brotli:
		r = brotli.NewReader(bytes.NewReader(b))
	case Zstd:
		var d *zstd.Decoder
		if d, err = zstd.NewReader(bytes.NewReader(b)); err == nil {
			t.Cleanup(d.Close)
		}
		r = d
	default:
		return string(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("%s: %v", c, err)
	}
	return string(out)
}

var text = strings.Repeat("some text that repeats itself. ", 100)

// TestWhatIsCompressed: what gains by it, as long as nobody is misled.
func TestWhatIsCompressed(t *testing.T) {
	var encoders Encoders
	for what, c := range map[string]struct {
		method, accept, ranged string
		status                 int
		header                 http.Header
		want                   string // Content-Encoding; "-": none, and no Vary
	}{
		"text":             {header: http.Header{"Content-Type": {"text/html; charset=utf-8"}}, want: "gzip"},
		"JSON":             {header: http.Header{"Content-Type": {"application/problem+json"}}, want: "gzip"},
		"SVG":              {header: http.Header{"Content-Type": {"image/svg+xml"}}, want: "gzip"},
		"an error":         {status: 404, header: http.Header{"Content-Type": {"text/plain"}}, want: "gzip"},
		"long enough":      {header: http.Header{"Content-Type": {"text/plain"}, "Content-Length": {"512"}}, want: "gzip"},
		"HEAD":             {method: "HEAD", header: http.Header{"Content-Type": {"text/plain"}}, want: "gzip"},
		"not asked for":    {accept: "identity", header: http.Header{"Content-Type": {"text/plain"}}, want: ""},
		"a visitor's part": {ranged: "bytes=0-5", header: http.Header{"Content-Type": {"text/plain"}}, want: ""},
		"short":            {header: http.Header{"Content-Type": {"text/plain"}, "Content-Length": {"511"}}, want: "-"},
		"a part":           {status: 206, header: http.Header{"Content-Type": {"text/plain"}}, want: "-"},
		"nothing":          {status: 204, header: http.Header{"Content-Type": {"text/plain"}}, want: "-"},
		"a coding":         {header: http.Header{"Content-Type": {"text/plain"}, "Content-Encoding": {"br"}}, want: "-"},
		"no-transform":     {header: http.Header{"Content-Type": {"text/plain"}, "Cache-Control": {"public, No-Transform"}}, want: "-"},
		"a picture":        {header: http.Header{"Content-Type": {"image/png"}}, want: "-"},
		"a film":           {header: http.Header{"Content-Type": {"video/mp4"}}, want: "-"},
		"an archive":       {header: http.Header{"Content-Type": {"application/zip"}}, want: "-"},
		"gRPC":             {header: http.Header{"Content-Type": {"application/grpc"}}, want: "-"},
		"no type":          {header: http.Header{}, want: "-"},
	} {
		r := httptest.NewRequest(c.method, "/", nil)
		r.Header.Set("Accept-Encoding", "gzip")
		if c.accept != "" {
			r.Header.Set("Accept-Encoding", c.accept)
		}
		if c.ranged != "" {
			r.Header.Set("Range", c.ranged)
		}
		rec := httptest.NewRecorder()
		w := encoders.New(rec, r)
		maps.Copy(w.Header(), c.header)
		w.Header().Set("Etag", `"1"`)
		w.Header().Set("Accept-Ranges", "bytes")
		if c.status != 0 {
			w.WriteHeader(c.status)
		}
		body := text
		if c.method == "HEAD" {
			body = ""
		}
		_, _ = io.WriteString(w, body)
		if err := w.Close(true); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		h := rec.Result().Header
		coded := c.want != "-" && c.want != ""
		encoding := strings.TrimPrefix(c.want, "-")
		if c.header.Get("Content-Encoding") != "" {
			encoding = c.header.Get("Content-Encoding")
		}
		tag := `"1"`
		if coded {
			tag = `W/"1"`
		}
		if h.Get("Content-Encoding") != encoding || (h.Get("Vary") == "Accept-Encoding") == (c.want == "-") || h.Get("Etag") != tag || (h.Get("Accept-Ranges") == "") != coded ||
			(coded && h.Get("Content-Length") != "") {
			t.Errorf("%s: %v", what, h)
		}
		if coded && body != "" {
			if got := decode(t, encoding, rec.Body.Bytes()); got != text {
				t.Errorf("%s: decoded to %.40q", what, got)
			}
		} else if got := rec.Body.String(); got != body {
			t.Errorf("%s: %.40q", what, got)
		}
	}
	if n := encoders.lent.Load(); n != 0 {
		t.Errorf("%d encoders are still lent", n)
	}
}

// TestFlush: what was flushed can be decoded, with every coding, by an encoder that was
// used before.
func TestFlush(t *testing.T) {
	var encoders Encoders
	for range 2 {
		for _, c := range preferred {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header.Set("Accept-Encoding", string(c))
			rec := httptest.NewRecorder()
			w := encoders.New(rec, r)
			w.Header().Set("Content-Type", "text/event-stream")
			last := 0
			for i := range 3 {
				_, _ = io.WriteString(w, "data: event\n\n")
				w.Flush()
				if rec.Body.Len() == last || !rec.Flushed {
					t.Errorf("%s: event %d was held back", c, i)
				}
				last = rec.Body.Len()
			}
			if err := w.Close(true); err != nil {
				t.Error(err)
			}
			if got := decode(t, rec.Result().Header.Get("Content-Encoding"), rec.Body.Bytes()); got != strings.Repeat("data: event\n\n", 3) {
				t.Errorf("%s: %q", c, got)
			}
		}
	}
}

// TestBrokenOff: an answer that was broken off has no end by which it could be taken for
// whole, and 304 speaks of the tag that the visitor has.
func TestBrokenOff(t *testing.T) {
	var encoders Encoders
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	rec := httptest.NewRecorder()
	w := encoders.New(rec, r)
	w.Header().Set("Content-Type", "text/plain")
	_, _ = io.WriteString(w, text)
	w.Flush()
	_ = w.Close(false)
	z, err := gzip.NewReader(rec.Body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(z); err == nil {
		t.Error("a broken answer decodes to its end")
	}
	rec = httptest.NewRecorder()
	w = encoders.New(rec, r)
	w.Header().Set("Etag", `"1"`)
	w.WriteHeader(http.StatusNotModified)
	if h := rec.Result().Header; h.Get("Etag") != `W/"1"` || h.Get("Vary") != "Accept-Encoding" || h.Get("Content-Encoding") != "" {
		t.Errorf("304 with %v", h)
	}
}

// TestManyEncoders: beyond the limit answers pass as they are.
func TestManyEncoders(t *testing.T) {
	var encoders Encoders
	encoders.lent.Store(maxEncoders)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	rec := httptest.NewRecorder()
	w := encoders.New(rec, r)
	w.Header().Set("Content-Type", "text/plain")
	_, _ = io.WriteString(w, text)
	if err := w.Close(true); err != nil || rec.Body.String() != text || rec.Result().Header.Get("Content-Encoding") != "" {
		t.Errorf("%v, %v", rec.Result().Header, err)
	}
}
