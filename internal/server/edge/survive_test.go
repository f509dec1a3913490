package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
)

// TestVisitorLeaves: the upstream learns of it while it computes, whatever the version.
func TestVisitorLeaves(t *testing.T) {
	r := run(t, Config{})
	asked := make(chan struct{}, 1)
	up := newRaw(t, func(u *rawUpstream, _ net.Conn, r *bufio.Reader) {
		_, _ = http.ReadRequest(r)
		asked <- struct{}{}
		_, err := r.ReadByte()
		u.ends <- err
	})
	r.bind(t, "a.localhost", up.address)
	for _, reset := range []bool{false, true} {
		c := dial(t, r.plain)
		_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n")
		check(t, err)
		<-asked
		if reset {
			check(t, c.SetLinger(0))
		}
		check(t, c.Close())
		select {
		case err := <-up.ends:
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("reset %v: the upstream saw %v", reset, err)
			}
		case <-time.After(patience):
			t.Fatal("the upstream did not see it")
		}
	}
	eventually(t, "nobody to be served", func() bool { return r.edge.Visits() == 0 && r.edge.Streams() == 0 })
}

// TestSlowBodies: who stops sending his body, or taking his answer, is let go.
func TestSlowBodies(t *testing.T) {
	r := run(t, Config{BodyTimeout: 300 * time.Millisecond, WriteTimeout: 300 * time.Millisecond})
	up := newRaw(t, func(u *rawUpstream, c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if req.URL.Path == "/endless" {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
			for {
				if _, err := c.Write(make([]byte, 64<<10)); err != nil {
					u.ends <- err
					return
				}
			}
		}
		_, err = io.Copy(io.Discard, req.Body)
		u.ends <- err
	})
	r.bind(t, "a.localhost", up.address)
	head, _ := ask(t, r.plain, "POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 10\r\n\r\nhalf")
	if !strings.HasPrefix(head, "HTTP/1.1 408 ") || !strings.Contains(head, "request_timeout") {
		t.Errorf("a body that stops: %s", head)
	}
	if err := <-up.ends; err == nil {
		t.Error("the upstream saw an end")
	}
	_, c := ask(t, r.plain, "GET /endless HTTP/1.1\r\nHost: a.localhost\r\n\r\n")
	if err := <-up.ends; err == nil { // nobody reads
		t.Error("the upstream was not told")
	}
	if _, err := io.Copy(io.Discard, c); err == nil {
		t.Error("what was cut off looked whole")
	}
}

// TestSentAgain: what a kept stream did not answer is sent again when that is safe, and
// only then.
func TestSentAgain(t *testing.T) {
	r := run(t, Config{})
	var seen atomic.Int64
	up := newRaw(t, func(_ *rawUpstream, c net.Conn, r *bufio.Reader) {
		for i := 0; ; i++ {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			seen.Add(1)
			if i > 0 {
				return // as if the keep-alive time-out had come with the request
			}
			_, _ = io.WriteString(c, ok)
		}
	})
	r.bind(t, "a.localhost", up.address)
	c := dial(t, r.plain)
	in := bufio.NewReader(c)
	request := func(method, body string) int {
		t.Helper()
		fmt.Fprintf(c, "%s / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: %d\r\n\r\n%s", method, len(body), body)
		res, err := http.ReadResponse(in, nil)
		check(t, err)
		_, err = io.Copy(io.Discard, res.Body)
		check(t, err)
		return res.StatusCode
	}
	for i, method := range []string{"GET", "GET", "PUT", "DELETE", "OPTIONS"} {
		if status := request(method, "body"); status != 200 {
			t.Errorf("%s: %d", method, status)
		}
		if got, want := seen.Load(), int64(2*i+1); got != want {
			t.Errorf("%s: sent %d times in all, want %d", method, got, want)
		}
	}
	before := seen.Load()
	if status := request("POST", "x"); status != 200 || seen.Load() != before+1 {
		t.Errorf("POST: %d, sent %d times", status, seen.Load()-before)
	}
	if status := request("POST", "x"); status != 502 || seen.Load() != before+2 {
		t.Errorf("POST on a stream that ends: %d, sent %d times", status, seen.Load()-before)
	}
}

// dyingStream is a stream whose link ends when dead is closed.
type dyingStream struct {
	net.Conn
	dead <-chan struct{}
}

func (s dyingStream) Read([]byte) (int, error) {
	<-s.dead
	return 0, registry.ErrSessionGone
}

