package edge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// patient is how long the flooded edge waits for a visitor: long enough for those who do what
// they can on a slow machine.
const patient = 2 * time.Second

// offence is what an offender does on a connection of his until he is let go. It reports
// whether he was: by the edge, and not by the end of the test.
type offence func(ctx context.Context) bool

// byHand writes a part of a request and more of it until the edge ends the connection.
func byHand(address, first, more string) offence {
	return func(ctx context.Context) bool {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return false
		}
		defer c.Close()
		stop := context.AfterFunc(ctx, func() { _ = c.Close() })
		defer stop()
		_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		_, err = io.WriteString(c, first)
		for err == nil && more != "" {
			_, err = io.WriteString(c, more)
		}
		if strings.HasPrefix(first, "GET /big") { // whose answer is not read before the edge gave up
			select {
			case <-time.After(2 * patient):
			case <-ctx.Done():
			}
		}
		_, _ = io.Copy(io.Discard, c)
		return ctx.Err() == nil
	}
}

// byQUIC does something on a QUIC connection until what it waits for ends.
func byQUIC(address string, do func(ctx context.Context, c *quic.Conn) error) offence {
	return func(ctx context.Context) bool {
		c, err := quic.DialAddr(ctx, address, &tls.Config{InsecureSkipVerify: true, ServerName: "a.localhost", NextProtos: []string{"h3"}},
			&quic.Config{InitialStreamReceiveWindow: 1 << 10, MaxStreamReceiveWindow: 1 << 10})
		if err != nil {
			return false
		}
		defer c.CloseWithError(0, "")
		err = do(ctx, c)
		return err != nil && ctx.Err() == nil
	}
}

// asking3 sends a request on a QUIC connection and does with the answer what it likes.
func asking3(method, path string, body io.Reader, then func(ctx context.Context, res *http.Response) error) func(context.Context, *quic.Conn) error {
	return func(ctx context.Context, c *quic.Conn) error {
		tr := &http3.Transport{}
		defer tr.Close()
		req, err := http.NewRequestWithContext(ctx, method, "https://a.localhost"+path, body)
		if err != nil {
			return err
		}
		res, err := tr.NewClientConn(c).RoundTrip(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		return then(ctx, res)
	}
}

// halted is a body that never comes to its end.
func halted(ctx context.Context) io.Reader {
	r, w := io.Pipe()
	context.AfterFunc(ctx, func() { _ = w.CloseWithError(ctx.Err()) })
	return io.MultiReader(strings.NewReader("half"), r)
}

var errRefused = errors.New("refused")

// TestFlooded: beside visitors who are slow in all ways there are, and others whose heads
// have no end, the rest is served, and the slow ones are let go.
func TestFlooded(t *testing.T) {
	r := run(t, Config{HeaderTimeout: patient, BodyTimeout: patient, WriteTimeout: patient, IdleTimeout: time.Minute})
	up := newRaw(t, func(_ *rawUpstream, c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			if req.URL.Path == "/big" {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
				for err == nil {
					_, err = c.Write(make([]byte, 64<<10))
				}
				return
			}
			_, _ = io.WriteString(c, ok)
		}
	})
	r.bindLinked(t, up.address)

	flooding, stop := context.WithCancel(t.Context())
	defer stop()
	headers := strings.Repeat("X-Header: "+strings.Repeat("x", 1000)+"\r\n", 16)
	offences := map[string]offence{
		"slow heads of HTTP/1.1":   byHand(r.plain, "GET / HTTP/1.1\r\nHost: a.localhost\r\nX", ""),
		"slow bodies of HTTP/1.1":  byHand(r.plain, "POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 1000000\r\n\r\nhalf", ""),
		"slow readers of HTTP/1.1": byHand(r.plain, "GET /big HTTP/1.1\r\nHost: a.localhost\r\n\r\n", ""),
		"huge heads of HTTP/1.1":   byHand(r.plain, "GET / HTTP/1.1\r\nHost: a.localhost\r\n", headers),
		"slow heads of HTTP/3": byQUIC(r.secure, func(_ context.Context, c *quic.Conn) error {
			s, err := c.OpenStream()
			if err != nil {
				return err
			}
			_, _ = s.Write([]byte{1, 100, 0, 0}) // a HEADERS frame that says it has 100 bytes (RFC 9114, 7.2.2)
			<-c.Context().Done()
			return errRefused
		}),
		"slow bodies of HTTP/3": byQUIC(r.secure, func(ctx context.Context, c *quic.Conn) error {
			return asking3(http.MethodPost, "/", halted(ctx), func(context.Context, *http.Response) error {
				return errRefused // 408
			})(ctx, c)
		}),
		"slow readers of HTTP/3": byQUIC(r.secure, asking3(http.MethodGet, "/big", nil, func(ctx context.Context, res *http.Response) error {
			select {
			case <-time.After(2 * patient):
			case <-ctx.Done():
			}
			_, err := io.Copy(io.Discard, res.Body)
			return err
		})),
		"huge heads of HTTP/3": byQUIC(r.secure, func(_ context.Context, c *quic.Conn) error {
			s, err := c.OpenStream()
			if err != nil {
				return err
			}
			_, err = s.Write([]byte{1, 0x80, 0x10, 0, 0}) // one of 1 MiB
			for err == nil {
				_, err = s.Write(make([]byte, 16<<10))
			}
			return err
		}),
	}
	letGo := make(map[string]*atomic.Int64)
	var offenders sync.WaitGroup
	for what, offend := range offences {
		many := 12
		if strings.HasPrefix(what, "huge") {
			many = 2 // who are never at rest
		}
		count := new(atomic.Int64)
		letGo[what] = count
		for range many {
			offenders.Go(func() {
				for flooding.Err() == nil {
					if offend(flooding) {
						count.Add(1)
					}
				}
			})
		}
	}

	plain := dial(t, r.plain)
	in := bufio.NewReader(plain)
	three := visitor3(t, r.secure)
	everyone := func() bool {
		for _, n := range letGo {
			if n.Load() == 0 {
				return false
			}
		}
		return true
	}
	body := bytes.Repeat([]byte("x"), 40_000)
	served := 0
	for until := time.Now().Add(3 * patience); served < 5 || !everyone(); served++ {
		if time.Now().After(until) {
			for what, n := range letGo {
				t.Logf("%s: %d let go", what, n.Load())
			}
			t.Fatal("not all offenders were let go")
		}
		check(t, plain.SetDeadline(time.Now().Add(patience)))
		_, err := io.WriteString(plain, "POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 40000\r\n\r\n"+string(body))
		check(t, err)
		res, err := http.ReadResponse(in, nil)
		if got := read(t, res, err); got != "ok" {
			t.Fatalf("others got %s %q", res.Status, got)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://a.localhost/", bytes.NewReader(body))
		check(t, err)
		res, err = three.Do(req)
		if got := read(t, res, err); got != "ok" {
			t.Fatalf("others of HTTP/3 got %s %q", res.Status, got)
		}
	}
	stop()
	offenders.Wait()
	t.Logf("%d served beside", served)
	check(t, plain.Close())
	three.CloseIdleConnections()
	eventually(t, "nobody to be served", func() bool { return r.edge.Visits() == 0 })
}
