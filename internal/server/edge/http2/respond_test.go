package http2

import (
	"bytes"
	"io"
	"net/http"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"
)

// TestHandlers: what a handler of net/http says reaches the visitor.
func TestHandlers(t *testing.T) {
	for what, c := range map[string]struct {
		handler http.HandlerFunc
		want    func(frames []got) bool
	}{
		"a short answer has a length": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }, func(f []got) bool {
			return len(f) == 2 && f[0].fields[":status"] == "200" && f[0].fields["content-length"] == "5" && f[0].fields["date"] != "" && f[1].data == "hello" && f[1].end
		}},
		"nothing": {func(http.ResponseWriter, *http.Request) {}, func(f []got) bool {
			return len(f) == 1 && f[0].end && f[0].fields["content-length"] == "0"
		}},
		"trailers, announced and not": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "A")
			_, _ = io.WriteString(w, "x")
			_ = http.NewResponseController(w).Flush()
			w.Header().Set("A", "1")
			w.Header().Set(http.TrailerPrefix+"B", "2")
		}, func(f []got) bool {
			return len(f) == 3 && f[1].data == "x" && !f[1].end && f[2].end && f[2].fields["a"] == "1" && f[2].fields["b"] == "2"
		}},
		"early hints": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "x")
			w.WriteHeader(103)
			w.WriteHeader(304)
		}, func(f []got) bool {
			return len(f) == 2 && f[0].fields[":status"] == "103" && f[0].fields["link"] == "x" && f[1].fields[":status"] == "304" && f[1].end
		}},
		"what belongs to connections ends": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "close")
			w.Header().Set("X", "a\r\nb: c")
		}, func(f []got) bool {
			return len(f) == 1 && f[0].fields["connection"] == "" && f[0].fields["x"] == "a  b: c"
		}},
		"broken off": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, long(5000))
			panic(http.ErrAbortHandler)
		}, func(f []got) bool { return f[len(f)-1].kind == http2.FrameRSTStream }},
	} {
		synctest.Test(t, func(t *testing.T) {
			v := visit(t, Config{Handle: func(s *Stream) { s.Serve(c.handler, s.NetHTTP("1.2.3.4:5", "a")) }})
			v.request(1, true)
			if frames := v.all(1); !c.want(frames) {
				t.Errorf("%s: %v", what, frames)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		v := visit(t, Config{Handle: func(s *Stream) {
			s.Serve(func(w http.ResponseWriter, r *http.Request) {
				b, err := io.ReadAll(r.Body)
				if err != nil || r.Trailer.Get("A") != "1" || r.ContentLength != -1 || r.Host != "a" || r.RequestURI != "/" {
					t.Errorf("got %q, %v, %v", b, err, r)
				}
				_, _ = w.Write(bytes.ToUpper(b))
			}, s.NetHTTP("1.2.3.4:5", "a"))
		}})
		v.request(1, false, "expect", "100-continue", "trailer", "a")
		if status, _, _ := v.answer(1); status != "100" {
			t.Errorf("who expects to be told to go on gets %q", status)
		}
		check(t, v.WriteData(1, false, []byte("hello")))
		check(t, v.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: v.head("a", "1"), EndHeaders: true, EndStream: true}))
		if _, body, _ := v.answer(1); body != "HELLO" {
			t.Errorf("got %q", body)
		}
	})
}