// TestSessionGone: an agent that goes while requests are under way. What may be sent again
// is, to its next session; other requests are told.
func TestSessionGone(t *testing.T) {
	r := run(t, Config{})
	up := newRaw(t, answering(ok))
	sent, dead := make(chan struct{}, 10), make(chan struct{})
	spec := endpoint.Spec{Kind: endpoint.HTTP, Host: "a.localhost"}
	route, err := r.registry.Bind(t.Context(), registry.Request{
		Spec: spec, Owner: registry.Owner{AgentID: "a", Generation: 1, SessionID: "1"},
		Open: func(context.Context, string, endpoint.Visitor, []byte) (net.Conn, error) {
			sent <- struct{}{}
			here, there := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, there) }()
			return dyingStream{here, dead}, nil
		},
	})
	check(t, err)
	others := h2Client()
	defer others.CloseIdleConnections()
	got := make(chan string, 4)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		go func() {
			head, _ := ask(t, r.plain, method+" / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 1\r\n\r\nx")
			got <- "1.1 " + method + " " + strings.Fields(head + " - -")[1]
		}()
		go func() {
			req, _ := http.NewRequestWithContext(t.Context(), method, "https://"+r.secure, nil)
			req.Host = "a.localhost"
			res, err := others.Do(req)
			if err != nil {
				got <- err.Error()
				return
			}
			_ = res.Body.Close()
			got <- "2 " + method + " " + res.Status[:3]
		}()
	}
	for range 4 {
		<-sent
	}
	r.registry.Lose(route)
	close(dead)
	_, err = r.registry.Bind(t.Context(), registry.Request{
		Spec: spec, Owner: registry.Owner{AgentID: "a", Generation: 2, SessionID: "2"}, Open: dialling(up.address),
	})
	check(t, err)
	var all []string
	for range 4 {
		all = append(all, <-got)
	}
	slices.Sort(all)
	if s := strings.Join(all, ", "); s != "1.1 GET 200, 1.1 POST 503, 2 GET 200, 2 POST 503" {
		t.Error(s)
	}
}

// TestAcceptedAsItEnds: who was accepted before the edge drains is served, though he has said
// nothing yet. Who goes on saying nothing keeps nobody.
func TestAcceptedAsItEnds(t *testing.T) {
	r := run(t, Config{})
	r.bind(t, "a.localhost", newRaw(t, answering(ok)).address)
	var conns [2]net.Conn
	for i := range conns {
		c, err := net.Dial("tcp", r.secure)
		check(t, err)
		defer c.Close()
		conns[i] = c
	}
	eventually(t, "both accepted", func() bool { return r.edge.arrived.Count() == len(conns) })
	ended := make(chan error, 1)
	go func() { ended <- r.edge.Shutdown(context.WithoutCancel(t.Context())) }()
	select {
	case err := <-ended:
		t.Fatalf("the edge has ended: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	c := tls.Client(conns[0], &tls.Config{InsecureSkipVerify: true, ServerName: "a.localhost"}) //nolint:gosec // a certificate of its own
	_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n")
	check(t, err)
	head, err := http.ReadResponse(bufio.NewReader(c), nil)
	check(t, err)
	if head.StatusCode != http.StatusOK || !head.Close {
		t.Errorf("%s, and the connection goes on: %v", head.Status, !head.Close)
	}
	check(t, head.Body.Close())
	check(t, <-ended)
}

// TestSessionGoneWhileAsked: what an upstream speaks is asked of the agent's next session
// when the one that was asked ends, or has just ended.
func TestSessionGoneWhileAsked(t *testing.T) {
	r := run(t, Config{})
	up := newRaw(t, answering(ok))
	spec := endpoint.Spec{Kind: endpoint.HTTP, Host: "a.localhost", UpstreamProtocol: endpoint.ALPN}
	for what, open := range map[string]registry.OpenFunc{
		"has ended": func(context.Context, string, endpoint.Visitor, []byte) (net.Conn, error) {
			return nil, registry.ErrSessionGone
		},
		"ends": func(context.Context, string, endpoint.Visitor, []byte) (net.Conn, error) {
			c, _ := net.Pipe()
			return speaking{c, "", registry.ErrSessionGone}, nil
		},
	} {
		asked := make(chan struct{}, 10)
		route, err := r.registry.Bind(t.Context(), registry.Request{
			Spec: spec, Owner: registry.Owner{AgentID: "a", Generation: 1, SessionID: "1"},
			Open: func(ctx context.Context, id string, v endpoint.Visitor, first []byte) (net.Conn, error) {
				defer func() { asked <- struct{}{} }()
				return open(ctx, id, v, first)
			},
		})
		check(t, err)
		got := make(chan string, 2)
		go func() {
			head, _ := ask(t, r.plain, "GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n")
			got <- head
		}()
		go func() {
			c := h2Client()
			defer c.CloseIdleConnections()
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+r.secure, nil)
			req.Host = "a.localhost"
			res, err := c.Do(req)
			if err != nil {
				got <- err.Error()
				return
			}
			_ = res.Body.Close()
			got <- "HTTP/1.1 " + res.Status + "\r\n"
		}()
		<-asked
		<-asked
		r.registry.Lose(route)
		through := dialling(up.address)
		again, err := r.registry.Bind(t.Context(), registry.Request{
			Spec: spec, Owner: registry.Owner{AgentID: "a", Generation: 2, SessionID: "2"},
			Open: func(ctx context.Context, id string, v endpoint.Visitor, first []byte) (net.Conn, error) {
				c, err := through(ctx, id, v, first)
				return speaking{c, "http/1.1", nil}, err
			},
		})
		check(t, err)
		for range 2 {
			if head := <-got; !strings.HasPrefix(head, "HTTP/1.1 200 OK\r\n") {
				t.Errorf("a session that %s: %s", what, head)
			}
		}
		r.registry.Release(again)
	}
}

// speaking is a stream whose agent says what its upstream speaks.
type speaking struct {
	net.Conn
	protocol string
	err      error
}

func (s speaking) ALPN() (string, error) { return s.protocol, s.err }
