package link

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"go.uber.org/goleak"

	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// patience bounds what a test waits for.
const patience = 30 * time.Second

// ends are the two sides of a link. The node opens streams, the agent but a few.
type ends struct{ node, agent *Link }

// connector connects an agent with a node by one transport.
type connector func(t *testing.T, agent, node Config) ends

// carriers are all ways to carry a link that there are.
var carriers = map[string]connector{"tls": byTLS, "websocket": byWebSocket, "quic": byQUIC}

// eachCarrier runs a test by every transport, and looks that nothing is left of it.
func eachCarrier(t *testing.T, test func(t *testing.T, e ends)) {
	t.Helper()
	for name, connect := range carriers {
		t.Run(name, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			t.Cleanup(func() { goleak.VerifyNone(t, before) })
			e := connect(t, Config{}, Config{})
			e.run(t)
			test(t, e)
		})
	}
}

// run runs both sides to the end of the test.
func (e ends) run(t *testing.T) {
	var tasks sync.WaitGroup
	for _, l := range []*Link{e.node, e.agent} {
		tasks.Go(func() { _ = l.Run(context.WithoutCancel(t.Context())) })
	}
	t.Cleanup(func() {
		_, _ = e.node.Close(), e.agent.Close()
		tasks.Wait()
	})
}

// certified is a node's configuration, and a dialler that trusts it.
func certified(t *testing.T, by Transport) (*tls.Config, *Dialer) {
	t.Helper()
	a := newAuthority(t)
	leaf := a.leaf(NodeName, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	d := &Dialer{Fingerprint: tunnel.Fingerprint(a.cert), Transport: by}
	return ServerConfig(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &leaf, nil }), d
}

func byTLS(t *testing.T, agent, node Config) ends {
	t.Helper()
	cfg, d := certified(t, TLS)
	accepted, over := make(chan Conn, 1), make(chan struct{})
	address := serve(t, func(c net.Conn) {
		conn, err := Accept(context.WithoutCancel(t.Context()), c, nil, cfg, patience)
		if err != nil {
			t.Error(err)
		}
		accepted <- conn
		<-over
	})
	t.Cleanup(func() { close(over) })
	conn, err := d.Dial(t.Context(), address)
	check(t, err)
	return ends{node: Server(<-accepted, node), agent: Client(conn, agent)}
}

func byWebSocket(t *testing.T, agent, node Config) ends {
	t.Helper()
	cfg, d := certified(t, WebSocket)
	accepted, over := make(chan Conn, 1), make(chan struct{})
	front := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := AcceptWebSocket(w, r)
		if err == nil {
			var conn Conn
			conn, err = Accept(r.Context(), c, nil, cfg, patience)
			accepted <- conn
		}
		if err != nil {
			t.Error(err)
		}
		<-over
	}))
	t.Cleanup(front.Close)
	t.Cleanup(func() { close(over) })
	conn, err := d.Dial(t.Context(), front.Listener.Addr().String())
	check(t, err)
	return ends{node: Server(<-accepted, node), agent: Client(conn, agent)}
}

// quicPort listens as a node does on a port for agents alone.
func quicPort(t *testing.T, cfg *tls.Config) (*quic.Listener, string) {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	check(t, err)
	tr := &quic.Transport{Conn: Lossy(socket)}
	l, err := tr.Listen(cfg, QUICConfig(patience))
	check(t, err)
	t.Cleanup(func() { _, _, _ = l.Close(), tr.Close(), socket.Close() })
	return l, socket.LocalAddr().String()
}

func byQUIC(t *testing.T, agent, node Config) ends {
	t.Helper()
	e, _ := byLine(t, agent, node)
	return e
}

// byLine is byQUIC with the line between agent and node.
func byLine(t *testing.T, agent, node Config) (ends, *line) {
	t.Helper()
	cfg, d := certified(t, QUIC)
	l, address := quicPort(t, cfg)
	line := newLine(t, address)
	conn, err := d.Dial(t.Context(), line.address)
	check(t, err)
	_, err = conn.Write([]byte("hello")) // a stream is there with its first byte
	check(t, err)
	q, err := l.Accept(t.Context())
	check(t, err)
	accepted, err := AcceptQUIC(t.Context(), q, patience)
	check(t, err)
	_, err = io.ReadFull(accepted, make([]byte, 5))
	check(t, err)
	return ends{node: Server(accepted, node), agent: Client(conn, agent)}, line
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// stream opens a stream from the node to the agent. Its first byte has been read.
func (e ends) stream(t *testing.T) (node, agent Stream) {
	t.Helper()
	node, err := e.node.Open(t.Context())
	check(t, err)
	_, err = node.Write([]byte{'!'})
	check(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	agent, err = e.agent.Accept(ctx)
	check(t, err)
	_, err = io.ReadFull(agent, make([]byte, 1))
	check(t, err)
	return node, agent
}

// bare reports whether an error is the end of a stream, as io.Reader has it.
func bare(err error) bool { return err == io.EOF } //nolint:errorlint // that is the point

func filler(seed byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i*i>>3) + byte(i>>11)
	}
	return b
}

