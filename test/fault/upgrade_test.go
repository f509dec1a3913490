package fault

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// upgrade starts a server that takes over from this one, and waits until it serves.
func (s *server) upgrade() {
	s.t.Helper()
	args := s.args
	s.args = append(append([]string(nil), args...), "--upgrade")
	s.restart()
	s.args = args
}

// load makes requests, rate a second in all, until ctx ends.
type load struct {
	tasks    sync.WaitGroup
	requests atomic.Int64
	mu       sync.Mutex
	faults   []error
}

func (l *load) run(ctx context.Context, workers, rate int, once func() error) {
	every := time.Duration(workers) * time.Second / time.Duration(rate)
	for i := range workers {
		l.tasks.Go(func() {
			<-time.After(every * time.Duration(i) / time.Duration(workers))
			tick := time.NewTicker(every)
			defer tick.Stop()
			for ctx.Err() == nil {
				if err := once(); err != nil {
					l.fail(err)
				}
				l.requests.Add(1)
				<-tick.C
			}
		})
	}
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = append(l.faults, fmt.Errorf("%s: %w", time.Now().Format("15:04:05.000"), err))
}

// fetch makes one request and compares the answer. A body that has been read can't be
// sent again by itself: no fault is hidden by the client.
func fetch(client *http.Client, method, url, host string, body []byte, want string) error {
	var r io.Reader
	if body != nil {
		r = io.MultiReader(bytes.NewReader(body))
	}
	req, err := http.NewRequest(method, url, r)
	if err != nil {
		return err
	}
	req.Host, req.ContentLength = host, int64(len(body))
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if res.StatusCode != http.StatusOK || string(b) != want {
		return errors.Join(err, fmt.Errorf("%s: %s %s", method, res.Status, res.Header.Get("Culvert-Error")))
	}
	return err
}

// TestUpgrades: under 500 requests a second, some of them uploads, over kept connections
// and new ones, plain and TLS, and with WebSockets and tcp connections that go on all the
// time, one server takes over from the other again and again, and nothing fails.
func TestUpgrades(t *testing.T) {
	s := startServer(t, nil, "127.0.0.1", "--drain", "3s")
	site := newWebsite(t.Context(), t)
	up := serveTCP(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	web, webURL := s.agent(t.TempDir(), s.https, "http", site.port(), "--no-redirect")
	_, rawURL := s.agent(t.TempDir(), s.https, "tcp", up)
	name := host(webURL)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	plain := &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 50}}
	secure := &http.Client{Timeout: patience, Transport: &http.Transport{
		MaxIdleConnsPerHost: 50, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: name}, // its CA is its own
	}}
	anew := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	defer plain.CloseIdleConnections()
	defer secure.CloseIdleConnections()
	upload := bytes.Repeat([]byte("0123456789abcdef"), 4<<10)
	at, secureAt, rawAt := s.http, s.https, s.visitorAddress(rawURL) // for good: sockets are handed on
	var l load
	l.run(ctx, 10, 250, func() error { return fetch(plain, "GET", "http://"+at+"/hello", name, nil, "hello") })
	l.run(ctx, 10, 100, func() error { return fetch(secure, "GET", "https://"+secureAt+"/hello", name, nil, "hello") })
	l.run(ctx, 5, 50, func() error { return fetch(anew, "GET", "http://"+at+"/hello", name, nil, "hello") })
	l.run(ctx, 5, 100, func() error {
		return fetch(plain, "POST", "http://"+at+"/upload", name, upload, fmt.Sprint(len(upload)))
	})
	// Visits that are shorter than the drain.
	var echoes atomic.Int64
	l.run(ctx, 4, 4, func() error {
		short, done := context.WithTimeout(ctx, time.Second)
		defer done()
		return visitEcho(short, at, name, &echoes)
	})
	l.run(ctx, 4, 20, func() error { return pingTCP(rawAt) })

	for i := range *upgrades {
		old, before := s.process, web.count("endpoint online")
		s.upgrade()
		if got := online(web, before); got != webURL {
			t.Fatalf("the endpoint is at %s after upgrade %d", got, i)
		}
		select {
		case <-old.done:
		case <-time.After(patience):
			t.Fatal("the old server does not end")
		}
		if code := old.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("the old server exited with %d", code)
		}
		if out := old.output() + s.output(); strings.Contains(out, "failed to apply request") {
			t.Errorf("the store was asked for something wrong: %s", out)
		}
	}
	stop()
	l.tasks.Wait()
	for _, err := range l.faults[:min(len(l.faults), 10)] {
		t.Error(err)
	}
	t.Logf("%d upgrades, %d requests, %d echoes, %d faults", *upgrades, l.requests.Load(), echoes.Load(), len(l.faults))
	if n := web.count("connection to the server lost"); n != 0 {
		t.Errorf("the agent lost its session %d times instead of moving", n)
	}
	// What the newest server made is there for the next.
	if out, err := exec.Command(culvert, "token", "list", "--data", s.home).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	s.signal(syscall.SIGTERM)
	<-s.done
}

