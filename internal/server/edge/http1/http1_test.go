package http1

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// parseRequest reads a request's head from bytes that come one by one.
func parseRequest(s string) (*Request, error) {
	r := Reader{Source: iotest.OneByteReader(strings.NewReader(s))}
	head, err := r.ReadHead(64 << 10)
	if err != nil {
		return nil, err
	}
	req := new(Request)
	return req, req.Parse(head)
}

func TestRequestsRefused(t *testing.T) {
	for s, want := range map[string]error{
		"GET / HTTP/1.1\nHost: a\n\n":                                                                    ErrBareLF,
		"GET / HTTP/1.1\r\nHost: a\n\r\n":                                                                ErrBareLF,
		"GET / HTTP/1.1\r\nHost: a\r\n\n":                                                                ErrBareLF,
		"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n":                                                      ErrBadStart,
		"GET  / HTTP/1.1\r\nHost: a\r\n\r\n":                                                             ErrBadTarget,
		"GET / HTTP/1.1 \r\nHost: a\r\n\r\n":                                                             ErrBadStart,
		"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n":                                                           ErrBadStart,
		"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n":                                                             ErrBadStart,
		" GET / HTTP/1.1\r\nHost: a\r\n\r\n":                                                             ErrBadStart,
		"G{T / HTTP/1.1\r\nHost: a\r\n\r\n":                                                              ErrBadStart,
		"GET / http/1.1\r\nHost: a\r\n\r\n":                                                              ErrBadStart,
		"GET / HTTP/1.10\r\nHost: a\r\n\r\n":                                                             ErrBadStart,
		"GET / HTTP/2.0\r\nHost: a\r\n\r\n":                                                              ErrBadVersion,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":                                                               ErrBadVersion,
		"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n":                                                          ErrBadTarget,
		"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n":                                                          ErrBadTarget,
		"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n":                                                            ErrBadTarget,
		"GET a HTTP/1.1\r\nHost: a\r\n\r\n":                                                              ErrBadTarget,
		"GET * HTTP/1.1\r\nHost: a\r\n\r\n":                                                              ErrBadTarget,
		"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n":                                                       ErrBadTarget,
		"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n":                                                      ErrBadHost,
		"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n":                                                    ErrBadHost,
		"GET http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n":                                                   ErrBadHost,
		"GET / HTTP/1.1\r\n\r\n":                                                                         ErrBadHost,
		"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n":                                                   ErrBadHost,
		"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n":                                                        ErrBadField,
		"GET / HTTP/1.1\r\n Host: a\r\n\r\n":                                                             ErrBadField,
		"GET / HTTP/1.1\r\nHost : a\r\n\r\n":                                                             ErrBadField,
		"GET / HTTP/1.1\r\nHost\r\n\r\n":                                                                 ErrBadField,
		"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n":                                                       ErrBadField,
		"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n":                                                   ErrBadField,
		"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n":                                                   ErrBadField,
		"GET / HTTP/1.1\r\nHost: a\r\nX\xff: a\r\n\r\n":                                                  ErrBadField,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n":                   ErrBadLength,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n":                                     ErrBadLength,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n":                                       ErrBadLength,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n":                                       ErrBadLength,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n":                                      ErrBadLength,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n":                                          ErrBadLength,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n":                     ErrBadLength,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n":          ErrTwoLengths,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n":          ErrTwoLengths,
		"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n":                               ErrOldCoding,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n":                      ErrBadCoding,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n":                         ErrBadCoding,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n":                              ErrBadCoding,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \r\n\r\n":                                      ErrBadCoding,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n":                              ErrBadCoding,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n": ErrBadCoding,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding : chunked\r\n\r\n":                              ErrBadField,
		"GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: a\r\n", MaxFields) + "\r\n":                 ErrTooManyFields,
		"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 64<<10) + "\r\n\r\n":                    ErrHeadTooLarge,
		"GET /" + strings.Repeat("a", 128<<10):                                                           ErrHeadTooLarge,
		"GET / HTTP/1.1\r\nHost: a":                                                                      io.ErrUnexpectedEOF,
		"":                                                                                               io.EOF,
	} {
		if _, err := parseRequest(s); !errors.Is(err, want) {
			t.Errorf("%.80q: %v, want %v", s, err, want)
		}
	}
}

func TestRequests(t *testing.T) {
	for s, want := range map[string]Request{
		"\r\nGET /a?b HTTP/1.1\r\nHost: a\r\n\r\n":                                     {Target: []byte("/a?b")},
		"GET http://A HTTP/1.1\r\nHost: a\r\n\r\n":                                     {Target: []byte("/"), Scheme: "http"},
		"GET HTTPS://a?b HTTP/1.1\r\nHost: a\r\n\r\n":                                  {Target: []byte("/?b"), Scheme: "https"},
		"OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n":                                 {Target: []byte("*"), Scheme: "http"},
		"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n":                                        {Target: []byte("*")},
		"GET / HTTP/1.1\r\nHost:\t a \r\nConnection: upgrade\r\nUpgrade: b\r\n\r\n":    {Target: []byte("/"), Upgrade: []byte("b")},
		"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: b\r\n\r\n":                              {Target: []byte("/")},
		"GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: b\r\n\r\n":       {Target: []byte("/")},
		"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nTE: x, trailers\r\n\r\n": {Target: []byte("/"), Expect: true, Trailers: true},
		"GET / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\n\r\n":                    {Target: []byte("/")},
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 007\r\n\r\n":                    {Target: []byte("/"), Head: Head{Length: 7}},
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n":             {Target: []byte("/"), Head: Head{Length: Unknown, Chunked: true}},
	} {
		got, err := parseRequest(s)
		if err != nil {
			t.Errorf("%q: %v", s, err)
			continue
		}
		if string(got.Host) != "a" || !bytes.Equal(got.Target, want.Target) || got.Scheme != want.Scheme || !bytes.Equal(got.Upgrade, want.Upgrade) ||
			got.Expect != want.Expect || got.Trailers != want.Trailers || got.Length != want.Length || got.Chunked != want.Chunked {
			t.Errorf("%q: %+v", s, got)
		}
	}
}

