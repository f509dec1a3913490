package culvert_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert"
)

// patience bounds every wait for something that must happen.
const patience = 20 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func listen(t *testing.T, cfg culvert.Config, e culvert.Endpoint) *culvert.Listener {
	t.Helper()
	l, err := culvert.Listen(within(t), cfg, e)
	check(t, err)
	t.Cleanup(func() {
		_ = l.Close()
		<-l.Agent().Done()
	})
	return l
}

// visit connects to a tcp endpoint.
func visit(t *testing.T, l interface{ URL() string }) *net.TCPConn {
	t.Helper()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(l.URL(), "tcp://"))
	check(t, err)
	c, err := net.DialTimeout("tcp", "127.0.0.1:"+port, patience)
	check(t, err)
	t.Cleanup(func() { _ = c.Close() })
	check(t, c.SetDeadline(time.Now().Add(patience)))
	return c.(*net.TCPConn)
}

// TestConnections: those that Accept returns are net.Conns in every respect that
// programs rely on.
func TestConnections(t *testing.T) {
	l := listen(t, culvert.Config{}, culvert.Endpoint{Kind: culvert.TCP})
	visitor := visit(t, l)
	_, err := visitor.Write([]byte("first"))
	check(t, err)
	c, err := l.Accept()
	check(t, err)
	if c.RemoteAddr().String() != visitor.LocalAddr().String() || c.LocalAddr().String() != visitor.RemoteAddr().String() {
		t.Errorf("%v to %v, want %v to %v", c.RemoteAddr(), c.LocalAddr(), visitor.LocalAddr(), visitor.RemoteAddr())
	}
	if _, port, _ := net.SplitHostPort(l.Addr().String()); !strings.HasSuffix(c.LocalAddr().String(), ":"+port) {
		t.Errorf("listens on %v, came in at %v", l.Addr(), c.LocalAddr())
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "first" {
		t.Errorf("%q, %v", b, err)
	}
	check(t, c.SetReadDeadline(time.Now()))
	var timeout net.Error
	if _, err := c.Read(b); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("deadline: %v", err)
	}
	check(t, c.SetReadDeadline(time.Time{}))

	// Bulk both ways, each direction ended by itself.
	sent := bytes.Repeat([]byte("culvert "), 1<<19)
	go func() {
		_, _ = io.Copy(visitor, bytes.NewReader(sent))
		_ = visitor.CloseWrite()
	}()
	h := sha256.New()
	if n, err := io.Copy(h, c); n != int64(len(sent)) || err != nil || [32]byte(h.Sum(nil)) != sha256.Sum256(sent) {
		t.Errorf("took %d, %v", n, err)
	}
	go func() {
		_, _ = io.Copy(c, bytes.NewReader(sent))
		_ = c.Close()
	}()
	if got, err := io.ReadAll(visitor); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("visitor got %d, %v", len(got), err)
	}

	// The listener's end leaves connections alone.
	second := visit(t, l)
	kept, err := l.Accept()
	check(t, err)
	check(t, l.Close())
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
	_, err = kept.Write([]byte("still here"))
	check(t, err)
	check(t, kept.Close())
	if got, err := io.ReadAll(second); string(got) != "still here" {
		t.Errorf("%q, %v", got, err)
	}
	if !errors.Is(l.Err(), net.ErrClosed) {
		t.Error(l.Err())
	}
}

// TestReconnect: the listener outlives the server's restart, also with a connection
// that nobody closed.
func TestReconnect(t *testing.T) {
	n := startNode(t)
	events := make(chan culvert.Event, 100)
	l := listen(t, culvert.Config{Server: n.https, Token: n.token, Events: func(e culvert.Event) { events <- e }},
		culvert.Endpoint{Kind: culvert.TCP})
	url := l.URL()
	_ = visit(t, l)
	forgotten, err := l.Accept()
	check(t, err)

	check(t, n.stop())
	check(t, n.start())
	onlines := 0
	for onlines < 2 {
		select {
		case e := <-events:
			if e.Kind == culvert.Online {
				onlines++
			}
		case <-within(t).Done():
			t.Fatal("not online again in time")
		}
	}
	if l.URL() != url {
		t.Errorf("now at %s, was at %s", l.URL(), url)
	}
	if _, err := io.ReadAll(forgotten); err == nil {
		t.Error("a connection of the lost link ended in order")
	}
	visitor := visit(t, l)
	c, err := l.Accept()
	check(t, err)
	_, err = c.Write([]byte("back"))
	check(t, err)
	check(t, c.Close())
	if got, err := io.ReadAll(visitor); string(got) != "back" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestVisitors: on an HTTP endpoint each request has its visitor, whatever he says.
func TestVisitors(t *testing.T) {
	l := listen(t, culvert.Config{}, culvert.Endpoint{Name: "visitors"})
	srv := &http.Server{Handler: culvert.Visitors(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.RemoteAddr)
	}))}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, l.URL(), nil)
	check(t, err)
	req.Header.Set("X-Real-IP", "6.6.6.6")
	res, err := here.client().Do(req)
	check(t, err)
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); string(b) != "127.0.0.1:0" {
		t.Errorf("%q, %v", b, err)
	}
	// As every server on a listener ends.
	check(t, srv.Shutdown(within(t)))
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

