package fault

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
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
)

// way stands in front of a node, with its TCP and its UDP side. It drops each so-many-th
// datagram, or all.
type way struct {
	tcp   *filter
	udp   *net.UDPConn
	to    *net.UDPAddr
	every atomic.Int64 // datagrams, of which one is dropped; 0: none is
	tasks sync.WaitGroup

	mu    sync.Mutex
	ports map[string]*net.UDPConn // by the sender
}

func newWay(t *testing.T, to string) *way {
	t.Helper()
	w := &way{tcp: newFilter(t, to), ports: make(map[string]*net.UDPConn)}
	var err error
	w.to, err = net.ResolveUDPAddr("udp", to)
	check(t, err)
	from, err := net.ResolveUDPAddr("udp", w.tcp.Addr().String())
	check(t, err)
	w.udp, err = net.ListenUDP("udp", from)
	check(t, err)
	w.tasks.Go(func() {
		buf := make([]byte, 1<<16)
		for seen := int64(0); ; {
			n, from, err := w.udp.ReadFromUDP(buf)
			if err != nil {
				return
			}
			if !w.drops(&seen) {
				_, _ = w.port(from).Write(buf[:n])
			}
		}
	})
	return w
}

func (w *way) drops(seen *int64) bool {
	*seen++
	every := w.every.Load()
	return every > 0 && *seen%every == 0
}

func (w *way) port(from *net.UDPAddr) *net.UDPConn {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.ports[from.String()]
	if p != nil {
		return p
	}
	p, _ = net.DialUDP("udp", nil, w.to) // on loopback
	w.ports[from.String()] = p
	w.tasks.Go(func() {
		buf := make([]byte, 1<<16)
		for seen := int64(0); ; {
			n, err := p.Read(buf)
			if err != nil {
				return
			}
			if !w.drops(&seen) {
				_, _ = w.udp.WriteToUDP(buf[:n], from)
			}
		}
	})
	return p
}

func (w *way) close() {
	_, _ = w.udp.Close(), w.tcp.Close()
	w.mu.Lock()
	for _, p := range w.ports {
		_ = p.Close()
	}
	w.mu.Unlock()
	w.tasks.Wait()
	w.tcp.tasks.Wait()
}

// overWay runs a node and an agent with a way between them, to the end of the test.
func overWay(t *testing.T, by link.Transport, noTLS bool, port int, endpoints ...agent.Endpoint) (*way, lines, func()) {
	t.Helper()
	ready := make(chan node.Ready, 1)
	ports := registry.PortRange{First: uint16(port), Last: uint16(port + 9)}
	s, err := node.New(node.Config{
		Domain: "localhost", HTTPS: "127.0.0.1:0", TCPHost: "127.0.0.1", TCPPorts: ports, UDPPorts: ports, Heartbeat: 300 * time.Millisecond,
		DataDir: t.TempDir(), Drain: time.Second, Logger: slog.New(slog.DiscardHandler), Ready: func(r node.Ready) { ready <- r },
	})
	check(t, err)
	var tasks sync.WaitGroup
	serving, stop := context.WithCancel(t.Context())
	tasks.Go(func() {
		if err := s.Run(serving); err != nil {
			t.Error(err)
		}
	})
	r := <-ready
	w := newWay(t, r.HTTPS.String())
	w.tcp.drops.Store(noTLS)
	log := make(lines, 100_000)
	online := make(chan []string, 10)
	a := agent.New(agent.Config{
		Servers: []string{w.tcp.Addr().String()}, Token: *r.Token, ID: "agent", Generation: 1, State: t.TempDir(), Transport: by, Drain: time.Second,
		Logger: slog.New(slog.NewTextHandler(log, nil)), Online: func(_ string, urls []string) { online <- urls }, Endpoints: endpoints,
	})
	linked, end := context.WithCancel(t.Context())
	tasks.Go(func() { _ = a.Run(linked) })
	for range endpoints {
		<-online
	}
	return w, log, func() {
		end()
		stop()
		tasks.Wait()
		if stats := s.Stats(); stats != (node.Stats{}) {
			t.Errorf("left: %+v", stats)
		}
		w.close()
	}
}