func TestNamed(t *testing.T) {
	r, err := parseRequest("GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-A\r\nConnection: ,x-b,\r\nX-A: 1\r\n\r\n")
	if err != nil || !r.Named([]byte("x-a")) || !r.Named([]byte("X-B")) || r.Named([]byte("X-C")) || r.Named(nil) || r.Persistent() {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestAnswers(t *testing.T) {
	for s, want := range map[string]error{
		"HTTP/1.1 200 OK\r\n\r\n":                    nil,
		"HTTP/1.1 200\r\n\r\n":                       nil,
		"HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\n": nil,
		"HTTP/1.1 200OK\r\n\r\n":                     ErrBadStart,
		"HTTP/1.1  200 OK\r\n\r\n":                   ErrBadStart,
		"HTTP/1.1 20 OK\r\n\r\n":                     ErrBadStart,
		"HTTP/1.1 099 OK\r\n\r\n":                    ErrBadStart,
		"HTTP/1.1 200 \x00\r\n\r\n":                  ErrBadStart,
		"HTTP/2.0 200 OK\r\n\r\n":                    ErrBadVersion,
		"HTTP/1.1 200 OK\n\n":                        ErrBareLF,
		"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n":      ErrBadField,
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n":          ErrBadLength,
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n":          ErrBadLength,
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n": ErrTwoLengths,
		"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n":                      ErrOldCoding,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n":                         ErrBadCoding,
		"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: a, b\r\n\r\n":             ErrBadStart,
		"HTTP/1.1 101 X\r\nUpgrade: a\r\n\r\n":                                       ErrBadStart,
		"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n":                nil,
	} {
		r := Reader{Source: strings.NewReader(s)}
		head, err := r.ReadHead(64 << 10)
		if err == nil {
			err = new(Response).Parse(head, false)
		}
		if !errors.Is(err, want) || (want == nil && err != nil) {
			t.Errorf("%q: %v, want %v", s, err, want)
		}
	}
}

// decode reads a chunked body to its end from pieces of n bytes.
func decode(s string, n int) (content, rest string, err error) {
	var c Chunked
	var b strings.Builder
	for len(s) > 0 && !c.Done() {
		k := min(n, len(s))
		used, data, err := c.Next([]byte(s[:k]))
		if err != nil {
			return b.String(), s, err
		}
		b.Write(data)
		s = s[used:]
	}
	if !c.Done() {
		err = io.ErrUnexpectedEOF
	}
	return b.String(), s, err
}

func TestChunked(t *testing.T) {
	for s, want := range map[string]string{
		"0\r\n\r\n":                            "",
		"5\r\nhello\r\n0\r\nA: b\r\n\r\n":      "hello",
		"00005\r\nhello\r\n000\r\n\r\n":        "hello",
		"A;a=b;c=\"d\"\r\n0123456789\r\n0\r\n": "0123456789",
		"1 \r\na\r\n0\r\n":                     "!",
		"\r\n":                                 "!",
		";a\r\n":                               "!",
		"0x1\r\na\r\n":                         "!",
		"+1\r\na\r\n":                          "!",
		"1\na\r\n":                             "!",
		"1\r\nab\r\n":                          "!",
		"1\r\na\n0\r\n":                        "!",
		"1;\x00\r\na\r\n0\r\n":                 "!",
		"1;a\nb\r\na\r\n0\r\n":                 "!",
		"1;a\rb\r\na\r\n0\r\n":                 "!",
		"ffffffffffffffff\r\n":                 "!",
		"1;" + strings.Repeat("a", 2<<10) + "\r\n":                               "!",
		strings.Repeat("1;"+strings.Repeat("a", 1000)+"\r\na\r\n", 20) + "0\r\n": "!",
	} {
		for _, n := range []int{1, 2, 3, 1 << 20} {
			got, _, err := decode(s, n)
			if (want == "!") != (err != nil) || (err == nil && got != want) {
				t.Errorf("%.60q in %d: %q, %v", s, n, got, err)
			}
		}
	}
}

// TestNoAllocation: a head is read in place.
func TestNoAllocation(t *testing.T) {
	head := []byte("GET /a HTTP/1.1\r\nHost: app.localhost\r\nAccept: */*\r\nConnection: keep-alive, X-A\r\nContent-Length: 5\r\n\r\n")
	var r Request
	if n := testing.AllocsPerRun(100, func() { _ = r.Parse(head) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