func TestErrors(t *testing.T) {
	first := listen(t, culvert.Config{}, culvert.Endpoint{Name: "taken"})
	wrong := here.token[:4] + strings.Repeat("a", 10) + here.token[14:] // another id, the same CA
	for name, tc := range map[string]struct {
		cfg culvert.Config
		e   culvert.Endpoint
		is  error
		say string
	}{
		"taken":        {e: culvert.Endpoint{Name: "taken"}, is: culvert.ErrNameTaken},
		"taken as tls": {e: culvert.Endpoint{Name: "taken", Kind: culvert.TLS}, is: culvert.ErrNameTaken},
		"outside":      {e: culvert.Endpoint{URL: "tcp://:1"}, is: culvert.ErrPortOutsideRange},
		"token":        {cfg: culvert.Config{Token: wrong}, is: culvert.ErrTokenInvalid},
		"untrusted":    {cfg: culvert.Config{Token: here.token[:strings.LastIndex(here.token, "_")], Roots: x509.NewCertPool()}, is: culvert.ErrUntrusted},
		"no token":     {cfg: culvert.Config{Token: "x"}, say: "not a Culvert token"},
		"bad server":   {cfg: culvert.Config{Server: "a b"}, say: "write host or host:port"},
		"bad url":      {e: culvert.Endpoint{URL: "gopher://x"}, say: "bad endpoint URL"},
		"two names":    {e: culvert.Endpoint{URL: "https://x.localhost", Name: "x"}, say: "exclude each other"},
		"two kinds":    {e: culvert.Endpoint{URL: "https://x.localhost", Kind: culvert.TCP}, say: "not of a tcp one"},
		"bad name":     {e: culvert.Endpoint{Name: "a.b"}, say: "is not a name"},
		"udp":          {e: culvert.Endpoint{Kind: culvert.UDP}, say: "use Forward"},
		"unknown kind": {e: culvert.Endpoint{Kind: "smtp"}, say: "unknown kind"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := culvert.Listen(within(t), tc.cfg, tc.e)
			if err == nil {
				_ = l.Close()
				t.Fatal("listens")
			}
			if tc.is != nil && !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.say) || !strings.HasPrefix(err.Error(), "culvert: ") {
				t.Errorf("%v", err)
			}
		})
	}
	if _, err := first.Agent().Forward(within(t), culvert.Endpoint{}, "ftp://x"); err == nil || !strings.Contains(err.Error(), "bad upstream") {
		t.Error(err)
	}
	if _, err := first.Agent().Forward(within(t), culvert.Endpoint{Kind: culvert.TCP}, "h2c://localhost:1"); err != nil && !strings.HasPrefix(err.Error(), "culvert: ") {
		t.Error(err)
	}
}

// TestWaitsForTheServer: as long as the context lets it, and the error says what the
// matter was.
func TestWaitsForTheServer(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	check(t, l.Close())
	_, err = culvert.Connect(ctx, culvert.Config{Server: l.Addr().String()})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "connection refused") {
		t.Error(err)
	}
}

// TestSuperseded: a second run of the same agent takes the name over; the first one's
// listener says so.
func TestSuperseded(t *testing.T) {
	cfg := culvert.Config{State: t.TempDir()}
	first := listen(t, cfg, culvert.Endpoint{})
	second := listen(t, cfg, culvert.Endpoint{})
	if first.URL() != second.URL() {
		t.Errorf("%s, then %s", first.URL(), second.URL())
	}
	if c, err := first.Accept(); !errors.Is(err, culvert.ErrSuperseded) {
		t.Error(c, err)
	}
	<-first.Agent().Done()
	if err := first.Agent().Err(); !errors.Is(err, culvert.ErrSuperseded) {
		t.Error(err)
	}
	if _, err := first.Agent().Listen(within(t), culvert.Endpoint{}); !errors.Is(err, culvert.ErrSuperseded) {
		t.Errorf("listen at an agent that has ended: %v", err)
	}
}

// TestEnds: Shutdown lets connections finish, Close does not.
func TestEnds(t *testing.T) {
	for _, shutdown := range []bool{true, false} {
		a, err := culvert.Connect(within(t), culvert.Config{})
		check(t, err)
		l, err := a.Listen(within(t), culvert.Endpoint{Kind: culvert.TCP})
		check(t, err)
		visitor := visit(t, l)
		c, err := l.Accept()
		check(t, err)
		ended := make(chan error, 1)
		if shutdown {
			go func() { ended <- a.Shutdown(within(t)) }()
			_, err = c.Write([]byte("the end"))
			check(t, err)
			check(t, c.Close())
			if got, err := io.ReadAll(visitor); string(got) != "the end" {
				t.Errorf("%q, %v", got, err)
			}
			check(t, visitor.Close())
			check(t, <-ended)
		} else {
			check(t, a.Close())
			if _, err := io.ReadAll(visitor); err == nil {
				t.Error("ended in order")
			}
		}
		select {
		case <-a.Done():
		default:
			t.Error("not done")
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		check(t, a.Close())
	}
}
