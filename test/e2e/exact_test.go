package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// exact is an upstream that writes HTTP by hand: what its answers hold, and when it
// closes and how, is no library's decision.
type exact struct {
	address string
	heads   chan string // of the requests, as they came
	bodies  chan string // of chunked requests, chunk lines included
	ends    chan error  // how connections to /endless and /silent ended
	posts   atomic.Int64
}

func newExact(t *testing.T) *exact {
	t.Helper()
	x := &exact{heads: make(chan string, 1000), bodies: make(chan string, 10), ends: make(chan error, 10)}
	x.address = serveTCP(t, x.serve)
	return x
}

func readHead(r *bufio.Reader) (string, error) {
	var head strings.Builder
	for {
		line, err := r.ReadString('\n')
		head.WriteString(line)
		if err != nil || line == "\r\n" {
			return head.String(), err
		}
	}
}

func (x *exact) serve(c *net.TCPConn) {
	r := bufio.NewReader(c)
	for {
		head, err := readHead(r)
		if err != nil {
			return
		}
		select {
		case x.heads <- head:
		default:
		}
		if !x.answer(c, r, head) {
			return
		}
	}
}

// answer answers one request and reports whether the connection goes on.
func (x *exact) answer(c *net.TCPConn, r *bufio.Reader, head string) bool {
	say := func(s string) { _, _ = io.WriteString(c, s) }
	path, _, _ := strings.Cut(strings.Fields(head)[1], "?")
	switch path {
	case "/plain":
		say("HTTP/1.1 200 OK\r\nX-Empty:\r\nX-Twice: a\r\nX-Twice: b\r\nContent-Length: 6\r\n\r\n<html>")
	case "/head":
		say("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n")
	case "/hints":
		say("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	case "/chunked":
		var body strings.Builder
		for !strings.HasSuffix(body.String(), "\r\n\r\n") {
			line, err := r.ReadString('\n')
			if err != nil {
				return false
			}
			body.WriteString(line)
		}
		x.bodies <- body.String()
		say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	case "/die":
		_, _ = io.ReadFull(r, make([]byte, 5))
		return false
	case "/refuse":
		say("HTTP/1.1 413 Too Large\r\nContent-Length: 8\r\n\r\ntoo much")
		return false // with the upload unread: the kernel makes a reset of it
	case "/expect":
		_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if b, err := r.ReadByte(); err == nil {
			say(fmt.Sprintf("HTTP/1.1 400 Early\r\nContent-Length: 1\r\n\r\n%c", b))
			return false
		}
		_ = c.SetReadDeadline(time.Time{})
		if strings.Contains(head, "?no") {
			say("HTTP/1.1 417 No\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat("no", 500_000))
			_, err := r.ReadByte()
			x.ends <- err // the body must never come
			return false
		}
		say("HTTP/1.1 100 Continue\r\n\r\n")
		body := make([]byte, 5)
		_, _ = io.ReadFull(r, body)
		say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + string(body))
	case "/endless":
		say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for {
			if _, err := c.Write(bytes.Join([][]byte{[]byte("8000\r\n"), make([]byte, 0x8000), []byte("\r\n")}, nil)); err != nil {
				x.ends <- err
				return false
			}
		}
	case "/silent":
		say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
		_, err := r.ReadByte() // a FIN would be no reason for this upstream to stop
		x.ends <- err
		return false
	case "/cut-length":
		say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
		return false
	case "/cut-chunked":
		say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
		return false
	case "/to-the-end":
		say("HTTP/1.1 200 OK\r\n\r\nwhole")
		return false
	case "/unasked":
		say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\nsecret")
		return false
	case "/nothing":
		return false
	case "/post":
		x.posts.Add(1)
		say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		return false // a keep-alive time-out that comes at once
	case "/upgrade":
		say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, err := io.Copy(c, r)
		x.ends <- err
		return false
	default:
		say("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: " + strconv.Itoa(len(head)) + "\r\n\r\n" + head)
	}
	return true
}

// raw opens a connection for HTTP by hand, in plain or over TLS.
func (n *node) raw(host string, secure bool) net.Conn {
	n.t.Helper()
	if !secure {
		return dial(n.t, n.http)
	}
	return tls.Client(dial(n.t, n.https), &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
}

func TestHTTPExactly(t *testing.T) {
	x := newExact(t)
	n := startServer(t)
	_, url := n.publish("http", x.address, "--name", "app", "--no-redirect")
	plain := n.plainURL(url)

	t.Run("request as written", func(t *testing.T) {
		for _, version := range []string{"--http1.1", "--http2"} {
			got := n.curl(version, "-g", url+"/a%2Fb/x|y^?q=a;b&c=%zz&d", "-H", "X-Empty;", "-H", "X-Twice: 1", "-H", "X-Twice: 2", "-H", "User-Agent:")
			if !strings.HasPrefix(got, "GET /a%2Fb/x|y^?q=a;b&c=%zz&d HTTP/1.1\r\n") || !strings.Contains(got, "X-Twice: 1\r\nX-Twice: 2\r\n") ||
				!strings.Contains(got, "X-Empty: \r\n") || strings.Contains(got, "User-Agent") || strings.Contains(got, "Accept-Encoding") {
				t.Errorf("%s: %s", version, got)
			}
		}
		if got := n.curl("--http1.1", "-X", "OPTIONS", "--request-target", "*", url); !strings.HasPrefix(got, "OPTIONS * HTTP/1.1\r\n") {
			t.Errorf("OPTIONS *: %s", got)
		}
	})
	t.Run("answer as written", func(t *testing.T) {
		got := n.curl("--http1.1", "-i", url+"/plain")
		if !strings.Contains(got, "X-Twice: a\r\nX-Twice: b\r\n") || !strings.Contains(got, "X-Empty: \r\n") || strings.Contains(got, "Content-Type") {
			t.Error(got)
		}
		for _, version := range []string{"--http1.1", "--http2"} {
			if got := strings.ToLower(n.curl(version, "-I", url+"/head")); !strings.Contains(got, "content-length: 1234\r\n") {
				t.Errorf("HEAD %s: %s", version, got)
			}
			if got := n.curl(version, "-i", url+"/hints"); !strings.Contains(strings.SplitN(got, "\r\n", 2)[0], "103") || !strings.HasSuffix(got, "ok") {
				t.Errorf("early hints %s: %s", version, got)
			}
		}
	})
	t.Run("hosts", func(t *testing.T) {
		for host, want := range map[string]string{
			"APP.localhost": "200", "app.localhost.": "200", "app.LOCALHOST.:1234": "200", "app.localhost:": "200",
			"xn--bcher-kva.localhost": "404", "127.0.0.1": "404", "app.localhost:99999": "400", "a b": "400", "": "400", "../app.localhost": "400",
		} {
			c := n.raw("", false)
			fmt.Fprintf(c, "GET /plain HTTP/1.1\r\nHost: %s\r\n\r\n", host)
			head, _ := readHead(bufio.NewReader(c))
			if !strings.HasPrefix(head, "HTTP/1.1 "+want) {
				t.Errorf("%q: want %s, got %s", host, want, head)
			}
		}
	})
	t.Run("where a request comes from, in every spelling", func(t *testing.T) {
		got := n.curl("--http1.1", url+"/", "-H", "X_Forwarded_For: 6.6.6.6", "-H", "X-Forwarded_For: 6.6.6.6", "-H", "x.forwarded.for: 6.6.6.6",
			"-H", "X_REAL_IP: 6.6.6.6", "-H", "FORWARDED: for=6.6.6.6", "-H", "X-Forwarded-Host: 6.6.6.6", "-H", "X-Forwarded-Proto: 6.6.6.6",
			"-H", "Connection: X-Forwarded-For, X-Forwarded-Proto, Forwarded, X-Real-IP, X-Forwarded-Host, X-Mine", "-H", "X-Mine: 1")
		if strings.Contains(got, "6.6.6.6") || strings.Contains(got, "X-Mine") || strings.Count(got, "X-Forwarded-For: 127.0.0.1\r\n") != 1 ||
			!strings.Contains(got, "X-Real-Ip: 127.0.0.1\r\n") || !strings.Contains(got, "X-Forwarded-Proto: https\r\n") ||
			!strings.Contains(got, "X-Forwarded-Host: app.localhost:") || !strings.Contains(got, "Forwarded: for=127.0.0.1;host=\"app.localhost:") {
			t.Error(got)
		}
	})
	t.Run("trailers nobody announced", func(t *testing.T) {
		c := n.raw("app.localhost", true)
		_, err := io.WriteString(c, "POST /chunked HTTP/1.1\r\nHost: app.localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Late: yes\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n")
		check(t, err)
		_, err = readHead(bufio.NewReader(c))
		check(t, err)
		if got, want := <-x.bodies, "5\r\nhello\r\n0\r\nX-Late: yes\r\n\r\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("a malformed body is the visitor's fault", func(t *testing.T) {
		c := n.raw("app.localhost", true)
		_, err := io.WriteString(c, "POST /chunked HTTP/1.1\r\nHost: app.localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
		check(t, err)
		if head, err := readHead(bufio.NewReader(c)); err != nil || !strings.HasPrefix(head, "HTTP/1.1 400") {
			t.Errorf("got %s, %v", head, err)
		}
	})
	t.Run("CONNECT and TRACE end here", func(t *testing.T) {
		for _, head := range []string{"CONNECT app.localhost:80 HTTP/1.1\r\nHost: app.localhost:80\r\n\r\n", "TRACE / HTTP/1.1\r\nHost: app.localhost\r\n\r\n"} {
			c := n.raw("", false)
			_, _ = io.WriteString(c, head)
			if got, err := readHead(bufio.NewReader(c)); err != nil || !strings.HasPrefix(got, "HTTP/1.1 405") || !strings.Contains(got, "method_refused") {
				t.Errorf("%s: %s, %v", head, got, err)
			}
		}
	})
	t.Run("expectations", func(t *testing.T) { testExpectations(t, n, x, plain) })
	t.Run("an upload refused", func(t *testing.T) { testRefusedUpload(t, n, url) })
	t.Run("an upload that pauses while the upstream dies", func(t *testing.T) {
		for _, secure := range []bool{false, true} {
			c := n.raw("app.localhost", secure)
			_, err := io.WriteString(c, "POST /die HTTP/1.1\r\nHost: app.localhost\r\nContent-Length: 1000000\r\n\r\nstart")
			check(t, err)
			if head, err := readHead(bufio.NewReader(c)); err != nil || !strings.HasPrefix(head, "HTTP/1.1 502 ") || !strings.Contains(head, "upstream_closed") {
				t.Errorf("got %s, %v", head, err)
			}
		}
	})
	t.Run("aborts by the visitor", func(t *testing.T) { testVisitorAborts(t, n, x, url) })
	t.Run("answers broken off", func(t *testing.T) { testBrokenAnswers(t, n, url) })
	t.Run("a keep-alive time-out between requests", func(t *testing.T) { testStale(t, n, x, url) })
	t.Run("upgrade", func(t *testing.T) { testUpgrade(t, n, x) })
}

// testExpectations: the 100 is the upstream's own, and without it no byte of a body
// reaches the upstream.
func testExpectations(t *testing.T, n *node, x *exact, plain string) {
	ask := func(query string) (net.Conn, *bufio.Reader, string) {
		c := n.raw("", false)
		_, err := io.WriteString(c, "POST /expect?"+query+" HTTP/1.1\r\nHost: app.localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
		check(t, err)
		r := bufio.NewReader(c)
		head, err := readHead(r)
		check(t, err)
		return c, r, head
	}
	c, r, head := ask("yes")
	if !strings.HasPrefix(head, "HTTP/1.1 100 ") {
		t.Fatalf("instead of 100: %s", head)
	}
	_, err := io.WriteString(c, "hello")
	check(t, err)
	if head, err := readHead(r); err != nil || !strings.HasPrefix(head, "HTTP/1.1 200 ") {
		t.Errorf("after the body: %s, %v", head, err)
	}
	_, r, head = ask("no")
	if n, err := io.CopyN(io.Discard, r, 1_000_000); err != nil || !strings.HasPrefix(head, "HTTP/1.1 417 ") {
		t.Errorf("instead of 417 and all of its page: %s, %d bytes, %v", head, n, err)
	}
	select {
	case err := <-x.ends:
		if err == nil {
			t.Error("a refused body was sent")
		}
	case <-time.After(patience):
		t.Error("a refused request was not ended")
	}
	if got := n.curl("--http1.1", plain+"/expect?yes", "-H", "Expect: 100-continue", "-d", "hello"); got != "hello" {
		t.Errorf("curl: %s", got)
	}
}

// testRefusedUpload: an upstream that answers early and closes resets the connection.
// The visitor gets the answer all the same, every time.
func testRefusedUpload(t *testing.T, n *node, url string) {
	client := n.visitor(true)
	for range 10 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/refuse", io.LimitReader(&blob{}, 8<<20))
		check(t, err)
		req.ContentLength = 8 << 20
		res, err := client.Do(req)
		check(t, err)
		b, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != http.StatusRequestEntityTooLarge || string(b) != "too much" {
			t.Fatalf("%s %q, %v", res.Status, b, err)
		}
	}
	big := make([]byte, 3<<20)
	for _, version := range []string{"--http1.1", "--http2"} {
		for range 5 {
			cmd := exec.CommandContext(t.Context(), "curl", "-sk", "--max-time", "20", version, "-H", "Expect:", "--data-binary", "@-", "-w", " %{http_code}", url+"/refuse")
			cmd.Stdin = bytes.NewReader(big)
			if got, _ := cmd.Output(); string(got) != "too much 413" {
				t.Fatalf("curl %s: %q", version, got)
			}
		}
	}
}

// testVisitorAborts: an upstream that ignores a FIN, as it may, sees the visitor leave.
func testVisitorAborts(t *testing.T, n *node, x *exact, url string) {
	for _, path := range []string{"/endless", "/silent"} {
		for _, h2 := range []bool{false, true} {
			res, err := n.visitor(h2).Get(url + path)
			check(t, err)
			_, err = io.ReadFull(res.Body, make([]byte, 5))
			check(t, err)
			_ = res.Body.Close()
			select {
			case err := <-x.ends:
				if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
					t.Errorf("%s, HTTP/2 %v: the upstream saw %v", path, h2, err)
				}
			case <-time.After(patience):
				t.Fatalf("%s, HTTP/2 %v: the upstream did not see the visitor leave", path, h2)
			}
		}
	}
}

func testBrokenAnswers(t *testing.T, n *node, url string) {
	for _, path := range []string{"/cut-length", "/cut-chunked"} {
		for _, h2 := range []bool{false, true} {
			res, err := n.visitor(h2).Get(url + path)
			check(t, err)
			b, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err == nil || string(b) != "half" {
				t.Errorf("%s, HTTP/2 %v: %q, %v", path, h2, b, err)
			}
		}
	}
	for _, secure := range []bool{false, true} {
		// For HTTP/1.0 the end of the connection is the end of the body.
		c := n.raw("app.localhost", secure)
		_, err := io.WriteString(c, "GET /to-the-end HTTP/1.0\r\nHost: app.localhost\r\n\r\n")
		check(t, err)
		if b, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(b), "\r\n\r\nwhole") {
			t.Errorf("HTTP/1.0: %q, %v", b, err)
		}
		for _, path := range []string{"/cut-length", "/cut-chunked"} {
			c := n.raw("app.localhost", secure)
			_, err := io.WriteString(c, "GET "+path+" HTTP/1.0\r\nHost: app.localhost\r\n\r\n")
			check(t, err)
			if b, err := io.ReadAll(c); err == nil && !bytes.Contains(b, []byte("Content-Length: 100")) {
				t.Errorf("HTTP/1.0 %s, TLS %v: a broken answer looked whole: %q", path, secure, b)
			}
		}
	}
	for path, code := range map[string]string{"/unasked": "upstream_protocol", "/nothing": "upstream_closed"} {
		version := map[string]string{"/unasked": "--http1.1", "/nothing": "--http2"}[path]
		got := n.curl(version, "-i", url+path, "-H", "Connection: Upgrade", "-H", "Upgrade: h2c")
		if !strings.Contains(got, " 502 ") || strings.Contains(got, "secret") || !strings.Contains(got, code) {
			t.Errorf("%s: %s", path, got)
		}
	}
}

// testStale: an upstream that closes after every answer, without saying so beforehand,
// as one does whose keep-alive time-out is over.
func testStale(t *testing.T, n *node, x *exact, url string) {
	client := n.visitor(false)
	get := func() {
		t.Helper()
		res, err := client.Get(url + "/post")
		check(t, err)
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatalf("GET: %s", res.Status)
		}
	}
	for range 50 {
		get() // sent again if it met the close
	}
	// The stream that the last GET left is about to close. A POST, which must not be sent
	// twice, does not take it, and arrives once.
	before := x.posts.Load()
	res, err := client.Post(url+"/post", "text/plain", strings.NewReader("x"))
	check(t, err)
	_ = res.Body.Close()
	if got := x.posts.Load() - before; res.StatusCode != http.StatusOK || got != 1 {
		t.Errorf("POST: %s, arrived %d times", res.Status, got)
	}
}