// TestBothWays: many streams at once bring every byte, in both directions.
func TestBothWays(t *testing.T) {
	eachCarrier(t, func(t *testing.T, e ends) {
		const size, count = 600_000, 30
		var tasks sync.WaitGroup
		for i := range count {
			node, agent := e.stream(t)
			for seed, way := range []struct{ from, to Stream }{{node, agent}, {agent, node}} {
				want := filler(byte(2*i+seed), size)
				tasks.Go(func() {
					_, err := way.from.Write(want)
					if err = errors.Join(err, way.from.CloseWrite()); err != nil {
						t.Error(err)
					}
				})
				tasks.Go(func() {
					got, err := io.ReadAll(way.to)
					if err != nil || sha256.Sum256(got) != sha256.Sum256(want) {
						t.Errorf("%d bytes of %d: %v", len(got), size, err)
					}
				})
			}
		}
		tasks.Wait()
	})
}

// TestHalfClose: the end of one direction leaves the other as it is.
func TestHalfClose(t *testing.T) {
	eachCarrier(t, func(t *testing.T, e ends) {
		node, agent := e.stream(t)
		_, err := node.Write([]byte("question"))
		check(t, errors.Join(err, node.CloseWrite()))
		got, err := io.ReadAll(agent)
		if check(t, err); string(got) != "question" {
			t.Fatalf("%q", got)
		}
		if _, err := node.Write([]byte("more")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("written behind the end: %v", err)
		}
		_, err = agent.Write([]byte("answer"))
		check(t, errors.Join(err, agent.CloseWrite()))
		got, err = io.ReadAll(node)
		if check(t, err); string(got) != "answer" {
			t.Fatalf("%q", got)
		}
		check(t, errors.Join(node.Close(), agent.Close()))
	})
}

// TestReset: a reset is no end, and comes behind what was written before it.
func TestReset(t *testing.T) {
	eachCarrier(t, func(t *testing.T, e ends) {
		for range 20 {
			node, agent := e.stream(t)
			want := filler(1, 100_000)
			_, err := node.Write(want)
			check(t, errors.Join(err, node.Reset()))
			got, err := io.ReadAll(agent)
			if !errors.Is(err, syscall.ECONNRESET) || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes of %d, %v", len(got), len(want), err)
			}
			if _, err := node.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("read after one's own reset: %v", err)
			}
			if _, err := node.Write(want); !errors.Is(err, net.ErrClosed) {
				t.Errorf("written after one's own reset: %v", err)
			}
			for err = nil; err == nil; { // the other side's writes end, soon
				_, err = agent.Write(want)
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("written to a reset stream: %v", err)
			}
			_ = agent.Reset()
		}
	})
}

// TestClosed: what was written before Close arrives with its end, and who sends on is told.
func TestClosed(t *testing.T) {
	eachCarrier(t, func(t *testing.T, e ends) {
		node, agent := e.stream(t)
		want := filler(2, 100_000)
		_, err := agent.Write(want)
		check(t, errors.Join(err, agent.Close(), agent.Close()))
		if _, err := agent.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read from a closed stream: %v", err)
		}
		got, err := io.ReadAll(node)
		if check(t, err); !bytes.Equal(got, want) {
			t.Fatalf("%d bytes of %d", len(got), len(want))
		}
		for err = nil; err == nil; {
			_, err = node.Write(want)
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("sent on to a closed stream: %v", err)
		}
		_ = node.Close()
	})
}

// TestEndAfterClose: it is no fault to end a direction that the other side has closed.
func TestEndAfterClose(t *testing.T) {
	eachCarrier(t, func(t *testing.T, e ends) {
		node, agent := e.stream(t)
		check(t, agent.Close())
		if _, err := node.Read(make([]byte, 1)); !bare(err) {
			t.Fatal(err)
		}
		check(t, errors.Join(node.CloseWrite(), node.Close()))
	})
}

