package edge

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// rawUpstream is a service that writes what it is told and notes every byte it gets.
type rawUpstream struct {
	address string
	conns   atomic.Int64
	mu      sync.Mutex
	got     bytes.Buffer
	ends    chan error // how connections ended
}

// newRaw serves with serve, or answers each head with answer and goes on.
func newRaw(t *testing.T, serve func(u *rawUpstream, c net.Conn, r *bufio.Reader)) *rawUpstream {
	t.Helper()
	u := &rawUpstream{ends: make(chan error, 100)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	u.address = l.Addr().String()
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			u.conns.Add(1)
			context.AfterFunc(t.Context(), func() { _ = c.Close() }) // ends before cleanups
			conns.Go(func() {
				defer c.Close()
				serve(u, c, bufio.NewReader(io.TeeReader(c, u)))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		conns.Wait()
	})
	return u
}

func (u *rawUpstream) Write(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.got.Write(p)
}

func (u *rawUpstream) all() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.got.String()
}

// answering answers every head.
func answering(answer string) func(*rawUpstream, net.Conn, *bufio.Reader) {
	return func(u *rawUpstream, c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				u.ends <- err
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				u.ends <- err
				return
			}
			_, _ = io.WriteString(c, answer)
		}
	}
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// ask writes a request by hand and returns all that comes until the connection ends, or
// the first answer if that stays open.
func ask(t *testing.T, address, request string) (head string, c *net.TCPConn) {
	t.Helper()
	c = dial(t, address)
	go func() { _, _ = io.WriteString(c, request) }()
	return readHead(bufio.NewReader(c)), c
}

func readHead(r *bufio.Reader) string {
	var head strings.Builder
	for {
		line, err := r.ReadString('\n')
		head.WriteString(line)
		if err != nil || line == "\r\n" {
			return head.String()
		}
	}
}