// testUpgrade: after a 101 that was asked for, the two sides own the connection: bytes,
// half-close and reset pass.
func testUpgrade(t *testing.T, n *node, x *exact) {
	for _, secure := range []bool{false, true} {
		for _, reset := range []bool{false, true} {
			c := n.raw("app.localhost", secure)
			_, err := io.WriteString(c, "GET /upgrade HTTP/1.1\r\nHost: app.localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\nearly ")
			check(t, err)
			r := bufio.NewReader(c)
			head, err := readHead(r)
			check(t, err)
			if !strings.HasPrefix(head, "HTTP/1.1 101 ") || !strings.Contains(head, "Upgrade: echo\r\n") {
				t.Fatalf("got %s", head)
			}
			_, err = io.WriteString(c, "first")
			check(t, err)
			got := make([]byte, 11)
			if _, err := io.ReadFull(r, got); err != nil || string(got) != "early first" {
				t.Fatalf("%q, %v", got, err)
			}
			if reset {
				tcp, ok := c.(*net.TCPConn)
				if !ok {
					tcp = c.(*tls.Conn).NetConn().(*net.TCPConn)
				}
				check(t, tcp.SetLinger(0))
				check(t, tcp.Close())
			} else {
				check(t, c.(interface{ CloseWrite() error }).CloseWrite())
				if rest, err := io.ReadAll(r); err != nil || len(rest) != 0 {
					t.Errorf("after the half-close: %q, %v", rest, err)
				}
			}
			if err := <-x.ends; reset != errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("reset %v, TLS %v: the upstream saw %v", reset, secure, err)
			}
		}
	}
}
