package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// newTestAgent makes an agent with one endpoint that dials through dial and logs
// into the returned buffer.
func newTestAgent(dial func(context.Context, string) (net.Conn, error)) (*Agent, *logs) {
	out := &logs{}
	a := New(Config{
		Servers: []string{"node:443"}, ID: "agent", Generation: 1, Token: tunnel.NewToken(""),
		Logger:    slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Endpoints: []Endpoint{{Spec: endpoint.Spec{Kind: endpoint.TCP, Name: "raw"}}},
	})
	a.servers.dial = dial
	return a, out
}

type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// node answers the Hello on c and returns the link and the agent's control stream,
// on which the Bind of the agent's endpoint has been read.
func node(t *testing.T, c net.Conn, reply *tunnel.HelloReply) (*link.Link, link.Stream) {
	t.Helper()
	return nodeFor(t, c, reply, "raw")
}

// nodeFor is node for an agent whose first endpoint has another name.
func nodeFor(t *testing.T, c net.Conn, reply *tunnel.HelloReply, name string) (*link.Link, link.Stream) {
	t.Helper()
	var hello tunnel.Hello
	if err := tunnel.Read(c, &hello, tunnel.MaxHandshake); err != nil || hello.GetVersion() != 1 || hello.GetAgentId() != "agent" {
		t.Errorf("hello %v: %v", &hello, err)
	}
	if err := tunnel.Write(c, reply, tunnel.MaxHandshake); err != nil {
		t.Error(err)
	}
	if reply.GetWelcome() == nil {
		_ = c.Close()
		return nil, nil
	}
	l := link.Server(c, link.Config{})
	go func() { _ = l.Run(context.WithoutCancel(t.Context())) }()
	ctl, err := l.Accept(t.Context())
	if err != nil {
		t.Error(err)
		return l, nil
	}
	if m := readControl(t, ctl, func(m *tunnel.Control) bool { return m.GetBind() != nil }); m.GetBind().GetSpec().GetName() != name {
		t.Errorf("bind %v", m)
	}
	return l, ctl
}

// readControl reads messages up to one that fits.
func readControl(t *testing.T, ctl net.Conn, fits func(*tunnel.Control) bool) *tunnel.Control {
	t.Helper()
	for {
		m := &tunnel.Control{}
		if err := tunnel.Read(ctl, m, tunnel.MaxControl); err != nil {
			t.Error(err)
			return m
		}
		if fits(m) {
			return m
		}
	}
}

func writeControl(t *testing.T, ctl net.Conn, m *tunnel.Control) {
	t.Helper()
	if err := tunnel.Write(ctl, m, tunnel.MaxControl); err != nil {
		t.Error(err)
	}
}

func welcome() *tunnel.HelloReply {
	return &tunnel.HelloReply{Reply: &tunnel.HelloReply_Welcome{Welcome: &tunnel.Welcome{SessionId: make([]byte, 16), Node: "n"}}}
}

func refusal(code tunnel.Code, retryable bool) *tunnel.HelloReply {
	return &tunnel.HelloReply{Reply: &tunnel.HelloReply_Refusal{Refusal: &tunnel.Refusal{Code: string(code), Message: "no", Retryable: retryable}}}
}

func refused() error { return &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED} }

// TestBackOff: dense at first, then a tenth of the time that has gone by up to 15 s, with
// jitter, for ever.
func TestBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		a, out := newTestAgent(func(context.Context, string) (net.Conn, error) {
			at = append(at, time.Now())
			return nil, refused()
		})
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		if err := a.Run(ctx); err != nil {
			t.Fatalf("gave up: %v", err)
		}
		varied := false
		for i := 1; i < len(at); i++ {
			got := at[i].Sub(at[i-1])
			want := min(max(at[i-1].Sub(at[0])/10, 50*time.Millisecond), maxWait)
			if got < want/2 || got > want {
				t.Fatalf("wait %d was %v, want %v to %v", i, got, want/2, want)
			}
			varied = varied || want == maxWait && got < maxWait-time.Second
		}
		if len(at) < int(24*time.Hour/maxWait) || !varied {
			t.Errorf("%d attempts in a day, spread: %v", len(at), varied)
		}
		if n := strings.Count(out.String(), "level=WARN"); n != 1 {
			t.Errorf("said %d times", n)
		}
	})
}

// TestBackOffStartsAgain: a session that worked is followed by an attempt at once, one
// that the node ended right away is not.
func TestBackOffStartsAgain(t *testing.T) {
	serve := func(t *testing.T, lasts time.Duration) net.Conn {
		agent, c := net.Pipe()
		go func() {
			l, _ := node(t, c, welcome())
			<-time.After(lasts)
			_ = l.Close()
		}()
		return agent
	}
	t.Run("worked", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var at []time.Time
			a, _ := newTestAgent(func(context.Context, string) (net.Conn, error) {
				at = append(at, time.Now())
				if len(at) == 20 {
					return serve(t, time.Minute), nil
				}
				return nil, refused()
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			if err := a.Run(ctx); err != nil {
				t.Error(err)
			}
			if wait := at[20].Sub(at[19].Add(time.Minute)); wait > time.Second {
				t.Errorf("dialled again after %v", wait)
			}
		})
	})
	t.Run("dropped", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			dials := 0
			a, _ := newTestAgent(func(context.Context, string) (net.Conn, error) {
				dials++
				return serve(t, 0), nil
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := a.Run(ctx); err != nil {
				t.Error(err)
			}
			if dials < 5 || dials > 20 {
				t.Errorf("%d attempts in a minute", dials)
			}
		})
	})
}

