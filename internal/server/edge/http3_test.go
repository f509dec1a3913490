package edge

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// visitor3 is a client of HTTP/3 for whatever host, at address.
func visitor3(t *testing.T, address string) *http.Client {
	t.Helper()
	tr := &http3.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		Dial: func(ctx context.Context, _ string, cfg *tls.Config, q *quic.Config) (*quic.Conn, error) {
			return quic.DialAddr(ctx, address, cfg, q)
		},
	}
	t.Cleanup(func() { _ = tr.Close() })
	return &http.Client{Transport: tr, Timeout: patience}
}

func read(t *testing.T, res *http.Response, err error) string {
	t.Helper()
	check(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	check(t, err)
	return string(b)
}

// TestHTTP3: requests over QUIC are served like those of HTTP/2.
func TestHTTP3(t *testing.T) {
	r := run(t, Config{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Alt-Svc", `h3=":1"`)
		w.Header().Set("Trailer", "X-Sum")
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s %s %d %s", r.Method, r.RequestURI, r.Header.Get("X-Forwarded-Proto"), n, r.Trailer.Get("X-Sent"))
		w.Header().Set("X-Sum", "1")
	}))
	t.Cleanup(up.Close)
	r.bind(t, "app.localhost", up.Listener.Addr().String())
	client := visitor3(t, r.secure)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://app.localhost/a%2Fb?x=%zz", io.LimitReader(zeros{}, 3<<20))
	check(t, err)
	req.Trailer = http.Header{"X-Sent": {"words"}}
	res, err := client.Do(req)
	if got, want := read(t, res, err), fmt.Sprintf("POST /a%%2Fb?x=%%zz https %d words", 3<<20); got != want || res.Trailer.Get("X-Sum") != "1" || res.ProtoMajor != 3 {
		t.Errorf("got %q with trailers %v in %s, want %q", got, res.Trailer, res.Proto, want)
	}
	_, port, _ := net.SplitHostPort(r.secure)
	announced := `h3=":` + port + `"; ma=86400`
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: "app.localhost"}}
	t.Cleanup(tr.CloseIdleConnections)
	for url, want := range map[string]string{"https://" + r.secure: announced, "http://" + r.plain: ""} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		check(t, err)
		req.Host = "app.localhost"
		res, err := (&http.Client{Transport: tr}).Do(req)
		if read(t, res, err); strings.Join(res.Header.Values("Alt-Svc"), ", ") != want {
			t.Errorf("%s: Alt-Svc %q, want %q", url, res.Header.Values("Alt-Svc"), want)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestHTTP3Names: a QUIC connection reaches the host of its server name and no other, and
// none is made without one that is served.
func TestHTTP3Names(t *testing.T) {
	r := run(t, Config{})
	reached := make(chan struct{}, 10)
	up := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached <- struct{}{} }))
	t.Cleanup(up.Close)
	r.bind(t, "one.localhost", up.Listener.Addr().String())
	r.bind(t, "two.localhost", up.Listener.Addr().String())
	client := visitor3(t, r.secure)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://one.localhost/", nil)
	check(t, err)
	req.Host = "two.localhost"
	res, err := client.Do(req)
	if read(t, res, err); res.StatusCode != http.StatusMisdirectedRequest || len(reached) != 0 {
		t.Errorf("another host than the server name's: status %d, %d requests at the upstream", res.StatusCode, len(reached))
	}
	for _, name := range []string{"elsewhere.example", ""} {
		c, err := quic.DialAddr(t.Context(), r.secure, &tls.Config{InsecureSkipVerify: true, ServerName: name, NextProtos: []string{"h3"}}, nil)
		if err == nil {
			_ = c.CloseWithError(0, "")
			t.Errorf("a connection to the name %q was made", name)
		}
	}
}

// TestHTTP3SlowVisitors: who does not come to the point is let go.
func TestHTTP3SlowVisitors(t *testing.T) {
	r := run(t, Config{HeaderTimeout: 300 * time.Millisecond, IdleTimeout: 300 * time.Millisecond})
	for what, visit := range map[string]func(*quic.Conn){
		"nothing": func(*quic.Conn) {},
		"half a head": func(c *quic.Conn) {
			s, err := c.OpenStream()
			check(t, err)
			_, err = s.Write([]byte{1, 100, 0, 0}) // a HEADERS frame that says it has 100 bytes (RFC 9114, 7.2.2)
			check(t, err)
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			c, err := quic.DialAddr(t.Context(), r.secure,
				&tls.Config{InsecureSkipVerify: true, ServerName: "a.localhost", NextProtos: []string{"h3"}}, &quic.Config{KeepAlivePeriod: 50 * time.Millisecond})
			check(t, err)
			visit(c)
			select {
			case <-c.Context().Done():
			case <-time.After(patience):
				t.Error("the connection was kept")
			}
		})
	}
}

// TestHTTP3Shutdown: a request that is under way is served to its end, new ones are
// refused, and idle connections don't keep the server.
func TestHTTP3Shutdown(t *testing.T) {
	r := run(t, Config{})
	begun, finish := make(chan struct{}), make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush()
		close(begun)
		<-finish
		fmt.Fprint(w, "done")
	}))
	t.Cleanup(up.Close)
	r.bind(t, "app.localhost", up.Listener.Addr().String())
	res, err := visitor3(t, r.secure).Get("https://app.localhost/")
	check(t, err)
	<-begun
	idle := visitor3(t, r.secure)
	other, err := idle.Get("https://nobody.localhost/")
	read(t, other, err)
	ended := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		ended <- r.edge.Shutdown(ctx)
	}()
	for { // until the listener has closed
		c, err := quic.DialAddr(t.Context(), r.secure, &tls.Config{InsecureSkipVerify: true, ServerName: "app.localhost", NextProtos: []string{"h3"}},
			&quic.Config{HandshakeIdleTimeout: 300 * time.Millisecond})
		if err != nil {
			break
		}
		_ = c.CloseWithError(0, "")
	}
	close(finish)
	if got := read(t, res, nil); got != "done" {
		t.Errorf("the answer under way: %q", got)
	}
	check(t, <-ended)
}