// TestStrict: what two parsers could read differently is refused, and nothing of it
// reaches the upstream.
func TestStrict(t *testing.T) {
	r := run(t, Config{})
	up := newRaw(t, answering(ok))
	r.bind(t, "a.localhost", up.address)
	const host = "Host: a.localhost\r\n"
	for _, c := range []struct {
		status  int
		request string
	}{
		{400, "POST / HTTP/1.1\r\n" + host + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{400, "POST / HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{400, "POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 1\r\n\r\na"},
		{400, "POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 2\r\n\r\na"},
		{400, "POST / HTTP/1.1\r\n" + host + "Content-Length: 1, 1\r\n\r\na"},
		{400, "POST / HTTP/1.1\r\n" + host + "Content-Length: +1\r\n\r\na"},
		{400, "POST / HTTP/1.1\r\n" + host + "Content-Length : 1\r\n\r\na"},
		{501, "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
		{501, "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n"},
		{400, "GET / HTTP/1.1\n" + host + "\r\n"},
		{400, "GET / HTTP/1.1\r\nHost: a.localhost\n\r\n"},
		{400, "GET / HTTP/1.1\r\n" + host + "X: a\r\n b\r\n\r\n"},
		{400, "GET / HTTP/1.1\r\n" + host + "X : a\r\n\r\n"},
		{400, "GET / HTTP/1.1\r\n" + host + "X: a\x00b\r\n\r\n"},
		{400, "GET / HTTP/1.1\r\n" + host + "X: a\rGET / HTTP/1.1\r\n\r\n"},
		{400, "GET / HTTP/1.1\r\n" + host + host + "\r\n"},
		{400, "GET / HTTP/1.1\r\nHost: a.localhost, b.localhost\r\n\r\n"},
		{400, "GET / HTTP/1.1\r\n\r\n"},
		{400, "GET http://b.localhost/ HTTP/1.1\r\n" + host + "\r\n"},
		{400, "GET http://a.localhost@b.localhost/ HTTP/1.1\r\n" + host + "\r\n"},
		{400, "GET https://a.localhost/ HTTP/1.1\r\n" + host + "\r\n"},
		{400, "GET a.localhost HTTP/1.1\r\n" + host + "\r\n"},
		{400, "GET * HTTP/1.1\r\n" + host + "\r\n"},
		{400, "GET /\x01 HTTP/1.1\r\n" + host + "\r\n"},
		{400, "GET / /b HTTP/1.1\r\n" + host + "\r\n"},
		{400, "GE(T / HTTP/1.1\r\n" + host + "\r\n"},
		{505, "GET / HTTP/2.0\r\n" + host + "\r\n"},
		{505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
		{431, "GET / HTTP/1.1\r\n" + host + "X: " + strings.Repeat("a", 70<<10) + "\r\n\r\n"},
		{431, "GET / HTTP/1.1\r\n" + host + strings.Repeat("X: a\r\n", 300) + "\r\n"},
		{405, "CONNECT a.localhost:80 HTTP/1.1\r\n" + host + "\r\n"},
		{405, "TRACE / HTTP/1.1\r\n" + host + "\r\n"},
		{400, "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\nzz\r\n"},
		{400, "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1\na\r\n"},
		{400, "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n"},
		{400, "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1;" + strings.Repeat("a", 2<<10) + "\r\n"},
		{400, "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\nX : a\r\n\r\n"},
	} {
		head, _ := ask(t, r.plain, c.request)
		if !strings.HasPrefix(head, fmt.Sprintf("HTTP/1.1 %d ", c.status)) || !strings.Contains(head, "Culvert-Error: ") {
			t.Errorf("%.90q: want %d, got %s", c.request, c.status, head)
		}
	}
	if n, got := up.conns.Load(), up.all(); n != 0 || got != "" {
		t.Errorf("the upstream got %d connections and %q", n, got)
	}
	// Malformed later than in what came with the head: the upstream never sees an end.
	c := dial(t, r.plain)
	_, err := io.WriteString(c, "POST / HTTP/1.1\r\n"+host+"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
	check(t, err)
	eventually(t, "the first chunk", func() bool { return strings.HasSuffix(up.all(), "1\r\na\r\n") })
	_, err = io.WriteString(c, "0\r\nX: a\n\r\n")
	check(t, err)
	if head := readHead(bufio.NewReader(c)); !strings.HasPrefix(head, "HTTP/1.1 400 ") {
		t.Errorf("a malformed trailer: %s", head)
	}
	if err := <-up.ends; err == io.EOF { //nolint:errorlint // as ReadRequest returns it
		t.Errorf("the upstream saw an end: %v", err)
	}
	if got := up.all(); strings.Contains(got, "0\r\nX") {
		t.Errorf("the upstream got %q", got)
	}
}

// TestStrict2: the same of HTTP/2, where some of it can't be said. What is malformed as
// HTTP/2 is reset (RFC 9113, section 8.1.1).
func TestStrict2(t *testing.T) {
	r := run(t, Config{})
	up := newRaw(t, answering(ok))
	r.bind(t, "a.localhost", up.address)
	r.bind(t, "b.localhost", up.address)
	c := dialH2(t, r)
	id := uint32(1)
	get := []string{":method", "GET", ":scheme", "https", ":authority", "a.localhost", ":path", "/"}
	with := func(fields ...string) []string { return append(slices.Clone(get), fields...) }
	target := func(method, path string) []string {
		return []string{":method", method, ":scheme", "https", ":authority", "a.localhost", ":path", path}
	}
	for _, x := range []struct {
		want   string
		fields []string
	}{
		{"reset", with("transfer-encoding", "chunked")},
		{"reset", with("connection", "x")},
		{"reset", with("upgrade", "h2c")},
		{"reset", with("te", "gzip")},
		{"reset", with("X", "y")},
		{"reset", with("x y", "z", ":path", "/")},
		{"reset", with("host", "b.localhost")},
		{"reset", with("content-length", "1")},
		{"reset", target("GET", "")},
		{"400", with("content-length", "0", "content-length", "0")},
		{"400", with("content-length", "0, 0")},
		{"400", with("content-length", "+0")},
		{"400", with("x y", "z")},
		{"400", with("x:y", "z")},
		{"400", with("x", "y\r\nz: 1")},
		{"400", with("x", "y\x00")},
		{"400", target("GET", "https://a.localhost/")},
		{"400", target("GET", "/#x")},
		{"400", target("GET", "/ x")},
		{"400", target("GET", "*")},
		{"400", target("G ET", "/")},
		{"400", []string{":method", "GET", ":scheme", "https", ":authority", "x@a.localhost", ":path", "/"}},
		{"400", []string{":method", "GET", ":scheme", "https", ":path", "/"}},
		{"405", target("TRACE", "/")},
		{"405", []string{":method", "CONNECT", ":authority", "a.localhost:80"}},
		{"405", append(target("CONNECT", "/"), ":protocol", "connect-udp")},
		{"421", []string{":method", "GET", ":scheme", "https", ":authority", "b.localhost", ":path", "/"}},
		{"421", []string{":method", "GET", ":scheme", "http", ":authority", "a.localhost", ":path", "/"}},
	} {
		if got := c.status(t, id, x.fields...); got != x.want {
			t.Errorf("%q: %s, want %s", x.fields, got, x.want)
		}
		id += 2
	}
	if got := up.all(); got != "" {
		t.Errorf("the upstream got %q", got)
	}
	if got := c.status(t, id, get...); got != "200" {
		t.Errorf("a good request after all that: %s", got)
	}
}

// TestPassed: what is unusual and allowed arrives, in the form that has one reading.
func TestPassed(t *testing.T) {
	r := run(t, Config{})
	up := newRaw(t, answering(ok))
	r.bind(t, "a.localhost", up.address)
	const host = "Host: a.localhost\r\n"
	for _, c := range []struct{ request, want string }{
		{
			"GET http://A.localhost/b?c HTTP/1.1\r\nHost: a.localhost\r\n\r\n",
			"GET /b?c HTTP/1.1\r\nHost: a.localhost\r\n",
		},
		{
			"\r\nGET /a HTTP/1.1\r\n" + host + "X:\t a \t\r\n\r\n",
			"GET /a HTTP/1.1\r\nHost: a.localhost\r\nX: a\r\nX-Forwarded-For: ",
		},
		{
			"GET /b HTTP/1.1\r\n" + host + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
			"GET /b HTTP/1.1\r\nHost: a.localhost\r\nX-Forwarded-For: ",
		},
		{
			"GET /c HTTP/1.1\r\n" + host + "Connection: close, X-A\r\nX-A: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: gzip, trailers\r\n\r\n",
			"GET /c HTTP/1.1\r\nHost: a.localhost\r\nTe: trailers\r\nX-Forwarded-For: ",
		},
		{
			"POST /d HTTP/1.1\r\n" + host + "Transfer-Encoding: CHUNKED\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-T: 1\r\nX_Forwarded-For: 6\r\nContent-Length: 7\r\nTransfer-Encoding: x\r\n\r\n",
			"\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
		},
		{
			"OPTIONS * HTTP/1.1\r\n" + host + "\r\n",
			"OPTIONS * HTTP/1.1\r\n",
		},
		{
			"GET /e HTTP/1.0\r\n" + host + "Connection: upgrade\r\nUpgrade: x\r\n\r\n",
			"GET /e HTTP/1.1\r\nHost: a.localhost\r\nX-Forwarded-For: ",
		},
	} {
		head, _ := ask(t, r.plain, c.request)
		if !strings.HasPrefix(head, "HTTP/1.1 200 ") || !strings.Contains(up.all(), c.want) {
			t.Errorf("%q: answer %q, the upstream got %q", c.request, head, up.all())
		}
		up.mu.Lock()
		up.got.Reset()
		up.mu.Unlock()
	}
}

// TestAnswersRefused: what an upstream says that could be read in two ways becomes 502,
// and nothing of it passes.
func TestAnswersRefused(t *testing.T) {
	r := run(t, Config{})
	for i, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nContent-Length: 7\r\n\r\nsecret",
		"HTTP/1.1 200 OK\r\nContent-Length: 6, 6\r\n\r\nsecret",
		"HTTP/1.1 200 OK\nContent-Length: 6\n\nsecret",
		"HTTP/1.1 200 OK\r\nX: a\r\n secret\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: secret\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: secret\r\n\r\n",
		"HTTP/1.1 2000 OK\r\nX: secret\r\n\r\n",
		"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: secret\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX: secret" + strings.Repeat("a", 70<<10) + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: secret\r\n", 300) + "\r\n",
		strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 1000),
		"secret",
	} {
		up := newRaw(t, func(_ *rawUpstream, c net.Conn, r *bufio.Reader) {
			_, _ = http.ReadRequest(r)
			_, _ = io.WriteString(c, answer)
			_ = c.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, r)
		})
		host := fmt.Sprintf("a%d.localhost", i)
		r.bind(t, host, up.address)
		c := dial(t, r.plain)
		_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
		check(t, err)
		got, _ := io.ReadAll(c)
		_, last, _ := strings.Cut(string(got), "HTTP/1.1 502 ")
		if !strings.Contains(last, "Culvert-Error: upstream_") || strings.Contains(string(got), "secret") {
			t.Errorf("%.80q: %.200s", answer, got)
		}
	}
}

// TestResponseSplitting: bytes behind an answer belong to nobody. They don't become the
// answer to the next request.
func TestResponseSplitting(t *testing.T) {
	r := run(t, Config{})
	up := newRaw(t, answering(ok+"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret"))
	r.bind(t, "a.localhost", up.address)
	c := dial(t, r.plain)
	in := bufio.NewReader(c)
	for range 5 {
		_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n")
		check(t, err)
		res, err := http.ReadResponse(in, nil)
		check(t, err)
		if b, err := io.ReadAll(res.Body); err != nil || string(b) != "ok" {
			t.Errorf("%q, %v", b, err)
		}
	}
}

// TestPipelined: requests that come together are answered in order, and nothing is lost
// between a body and the next request.
func TestPipelined(t *testing.T) {
	r := run(t, Config{})
	up := newRaw(t, func(_ *rawUpstream, c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			b, _ := io.ReadAll(req.Body)
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s%s\r\n0\r\n\r\n", len(req.URL.Path)+len(b), req.URL.Path, b)
		}
	})
	r.bind(t, "a.localhost", up.address)
	var requests strings.Builder
	for i := range 50 {
		fmt.Fprintf(&requests, "GET /%d HTTP/1.1\r\nHost: a.localhost\r\n\r\n", i)
		fmt.Fprintf(&requests, "POST /%d HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 300\r\n\r\n%0300d", i, i)
		fmt.Fprintf(&requests, "PUT /%d HTTP/1.1\r\nHost: a.localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", i)
	}
	c := dial(t, r.plain)
	go func() { _, _ = io.WriteString(c, requests.String()) }()
	in := bufio.NewReader(c)
	for i := range 50 {
		for _, body := range []string{"", fmt.Sprintf("%0300d", i), "abc"} {
			res, err := http.ReadResponse(in, nil)
			check(t, err)
			if b, err := io.ReadAll(res.Body); err != nil || string(b) != fmt.Sprintf("/%d%s", i, body) {
				t.Fatalf("request %d: %q, %v", i, b, err)
			}
		}
	}
}

// TestOldVisitor: HTTP/1.0 gets no chunks and no 1xx, and its keep-alive.
func TestOldVisitor(t *testing.T) {
	r := run(t, Config{})
	const dated = "Date: Tue, 24 Nov 2026 12:00:00 GMT\r\n"
	up := newRaw(t, answering("HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n"+dated+"Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n"))
	r.bind(t, "a.localhost", up.address)
	c := dial(t, r.plain)
	_, err := io.WriteString(c, "GET / HTTP/1.0\r\nHost: a.localhost\r\nX-Request-Id: 1\r\nConnection: keep-alive\r\n\r\n")
	check(t, err)
	if got, err := io.ReadAll(c); err != nil || string(got) != "HTTP/1.1 200 OK\r\n"+dated+"Connection: close\r\nX-Request-Id: 1\r\n\r\nhello" {
		t.Errorf("%q, %v", got, err)
	}
	up2 := newRaw(t, answering("HTTP/1.1 200 OK\r\n"+dated+"Content-Length: 2\r\n\r\nok"))
	r.bind(t, "b.localhost", up2.address)
	c = dial(t, r.plain)
	for range 3 {
		_, err := io.WriteString(c, "GET / HTTP/1.0\r\nHost: b.localhost\r\nX-Request-Id: 1\r\nConnection: keep-alive\r\n\r\n")
		check(t, err)
		got := make([]byte, len("HTTP/1.1 200 OK\r\n"+dated+"Content-Length: 2\r\nConnection: keep-alive\r\nX-Request-Id: 1\r\n\r\nok"))
		if _, err := io.ReadFull(c, got); err != nil || !strings.HasSuffix(string(got), "Connection: keep-alive\r\nX-Request-Id: 1\r\n\r\nok") {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

// TestDate: an answer that comes without a date gets one (RFC 9110, section 6.6.1).
func TestDate(t *testing.T) {
	r := run(t, Config{})
	for host, date := range map[string]string{"a.localhost": "", "b.localhost": "Tue, 24 Nov 2026 12:00:00 GMT"} {
		head := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
		if date != "" {
			head += "date: " + date + "\r\n"
		}
		r.bind(t, host, newRaw(t, answering(head+"\r\nok")).address)
		c := dial(t, r.plain)
		_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		check(t, err)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		check(t, err)
		got := res.Header.Values("Date")
		if len(got) != 1 || (date != "" && got[0] != date) {
			t.Errorf("%s: dates %q", host, got)
		} else if at, err := http.ParseTime(got[0]); err != nil || (date == "" && time.Since(at).Abs() > time.Minute) {
			t.Errorf("%s: date %v, %v", host, at, err)
		}
	}
}

// TestOldUpstream: HTTP/1.0, and bodies that end with the connection.
func TestOldUpstream(t *testing.T) {
	r := run(t, Config{})
	up := newRaw(t, func(_ *rawUpstream, c net.Conn, r *bufio.Reader) {
		_, _ = http.ReadRequest(r)
		_, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\n\r\nwhole")
	})
	r.bind(t, "a.localhost", up.address)
	c := dial(t, r.plain)
	in := bufio.NewReader(c)
	for range 3 { // the visitor's connection stays
		_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n")
		check(t, err)
		res, err := http.ReadResponse(in, nil)
		check(t, err)
		if b, err := io.ReadAll(res.Body); err != nil || string(b) != "whole" {
			t.Fatalf("%q, %v", b, err)
		}
	}
	broken := newRaw(t, func(_ *rawUpstream, c net.Conn, r *bufio.Reader) {
		_, _ = http.ReadRequest(r)
		_, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\n\r\nhalf")
		_ = c.(*net.TCPConn).SetLinger(0)
	})
	r.bind(t, "b.localhost", broken.address)
	_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: b.localhost\r\n\r\n")
	check(t, err)
	if res, err := http.ReadResponse(in, nil); err == nil && res.StatusCode == http.StatusOK {
		if b, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("a body that was broken off looked whole: %q", b)
		}
	}
}