// TestDeadlines: a deadline ends the wait and nothing else.
func TestDeadlines(t *testing.T) {
	eachCarrier(t, func(t *testing.T, e ends) {
		node, agent := e.stream(t)
		check(t, node.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
		if _, err := node.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read: %v", err)
		}
		check(t, node.SetReadDeadline(time.Time{}))
		_, err := agent.Write([]byte("late"))
		check(t, err)
		_, err = io.ReadFull(node, make([]byte, 4))
		check(t, err)

		check(t, node.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
		sent := 0
		for err == nil { // nobody reads
			var n int
			n, err = node.Write(make([]byte, 64<<10))
			sent += n
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("write: %v", err)
		}
		check(t, errors.Join(node.SetWriteDeadline(time.Time{}), node.CloseWrite()))
		if n, err := io.Copy(io.Discard, agent); err != nil || n != int64(sent) {
			t.Errorf("%d bytes of %d arrived: %v", n, sent, err)
		}
	})
}

// TestStalled: streams whose bytes nobody takes stop their own writers and nobody else.
func TestStalled(t *testing.T) {
	eachCarrier(t, func(t *testing.T, e ends) {
		var stalled sync.WaitGroup
		defer stalled.Wait()
		for range 40 {
			node, agent := e.stream(t)
			stalled.Go(func() {
				for _, err := agent.Write(make([]byte, 64<<10)); err == nil; {
					_, err = agent.Write(make([]byte, 64<<10))
				}
			})
			defer node.Reset()
		}
		node, agent := e.stream(t)
		for range 100 {
			_, err := agent.Write(make([]byte, 10_000))
			check(t, err)
			check(t, node.SetReadDeadline(time.Now().Add(patience)))
			_, err = io.ReadFull(node, make([]byte, 10_000))
			check(t, err)
		}
	})
}

// TestRelayed: sockets and streams are joined without a byte lost, by WriteTo and ReadFrom.
func TestRelayed(t *testing.T) {
	eachCarrier(t, func(t *testing.T, e ends) {
		node, agent := e.stream(t)
		visitor, in := sockets(t)
		out, upstream := sockets(t)
		want := filler(4, 3<<20)
		var tasks sync.WaitGroup
		tasks.Go(func() {
			for rest, i := want, 1; len(rest) > 0; i++ {
				k := min(len(rest), i*i*7%100_000)
				if _, err := visitor.Write(rest[:k]); err != nil {
					t.Error(err)
				}
				rest = rest[k:]
			}
			_ = visitor.Close()
		})
		tasks.Go(func() {
			if n, err := node.ReadFrom(in); n != int64(len(want)) || err != nil {
				t.Errorf("into the stream went %d bytes: %v", n, err)
			}
			_ = node.CloseWrite()
		})
		tasks.Go(func() {
			if n, err := agent.WriteTo(out); n != int64(len(want)) || err != nil {
				t.Errorf("out of the stream went %d bytes: %v", n, err)
			}
			_ = out.Close()
		})
		got, err := io.ReadAll(upstream)
		tasks.Wait()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes of %d: %v", len(got), len(want), err)
		}
	})
}

// TestPieces: of what is there only so much is taken.
func TestPieces(t *testing.T) {
	eachCarrier(t, func(t *testing.T, e ends) {
		node, agent := e.stream(t)
		visitor, in := sockets(t)
		out, upstream := sockets(t)
		const size = 300_000
		want := filler(6, 3*size)
		go func() {
			_, _ = visitor.Write(want)
			_ = visitor.Close()
		}()
		go func() {
			for range 2 {
				if n, err := node.ReadFromN(in, size); n != size || err != nil {
					t.Errorf("%d bytes went in: %v", n, err)
				}
			}
			if n, err := node.ReadFromN(in, 2*size); n != size || !bare(err) {
				t.Errorf("%d bytes went in at the end: %v", n, err)
			}
			_ = node.CloseWrite()
		}()
		go func() {
			for range 2 {
				if n, err := agent.WriteToN(out, size); n != size || err != nil {
					t.Errorf("%d bytes came out: %v", n, err)
				}
			}
			if n, err := agent.WriteToN(out, 2*size); n != size || !bare(err) {
				t.Errorf("%d bytes came out at the end: %v", n, err)
			}
			_ = out.Close()
		}()
		got, err := io.ReadAll(upstream)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes of %d: %v", len(got), len(want), err)
		}
	})
}

