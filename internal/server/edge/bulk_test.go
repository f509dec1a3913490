package edge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/splice"
	"github.com/culvert-tunnel/culvert/yamux"
)

// bindLinked is bind for a.localhost, but the streams are those of a multiplexer, as an agent's are, which
// move bodies in ways of their own.
func (r *running) bindLinked(t *testing.T, address string) {
	t.Helper()
	near, far := net.Pipe()
	node, agent := yamux.Client(near, yamux.Config{}), yamux.Server(far, yamux.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		tasks.Wait()
	})
	tasks.Go(func() { _ = node.Run(ctx) })
	tasks.Go(func() { _ = agent.Run(ctx) })
	tasks.Go(func() {
		for {
			st, err := agent.Accept(ctx)
			if err != nil {
				return
			}
			tasks.Go(func() {
				up, err := net.Dial("tcp", address)
				if err != nil {
					_ = st.Reset()
					return
				}
				_, _ = splice.Join(ctx, st, up, splice.Config{})
			})
		}
	})
	_, err := r.registry.Bind(t.Context(), registry.Request{
		Spec: endpoint.Spec{Kind: endpoint.HTTP, Host: "a.localhost"}, Owner: registry.Owner{AgentID: "a", SessionID: "s"},
		Open: func(ctx context.Context, _ string, _ endpoint.Visitor, first []byte) (net.Conn, error) {
			st, err := node.Open(ctx)
			if err == nil {
				_, err = st.Write(first)
			}
			if err != nil {
				return nil, err
			}
			return st, nil
		},
	})
	check(t, err)
}

// TestBulk: bodies of a length go their short way, between two that don't, byte for byte,
// on connections that are kept, and are counted.
func TestBulk(t *testing.T) {
	var lines syncBuffer
	r := run(t, Config{Access: AccessLog{Attributes: slog.New(slog.NewTextHandler(&lines, nil))}})
	body := bytes.Repeat([]byte("0123456789abcdef"), 3<<16)
	up := newRaw(t, func(_ *rawUpstream, c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if req.Header.Get("Expect") != "" {
				_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
			}
			sum := sha256.New()
			if _, err := io.Copy(sum, req.Body); err != nil {
				return
			}
			answer := body
			if req.URL.Path == "/short" {
				answer = body[:100]
			}
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nSum: %x\r\nContent-Length: %d\r\n\r\n", sum.Sum(nil), len(answer))
			_, _ = c.Write(answer)
		}
	})
	r.bindLinked(t, up.address)
	c := dial(t, r.plain)
	in := bufio.NewReader(c)
	for i, sent := range []int{0, 10, len(body), 200_000, 0, len(body)} {
		path, want := "/", body
		if i%3 == 1 {
			path, want = "/short", body[:100]
		}
		fields := ""
		if i == 3 { // who asks, and does not wait: most of his body lies in the buffer of a long head
			fields = "Expect: 100-continue\r\nX: " + strings.Repeat("x", 20_000) + "\r\n"
		}
		_, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: a.localhost\r\n%sContent-Length: %d\r\n\r\n%s", path, fields, sent, body[:sent])
		check(t, err)
		res, err := http.ReadResponse(in, nil)
		check(t, err)
		if res.StatusCode == http.StatusContinue {
			res, err = http.ReadResponse(in, nil)
			check(t, err)
		}
		got, err := io.ReadAll(res.Body)
		if sum := fmt.Sprintf("%x", sha256.Sum256(body[:sent])); err != nil || !bytes.Equal(got, want) || res.Header.Get("Sum") != sum {
			t.Errorf("exchange %d: %d bytes of %d, %v, sent %s and not %s", i, len(got), len(want), err, res.Header.Get("Sum"), sum)
		}
	}
	check(t, c.Close())
	eventually(t, "lines of the log", func() bool { return strings.Count(lines.String(), "\n") == 6 })
	if want := fmt.Sprintf("bytes_in=%d bytes_out=%d", len(body), len(body)); strings.Count(lines.String(), want) != 2 || up.conns.Load() != 1 {
		t.Errorf("%d connections; no %s in\n%s", up.conns.Load(), want, lines.String())
	}
}

