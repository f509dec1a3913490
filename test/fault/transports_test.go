package fault

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	node "github.com/culvert-tunnel/culvert/internal/server"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// filter stands in front of a node as a firewall that looks at the ClientHello.
type filter struct {
	net.Listener
	to    string
	tasks sync.WaitGroup

	drops atomic.Bool // links by TLS alone get no answer
	seen  chan bool   // of each connection: whether it was one
}

func newFilter(t *testing.T, to string) *filter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &filter{Listener: l, to: to, seen: make(chan bool, 1000)}
	f.tasks.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.tasks.Go(func() { f.pass(c) })
		}
	})
	return f
}

func (f *filter) pass(c net.Conn) {
	defer c.Close()
	first := make([]byte, 16<<10)
	n, err := c.Read(first)
	if err != nil {
		return
	}
	bare := bytes.Contains(first[:n], []byte(tunnel.ALPN))
	f.seen <- bare
	if bare && f.drops.Load() {
		_, _ = io.Copy(io.Discard, c)
		return
	}
	to, err := net.Dial("tcp", f.to)
	if err != nil {
		return
	}
	defer to.Close()
	if _, err := to.Write(first[:n]); err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(to, c)
		_ = to.Close()
	}()
	_, _ = io.Copy(c, to)
}

// lines are log lines as they come.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// await returns the next line with that message.
func (l lines) await(t *testing.T, message string) string {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case line := <-l:
			if strings.Contains(line, "msg=\""+message+"\"") || strings.Contains(line, "msg="+message+" ") {
				return line
			}
		case <-timeout:
			t.Fatalf("not in time: %s", message)
		}
	}
}

// TestTransports: an agent whose TLS gets no answer comes by WebSocket within moments,
// remembers that, and moves its link back once TLS gets through, under a visitor who
// notices nothing.
func TestTransports(t *testing.T) {
	defer goleak.VerifyNone(t)
	ready := make(chan node.Ready, 1)
	s, err := node.New(node.Config{
		Domain: "localhost", HTTPS: "127.0.0.1:0", TCPHost: "127.0.0.1", TCPPorts: registry.PortRange{First: 18200, Last: 18299},
		DataDir: t.TempDir(), Drain: time.Second, Logger: slog.New(slog.DiscardHandler), Ready: func(r node.Ready) { ready <- r },
	})
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Run(serving) }()
	var r node.Ready
	select {
	case r = <-ready:
	case err := <-served:
		t.Fatal(err)
	}
	front := newFilter(t, r.HTTPS.String())
	front.drops.Store(true)

	state := t.TempDir()
	log := make(lines, 10_000)
	online := make(chan []string, 10)
	up := agent.NewListener(nil)
	run := func(ctx context.Context, reprobe time.Duration) chan error {
		a := agent.New(agent.Config{
			Servers: []string{front.Addr().String()}, Token: *r.Token, ID: "agent", Generation: 1, State: state, Reprobe: reprobe, Drain: time.Second,
			Logger: slog.New(slog.NewTextHandler(log, nil)), Online: func(_ string, urls []string) { online <- urls },
			Endpoints: []agent.Endpoint{{Spec: endpoint.Spec{Kind: endpoint.TCP, Name: "echo", Port: 18200}, Listener: up}},
		})
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		return ended
	}
	echoing := make(chan struct{})
	go func() {
		defer close(echoing)
		for {
			c, err := up.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()

	// The first run finds out, which takes a while.
	first, end := context.WithCancel(t.Context())
	ended := run(first, time.Hour)
	if line := log.await(t, "connected"); !strings.Contains(line, "transport=websocket") {
		t.Error(line)
	}
	<-online
	end()
	<-ended
	var kept map[string]link.Transport
	b, err := os.ReadFile(filepath.Join(state, "transports"))
	if err != nil || json.Unmarshal(b, &kept) != nil || kept[front.Addr().String()] != link.WebSocket {
		t.Errorf("remembered: %s, %v", b, err)
	}
	for len(front.seen) > 0 {
		<-front.seen
	}

	// The second one knows.
	second, end := context.WithCancel(t.Context())
	ended = run(second, 50*time.Millisecond)
	log.await(t, "connected")
	if <-front.seen {
		t.Error("TLS was tried first once more")
	}
	<-online
	visitor, err := net.Dial("tcp", "127.0.0.1:18200")
	if err != nil {
		t.Fatal(err)
	}
	ping := func() {
		t.Helper()
		sent := bytes.Repeat([]byte("ping"), 100_000)
		go visitor.Write(sent)
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(visitor, got); err != nil || !slices.Equal(got, sent) {
			t.Fatal("the visitor noticed:", err)
		}
	}
	ping()
	front.drops.Store(false)
	log.await(t, "link moves to a better transport")
	if line := log.await(t, "link resumed"); !strings.Contains(line, "transport=tls") {
		t.Error(line)
	}
	ping()
	_ = visitor.Close()
	end()
	<-ended
	_ = up.Close()
	<-echoing
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if stats := s.Stats(); stats != (node.Stats{}) {
		t.Errorf("left: %+v", stats)
	}
	_ = front.Close()
	front.tasks.Wait()
}