// TestDatagramsAreLost: over a link by QUIC that loses packets, datagrams of a udp endpoint
// are lost, and those that are not don't wait for them; large ones, which fit in no packet,
// all arrive.
func TestDatagramsAreLost(t *testing.T) {
	defer goleak.VerifyNone(t)
	up, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	check(t, err)
	echoing := make(chan struct{})
	go func() {
		defer close(echoing)
		buf := make([]byte, 1<<16)
		for {
			n, from, err := up.ReadFromUDP(buf)
			if err != nil {
				return
			}
			_, _ = up.WriteToUDP(buf[:n], from)
		}
	}()
	to, err := agent.ParseUpstream(up.LocalAddr().String(), agent.UpstreamTLS{})
	check(t, err)
	w, _, stop := overWay(t, link.QUIC, false, 18300, agent.Endpoint{Spec: endpoint.Spec{Kind: endpoint.UDP, Name: "echo", Port: 18300}, Upstream: to.ForDatagrams()})
	visitor, err := net.Dial("udp", "127.0.0.1:18300")
	check(t, err)
	answered := func(size int, ask uint64, wait time.Duration) bool {
		p := make([]byte, size)
		binary.BigEndian.PutUint64(p, ask)
		_, err := visitor.Write(p)
		check(t, err)
		check(t, visitor.SetReadDeadline(time.Now().Add(wait)))
		for {
			n, err := visitor.Read(p)
			if err != nil {
				return false
			}
			if n == size && binary.BigEndian.Uint64(p) == ask {
				return true
			}
		}
	}
	for n := uint64(0); !answered(100, n, time.Second); n++ { // the flow is known then on both sides
		if n > 20 {
			t.Fatal("no answer")
		}
	}
	w.every.Store(5)
	for n := uint64(100); answered(100, n, time.Second); n++ {
		if n > 200 {
			t.Fatal("nothing was lost: they don't go as datagrams")
		}
	}
	for n := uint64(300); !answered(100, n, time.Second); n++ {
		if n > 400 {
			t.Fatal("all were lost")
		}
	}
	if !answered(9_000, 500, patience) {
		t.Error("a large one was lost")
	}
	_ = visitor.Close()
	stop()
	_ = up.Close()
	<-echoing
}

// TestUDPBlocked: an agent by auto whose TLS gets no answer comes by QUIC, and goes on by TLS
// when that gets through and UDP does not any more.
func TestUDPBlocked(t *testing.T) {
	defer goleak.VerifyNone(t)
	up := agent.NewListener(nil)
	serving := make(chan struct{})
	go func() {
		defer close(serving)
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
	w, log, stop := overWay(t, link.Auto, true, 18310, agent.Endpoint{Spec: endpoint.Spec{Kind: endpoint.TCP, Name: "echo", Port: 18310}, Listener: up})
	if line := log.await(t, "connected"); !strings.Contains(line, "transport=quic") {
		t.Error(line)
	}
	echo := func() error {
		c, err := net.Dial("tcp", "127.0.0.1:18310")
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := c.Write([]byte("ping")); err != nil {
			return err
		}
		if _, err = io.ReadFull(c, make([]byte, 4)); err != nil {
			return fmt.Errorf("by %s: %w", w.tcp.Addr(), err)
		}
		return nil
	}
	check(t, echo())
	w.tcp.drops.Store(false)
	w.every.Store(1)
	log.await(t, "UDP does not pass any more: the link by QUIC is given up")
	if line := log.await(t, "connected"); !strings.Contains(line, "transport=tls") {
		t.Error(line)
	}
	log.await(t, "endpoint online")
	check(t, echo())
	stop()
	_ = up.Close()
	<-serving
}