// TestIdleHoldsLittle: a connection between requests keeps no buffer of a long head or a body.
func TestIdleHoldsLittle(t *testing.T) {
	r := run(t, Config{})
	up := newRaw(t, answering(ok))
	r.bindLinked(t, up.address)
	for _, request := range []string{
		"Transfer-Encoding: chunked\r\n\r\n" + "18000\r\n" + strings.Repeat("x", 0x18000) + "\r\n0\r\n\r\n",
		"X: " + strings.Repeat("x", 40_000) + "\r\nContent-Length: 0\r\n\r\n",
	} {
		near, far := net.Pipe()
		c := &sized{Conn: far}
		served := make(chan struct{})
		go func() {
			defer close(served)
			r.edge.serveHTTP1(t.Context(), c, "")
		}()
		go func() { _, _ = io.WriteString(near, "POST / HTTP/1.1\r\nHost: a.localhost\r\n"+request) }()
		res, err := http.ReadResponse(bufio.NewReader(near), nil)
		if got := read(t, res, err); got != "ok" {
			t.Fatalf("%s: %s", res.Status, got)
		}
		eventually(t, "a small buffer", func() bool { return c.asked.Load() <= bufferSize })
		check(t, near.Close())
		<-served
	}
}

// sized is a connection that knows how large the buffer of the last Read was.
type sized struct {
	net.Conn
	asked atomic.Int64
}

func (s *sized) Read(p []byte) (int, error) {
	s.asked.Store(int64(len(p)))
	return s.Conn.Read(p)
}

// TestBulkEnds: however such a body is broken off, it looks so to the other side.
func TestBulkEnds(t *testing.T) {
	const length = 1 << 20
	r := run(t, Config{BodyTimeout: 500 * time.Millisecond, WriteTimeout: 500 * time.Millisecond})
	up := newRaw(t, func(u *rawUpstream, c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		_, err = io.Copy(io.Discard, req.Body)
		if req.Method == http.MethodPost {
			u.ends <- err
			return
		}
		announced := length
		if req.URL.Path == "/endless" {
			announced = 1 << 40 // more than all sockets hold
		}
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", announced)
		switch req.URL.Path {
		case "/broken":
			_, _ = c.Write(make([]byte, length/2))
		case "/more":
			_, _ = c.Write(make([]byte, length+100))
			_, err := r.ReadByte()
			u.ends <- err
		case "/endless":
			for err == nil {
				_, err = c.Write(make([]byte, 64<<10))
			}
			u.ends <- err
		}
	})
	r.bindLinked(t, up.address)
	get := func(path string) (*net.TCPConn, *http.Response) {
		c := dial(t, r.plain)
		_, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: a.localhost\r\n\r\n")
		check(t, err)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		check(t, err)
		return c, res
	}
	_, res := get("/broken")
	if n, err := io.Copy(io.Discard, res.Body); err == nil || n > length/2 {
		t.Errorf("an answer that was broken off: %d bytes, %v", n, err)
	}
	c, res := get("/more")
	if n, err := io.Copy(io.Discard, res.Body); err != nil || n != length {
		t.Errorf("an answer with more behind it: %d bytes, %v", n, err)
	}
	if err := <-up.ends; err == nil {
		t.Error("a stream with bytes behind an answer was used again")
	}
	check(t, c.Close())
	c, _ = get("/endless") // nobody reads
	if err := <-up.ends; err == nil {
		t.Error("an upstream was not told that its answer is not taken")
	}
	if _, err := io.Copy(io.Discard, c); err == nil {
		t.Error("what was not taken in time looked whole")
	}

	half := make([]byte, length/2)
	upload := func() *net.TCPConn {
		c := dial(t, r.plain)
		_, _ = fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: %d\r\n\r\n", length)
		_, err := c.Write(half)
		check(t, err)
		return c
	}
	for what, end := range map[string]func(*net.TCPConn){
		"stops":  func(*net.TCPConn) {},
		"closes": func(c *net.TCPConn) { _ = c.Close() },
		"ends":   func(c *net.TCPConn) { _ = c.CloseWrite() },
		"resets": func(c *net.TCPConn) { _, _ = c.SetLinger(0), c.Close() },
	} {
		c := upload()
		end(c)
		if err := <-up.ends; err == nil || errors.Is(err, io.EOF) {
			t.Errorf("a visitor who %s: the upstream saw %v", what, err)
		}
		if what == "stops" {
			if head := readHead(bufio.NewReader(c)); !strings.HasPrefix(head, "HTTP/1.1 408 ") {
				t.Errorf("a body that stops: %q", head)
			}
		}
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