func sockets(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	check(t, err)
	b, err := l.Accept()
	check(t, err)
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

// TestQuiet: a stream is quiet until there is something to read.
func TestQuiet(t *testing.T) {
	eachCarrier(t, func(t *testing.T, e ends) {
		type quiet interface{ Quiet() bool }
		for what, do := range map[string]func(Stream) error{
			"bytes": func(st Stream) error { _, err := st.Write([]byte("x")); return err },
			"end":   Stream.CloseWrite, "reset": Stream.Reset,
		} {
			node, agent := e.stream(t)
			if !node.(quiet).Quiet() {
				t.Fatal("not quiet at first")
			}
			check(t, do(agent))
			for end := time.Now().Add(patience); node.(quiet).Quiet(); {
				if time.Now().After(end) {
					t.Fatalf("quiet after %s", what)
				}
			}
			if n, err := node.Read(make([]byte, 1)); what == "bytes" && (n != 1 || err != nil) {
				t.Errorf("the look took the byte: %d, %v", n, err)
			}
			_, _ = node.Reset(), agent.Reset()
		}
	})
}

// TestLinkEnds: the end of a link is no end of its streams, is told before theirs, and
// nothing begins after it.
func TestLinkEnds(t *testing.T) {
	for name, end := range map[string]func(e ends) *Link{
		"here":  func(e ends) *Link { _ = e.node.Close(); return e.node },
		"there": func(e ends) *Link { _ = e.agent.Close(); return e.node },
	} {
		t.Run(name, func(t *testing.T) {
			eachCarrier(t, func(t *testing.T, e ends) {
				node, _ := e.stream(t)
				failed := make(chan error, 1)
				go func() {
					_, err := node.Read(make([]byte, 1))
					select {
					case <-e.node.Done():
					default:
						err = errors.New("the stream failed first")
					}
					failed <- err
				}()
				l := end(e)
				if err := <-failed; err == nil || bare(err) || !errors.Is(err, net.ErrClosed) && !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("its streams: %v", err)
				}
				if l.Err() == nil {
					t.Error("no reason")
				}
				if _, err := l.Open(t.Context()); err == nil {
					t.Error("a stream was opened")
				}
				if _, err := l.Accept(t.Context()); err == nil {
					t.Error("a stream was accepted")
				}
			})
		})
	}
}

// TestShutdown: it waits for the streams that there are, and what they said arrives.
func TestShutdown(t *testing.T) {
	eachCarrier(t, func(t *testing.T, e ends) {
		node, agent := e.stream(t)
		ended := make(chan error, 1)
		go func() { ended <- e.node.Shutdown(t.Context()) }()
		for err := error(nil); err == nil; { // until it has begun
			var st Stream
			if st, err = e.node.Open(t.Context()); err == nil {
				_ = st.Reset()
			}
		}
		want := filler(3, 300_000)
		got := make(chan []byte, 1)
		go func() {
			b, _ := io.ReadAll(agent)
			_ = agent.Close()
			got <- b
		}()
		_, err := node.Write(want)
		check(t, errors.Join(err, node.CloseWrite()))
		if _, err := node.Read(make([]byte, 1)); !bare(err) {
			t.Fatal(err)
		}
		check(t, node.Close())
		check(t, <-ended)
		if !bytes.Equal(<-got, want) {
			t.Error("not all has arrived")
		}
		select {
		case <-e.agent.Done():
		case <-time.After(patience):
			t.Error("the other side was not told")
		}
	})
}

// TestShutdownCutShort: who stays too long is cut off.
func TestShutdownCutShort(t *testing.T) {
	eachCarrier(t, func(t *testing.T, e ends) {
		e.stream(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := e.node.Shutdown(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		<-e.agent.Done()
	})
}

// TestRunEnds: the end of its context ends a link on both sides.
func TestRunEnds(t *testing.T) {
	for name, connect := range carriers {
		t.Run(name, func(t *testing.T) {
			e := connect(t, Config{}, Config{})
			ctx, cancel := context.WithCancel(t.Context())
			var tasks sync.WaitGroup
			tasks.Go(func() { _ = e.agent.Run(context.WithoutCancel(ctx)) })
			tasks.Go(func() {
				if err := e.node.Run(ctx); !errors.Is(err, context.Canceled) {
					t.Errorf("ended by %v", err)
				}
			})
			node, _ := e.stream(t)
			if rtt := e.node.RTT(); rtt < 0 || e.node.Queued() < 0 {
				t.Errorf("a round trip of %v, %d bytes queued", rtt, e.node.Queued())
			}
			cancel()
			tasks.Wait()
			if _, err := node.Read(make([]byte, 1)); err == nil || bare(err) {
				t.Error(err)
			}
		})
	}
}
