package fault

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestCuts: links are cut at random moments in all the ways there are, under transfers
// both ways, downloads and WebSockets. Every byte arrives, and no visitor notices more
// than a pause.
func TestCuts(t *testing.T) { cutUnderTraffic(t, *cuts, *total) }

// TestCutsWebSocket: so it is by WebSocket.
func TestCutsWebSocket(t *testing.T) {
	cutUnderTraffic(t, max(*cuts/4, 1), *total/4, "--transport", "websocket")
}

func cutUnderTraffic(t *testing.T, cuts int, total int64, extra ...string) {
	t.Helper()
	s := startServer(t, nil, "127.0.0.1")
	b := newBreaker(t, s.https)
	traffic := startTraffic(t, s, b.address(), total, extra...)
	for i := range cuts {
		<-time.After(time.Duration(rand.IntN(200)) * time.Millisecond)
		h := how(rand.IntN(3))
		if i%50 == 49 {
			h = silent
		}
		before := s.count("link resumed")
		if b.cut(h) == 0 {
			t.Fatal("no link to cut")
		}
		resumed(t, s, before)
	}
	traffic.stop()
	if n := s.count("agent connected"); n != 2 {
		t.Errorf("%d sessions instead of 2", n)
	}
	t.Logf("%d links resumed, %d echoes", s.count("link resumed"), traffic.echoes.Load())
}

// resumed waits until one more link of each agent has been resumed than before.
func resumed(t *testing.T, s *server, before int) {
	t.Helper()
	s.resumes(before + 2)
}

// resumes waits until so many links have been resumed since the server started.
func (s *server) resumes(total int) {
	s.t.Helper()
	for n, from := 0, 0; n < total; n++ {
		_, from = s.wait(from, "link resumed")
	}
}

// traffic is what goes on while things break.
type traffic struct {
	t      *testing.T
	agents []*process
	end    context.CancelFunc
	tasks  sync.WaitGroup
	echoes atomic.Int64
	web    string // URL
	idle   func() // closes connections that nobody uses
}

const (
	visitors = 50
	some     = 64 << 20 // bytes
)

// startTraffic runs two agents that dial that address, one for TCP and one for HTTP, and
// their visitors. Over TCP go at least n bytes each way.
func startTraffic(t *testing.T, s *server, address string, n int64, extra ...string) *traffic {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	tr := &traffic{t: t, end: cancel}
	t.Cleanup(func() {
		cancel()
		tr.tasks.Wait()
	})
	var sums sums
	arrived := make(chan error, 1) // all that the visitor sent, a while after he has sent it
	up := serveTCP(t, func(c *net.TCPConn) { arrived <- both(ctx, c, n, 1, 2, &sums) })
	a, url := s.agent(t.TempDir(), address, append([]string{"tcp", up}, extra...)...)
	site := newWebsite(ctx, t)
	w, web := s.agent(t.TempDir(), address, append([]string{"http", site.port(), "--no-redirect"}, extra...)...)
	tr.agents, tr.web = []*process{a, w}, web

	fail := func(what string, f func() error) {
		tr.tasks.Go(func() {
			if err := f(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	c, err := net.DialTimeout("tcp", s.visitorAddress(url), patience)
	check(t, err)
	fail("at the visitor", func() error {
		defer c.Close()
		return both(ctx, c.(*net.TCPConn), n, 2, 1, &sums)
	})
	fail("at the upstream", func() error { return <-arrived })
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", s.http)
	}}
	tr.idle = transport.CloseIdleConnections
	client := &http.Client{Transport: transport}
	for i := range visitors {
		fail("download", func() error { return visitDownload(client, "http://"+host(web), i) })
		fail("websocket", func() error { return visitEcho(ctx, s.http, host(web), &tr.echoes) })
	}
	return tr
}

// stop lets the traffic end, and waits for it.
func (tr *traffic) stop() {
	tr.t.Helper()
	tr.end()
	tr.tasks.Wait()
	tr.idle()
	if tr.echoes.Load() == 0 {
		tr.t.Error("no echo came back")
	}
}

// TestOutage: a link that is away for longer than its heartbeat, on both sides of a
// sleep, comes back with all that was on it; visitors who come meanwhile wait.
func TestOutage(t *testing.T) {
	t.Parallel()
	s := startServer(t, nil, "127.0.0.1")
	b := newBreaker(t, s.https)
	traffic := startTraffic(t, s, b.address(), some)
	before := s.count("link resumed")
	b.refuse(true)
	b.cut(reset)
	late := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.http+"/hello", nil)
		if err == nil {
			req.Host = host(traffic.web)
			var res *http.Response
			if res, err = http.DefaultTransport.RoundTrip(req); err == nil {
				_ = res.Body.Close()
				if res.StatusCode != http.StatusOK {
					err = errors.New(res.Status + " " + res.Header.Get("Culvert-Error"))
				}
			}
		}
		late <- err
	}()
	<-time.After(6 * time.Second)
	b.refuse(false)
	resumed(t, s, before)
	if err := <-late; err != nil {
		t.Errorf("who came meanwhile: %v", err)
	}
	traffic.stop()
}
