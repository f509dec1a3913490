package http1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"testing"
)

// serialise writes an accepted request as the edge would.
func serialise(r *Request) []byte {
	b := append(append(append(append([]byte(nil), r.Method...), ' '), r.Target...), " HTTP/1.1\r\n"...)
	for _, f := range r.Fields {
		b = AppendField(b, f.Name, f.Value)
	}
	return append(b, "\r\n"...)
}

// FuzzRequest: what is accepted here, net/http reads in the same way, and it survives
// being written and read again.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST http://a/b?c HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close, x\r\n\r\nhello",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"OPTIONS * HTTP/1.0\r\nHost: a:80\r\nExpect: 100-continue\r\n\r\n",
		"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"GET / HTTP/1.1\r\nHost : a\r\n b\r\n\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		reader := Reader{Source: bytes.NewReader(b)}
		head, err := reader.ReadHead(8 << 10)
		if reader.Size() > 32<<10 {
			t.Fatalf("a buffer of %d bytes", reader.Size())
		}
		if err != nil {
			return
		}
		var r Request
		if r.Parse(head) != nil {
			return
		}
		if r.Chunked && r.HasLength() || len(r.Host) == 0 && bytes.Count(bytes.ToLower(head), []byte("host")) == 0 {
			t.Fatalf("accepted %q", head)
		}
		compare(t, &r, b[bytes.Index(b, head):])
		again := serialise(&r)
		var second Request
		if err := second.Parse(again); err != nil {
			t.Fatalf("%q, written as %q: %v", head, again, err)
		}
		if second.Length != r.Length || second.Chunked != r.Chunked || !bytes.Equal(second.Target, r.Target) || len(second.Fields) != len(r.Fields) {
			t.Fatalf("%q became %q", head, again)
		}
	})
}

// compare holds a request that is accepted here against net/http, as far as that takes
// it: it knows other hosts and targets, and no other framing.
func compare(t *testing.T, r *Request, b []byte) {
	t.Helper()
	theirs, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
	if err != nil {
		for _, known := range []string{"malformed Host", "invalid URI", "parse", "invalid method", "Host header"} {
			if strings.Contains(err.Error(), known) {
				return
			}
		}
		t.Fatalf("net/http does not take %q: %v", b, err)
	}
	length := theirs.ContentLength
	chunked := len(theirs.TransferEncoding) > 0
	if theirs.Method != string(r.Method) || chunked != r.Chunked || (length != r.Length && r.Minor > 0) {
		t.Fatalf("%q: here %s %d %v, net/http %s %d %v", b, r.Method, r.Length, r.Chunked, theirs.Method, length, chunked)
	}
	if r.Scheme == "" && string(r.Method) != "CONNECT" && theirs.RequestURI != string(r.Target) {
		t.Fatalf("%q: here %q, net/http %q", b, r.Target, theirs.RequestURI)
	}
	for _, f := range r.Fields {
		if f.Kind != Plain {
			continue
		}
		found := false
		for _, v := range theirs.Header.Values(string(f.Name)) {
			found = found || v == string(f.Value)
		}
		if !found {
			t.Fatalf("%q: net/http has no %q: %q", b, f.Name, f.Value)
		}
	}
}

// FuzzResponse: what is accepted here has the same framing in net/http.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.0 304 Not Modified\r\nConnection: keep-alive\r\n\r\n",
		"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
	} {
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, toHEAD bool) {
		reader := Reader{Source: bytes.NewReader(b)}
		head, err := reader.ReadHead(8 << 10)
		var r Response
		if err != nil || r.Parse(head, toHEAD) != nil {
			return
		}
		method := "GET"
		if toHEAD {
			method = "HEAD"
		}
		at := bytes.Index(b, head)
		theirs, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b[at:])), &http.Request{Method: method})
		if err != nil {
			t.Fatalf("net/http does not take %q: %v", b, err)
		}
		if theirs.StatusCode != r.Status || (!r.Bodiless && (theirs.ContentLength != r.Length || (len(theirs.TransferEncoding) > 0) != r.Chunked)) {
			t.Fatalf("%q: here %d %d %v, net/http %d %d %v", b, r.Status, r.Length, r.Chunked, theirs.StatusCode, theirs.ContentLength, theirs.TransferEncoding)
		}
	})
}

// FuzzChunked: pieces don't matter, and what is accepted here net/http decodes to the
// same.
func FuzzChunked(f *testing.F) {
	f.Add([]byte("5\r\nhello\r\n0\r\n\r\n"), 3)
	f.Add([]byte("5;a=\"b\"\r\nhello\r\n00\r\nA: b\r\n\r\n"), 1)
	f.Add([]byte("ffffffffffffffff\r\n"), 100)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		n = max(1, min(n, 1<<16))
		got, rest, err := decode(string(b), n)
		whole, rest2, err2 := decode(string(b), 1<<20)
		if got != whole || (err == nil) != (err2 == nil) || (err == nil && rest != rest2) {
			t.Fatalf("%q in %d: %q %v, at once %q %v", b, n, got, err, whole, err2)
		}
		if err != nil {
			return
		}
		body := b[:len(b)-len(rest)]
		theirs, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(append(bytes.Clone(body), "\r\n"...))))
		if err != nil || string(theirs) != got {
			t.Fatalf("%q: here %q, net/http %q, %v", body, got, theirs, err)
		}
		framed := strconv.FormatInt(int64(len(got)), 16) + "\r\n" + got + "\r\n0\r\n"
		if again, _, err := decode(framed, n); len(got) > 0 && (err != nil || again != got) {
			t.Fatalf("%q: %q, %v", framed, again, err)
		}
	})
}