// TestFinalErrors: what ends an agent, and what doesn't.
func TestFinalErrors(t *testing.T) {
	untrusted := func() error { return link.ErrWrongNode }
	for name, tc := range map[string]struct {
		err   error              // of dialling, or
		reply *tunnel.HelloReply // the node's answer
		met   bool               // after a session
		final bool
	}{
		"refused token":            {reply: refusal(tunnel.CodeTokenInvalid, false), final: true},
		"token revoked meanwhile":  {reply: refusal(tunnel.CodeTokenInvalid, false), met: true, final: true},
		"draining":                 {reply: refusal(tunnel.CodeDraining, true)},
		"impostor at first":        {err: untrusted(), final: true},
		"captive portal meanwhile": {err: untrusted(), met: true},
		"expired certificate":      {err: link.ErrExpired},
		"something else there":     {err: link.ErrNotANode},
		"silence":                  {err: link.ErrNoAnswer},
		"empty answer":             {reply: &tunnel.HelloReply{}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dials := 0
				a, _ := newTestAgent(func(context.Context, string) (net.Conn, error) {
					dials++
					agent, c := net.Pipe()
					switch {
					case tc.met && dials == 1:
						go func() {
							l, _ := node(t, c, welcome())
							_ = l.Close()
						}()
					case tc.err != nil:
						return nil, tc.err
					default:
						go node(t, c, tc.reply)
					}
					return agent, nil
				})
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				err := a.Run(ctx)
				if final := err != nil; final != tc.final || !final && dials < 10 {
					t.Errorf("%v after %d attempts", err, dials)
				}
			})
		})
	}
}

// TestControlMessages: what a node may say, and what the agent says back.
func TestControlMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := make(chan net.Conn)
		a, out := newTestAgent(func(context.Context, string) (net.Conn, error) {
			agent, c := net.Pipe()
			conns <- c
			return agent, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()

		l, ctl := node(t, <-conns, welcome())
		writeControl(t, ctl, &tunnel.Control{Message: &tunnel.Control_Ping{Ping: &tunnel.Ping{Id: 7, SentUnixNs: 8}}})
		if m := readControl(t, ctl, func(m *tunnel.Control) bool { return m.GetPong() != nil }); m.GetPong().GetId() != 7 || m.GetPong().GetSentUnixNs() != 8 {
			t.Errorf("pong %v", m)
		}
		writeControl(t, ctl, &tunnel.Control{Message: &tunnel.Control_Drain{Drain: &tunnel.Drain{Reason: "upkeep"}}})
		writeControl(t, ctl, &tunnel.Control{Message: &tunnel.Control_Notice{Notice: &tunnel.Notice{Message: "mind\x1b[31mthe gap"}}})
		writeControl(t, ctl, &tunnel.Control{}) // of a later version: ignored
		writeControl(t, ctl, &tunnel.Control{Message: &tunnel.Control_Bound{Bound: &tunnel.Bound{Request: 99}}})
		writeControl(t, ctl, &tunnel.Control{Message: &tunnel.Control_Bound{Bound: &tunnel.Bound{EndpointId: "e", Url: "tcp://n:1", Port: 1}}})
		synctest.Wait()
		if st := a.Status(); st.Endpoints[0].State != "online" || st.Endpoints[0].URL != "tcp://n:1" || !st.Connected {
			t.Errorf("%+v", st)
		}
		if s := out.String(); !strings.Contains(s, "upkeep") || !strings.Contains(s, "mind [31mthe gap") || !strings.Contains(s, "session=00000000") {
			t.Errorf("logged %s", s)
		}
		// Nonsense ends the link, and the agent makes another.
		if _, err := ctl.Write([]byte{3, 0xff, 0xff, 0xff}); err != nil {
			t.Error(err)
		}
		l2, ctl := node(t, <-conns, welcome())
		<-l.Done()

		cancel()
		m := readControl(t, ctl, func(m *tunnel.Control) bool { return m.GetDrain() != nil })
		if m.GetDrain().GetDeadlineMs() != 10_000 {
			t.Errorf("drain %v", m)
		}
		_ = l2.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestBadIdentityIsKept(t *testing.T) {
	for _, text := range []string{"corrupt", "x 1\n", "1b4e28ba-2fa1-11d2-883f-0016d3cca427", "1b4e28ba-2fa1-11d2-883f-0016d3cca427 -1", "1b4e28ba-2fa1-11d2-883f-0016d3cca427 18446744073709551615", strings.Repeat("\x00", 40)} {
		dir := t.TempDir()
		path := filepath.Join(dir, "agent")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := NextIdentity(dir); !errors.Is(err, ErrBadIdentity) || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v", text, err)
		}
		if b, _ := os.ReadFile(path); string(b) != text {
			t.Errorf("%q became %q", text, b)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "agent"), nil, 0o600); err != nil { // killed while making it
		t.Fatal(err)
	}
	if id, err := NextIdentity(dir); err != nil || id.ID == "" {
		t.Errorf("%+v, %v", id, err)
	}
}