// TestUpgradeFails: a successor that dies before it serves leaves the old server as it was.
func TestUpgradeFails(t *testing.T) {
	s := startServer(t, nil, "127.0.0.1")
	site := newWebsite(t.Context(), t)
	web, url := s.agent(t.TempDir(), s.https, "http", site.port(), "--no-redirect")
	// It has the sockets and can't open another one.
	busy := serveTCP(t, func(*net.TCPConn) {})
	out, err := exec.Command(culvert, append(s.args, "--upgrade", "--http", s.http, "--https", s.https, "--link", busy)...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "address already in use") {
		t.Fatalf("%v: %s", err, out)
	}
	check(t, get(t.Context(), s.http, host(url)))
	s.wait(0, "upgrade failed: this server goes on")
	deadline := time.Now().Add(patience)
	for {
		out, err = exec.Command(culvert, "token", "create", "--data", s.home).CombinedOutput()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the store does not come back: %v: %s", err, out)
		}
		<-time.After(50 * time.Millisecond)
	}
	s.agent(t.TempDir(), s.https, "http", site.port(), "--name", "another")
	if web.count("endpoint online") != 1 || web.count("connected") != 1 {
		t.Error("the agent was disturbed")
	}
	// And the next one takes over.
	old := s.process
	s.upgrade()
	<-old.done
	check(t, get(t.Context(), s.http, host(url)))
	if m, _ := filepath.Glob(filepath.Join(s.home, "*.sock")); len(m) != 2 {
		t.Errorf("sockets in the data directory: %v", m)
	}
}

// pingTCP has an echo return four bytes.
func pingTCP(address string) error {
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("ping")); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	return nil
}

// TestMoves: the agent of a server that stops serves at the next one before the first has
// ended, and a download that was begun there goes on to its end.
func TestMoves(t *testing.T) {
	a, b := startTwo(t, "--drain", "20s")
	content, finish := context.WithCancel(t.Context())
	defer finish()
	site := newWebsite(content, t)
	agent, url := a.agent(t.TempDir(), a.https+","+b.https, "http", site.port(), "--no-redirect")
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, a.http)
	}}}
	defer client.CloseIdleConnections()
	begun := make(chan error, 1)
	go func() { begun <- visitDownload(client, "http://"+host(url), 1) }()
	site.visited()
	a.signal(syscall.SIGTERM)
	_, at := agent.wait(0, "endpoint online")
	if l, _ := agent.wait(at, "endpoint online"); host(l["url"].(string)) != host(url) {
		t.Errorf("at the other server it is %v instead of %s", l["url"], url)
	}
	select {
	case <-a.done:
		t.Error("the first server ended before its visitor had left")
	case err := <-begun:
		t.Errorf("the download ended: %v", err)
	default:
	}
	check(t, get(t.Context(), b.http, host(url)))
	finish()
	check(t, <-begun)
	<-a.done
	if n := agent.count("connection to the server lost"); n != 0 {
		t.Error("the agent lost its session instead of moving")
	}
}

// TestPassedSockets: a server that is given its socket, as systemd does, serves who
// connected before there was a server.
func TestPassedSockets(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	file, err := l.(*net.TCPListener).File()
	check(t, err)
	address := l.Addr().String()
	check(t, l.Close()) // file goes on to listen
	early, err := net.Dial("tcp", address)
	check(t, err)
	defer early.Close()
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", culvert, "server", "--data", t.TempDir(),
		"--admin", "off", "--tcp-ports", "off", "--udp-ports", "off", "--http", address, "--https", "127.0.0.1:0")
	cmd.Env, cmd.ExtraFiles = []string{"LISTEN_FDS=1"}, []*os.File{file}
	check(t, cmd.Start())
	check(t, file.Close())
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}()
	check(t, early.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(early, "GET / HTTP/1.1\r\nHost: nobody.localhost\r\nConnection: close\r\n\r\n")
	check(t, err)
	answer, err := io.ReadAll(early)
	if !bytes.Contains(answer, []byte("Culvert-Error: endpoint_not_found")) {
		t.Errorf("%v: %q", err, answer)
	}
}
