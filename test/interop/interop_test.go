// Package interop runs our Yamux against the other implementations: both roles,
// plain and TLS, many streams at once, half-closes and resets.
package interop

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	hashicorp "github.com/hashicorp/yamux"
	libp2p "github.com/libp2p/go-yamux/v5"
	"go.uber.org/goleak"

	"github.com/culvert-tunnel/culvert/yamux"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// stream is what all implementations offer in some form.
type stream interface {
	net.Conn
	CloseWrite() error
}

// session hides the differences between the implementations.
type session struct {
	open   func(context.Context) (stream, error)
	accept func(context.Context) (stream, error)
	close  func()
	reset  func(stream)
}

func ours(t *testing.T, conn net.Conn, client bool) session {
	make := yamux.Server
	if client {
		make = yamux.Client
	}
	s := make(conn, yamux.Config{})
	done := startRun(s)
	return session{
		open:   func(ctx context.Context) (stream, error) { return s.Open(ctx) },
		accept: func(ctx context.Context) (stream, error) { return s.Accept(ctx) },
		close: func() {
			s.Close()
			<-done
			if st := s.Stats(); st.Streams != 0 || st.Queued != 0 || st.Window != 0 {
				t.Errorf("left in our session: %+v", st)
			}
		},
		reset: func(st stream) { st.(*yamux.Stream).Reset() },
	}
}

func startRun(s *yamux.Session) <-chan error {
	done := make(chan error, 1)
	go func() { done <- s.Run(context.Background()) }()
	return done
}

// halfCloser gives hashicorp's streams, whose Close ends one direction, the
// shape of the others.
type halfCloser struct{ *hashicorp.Stream }

func (h halfCloser) CloseWrite() error { return h.Close() }

func ofHashicorp(t *testing.T, conn net.Conn, client bool) session {
	make := hashicorp.Server
	if client {
		make = hashicorp.Client
	}
	cfg := hashicorp.DefaultConfig()
	cfg.LogOutput = io.Discard
	s, err := make(conn, cfg)
	if err != nil {
		t.Fatal(err)
	}
	wrap := func(st *hashicorp.Stream, err error) (stream, error) {
		if err != nil {
			return nil, err
		}
		return halfCloser{st}, nil
	}
	return session{
		open:   func(context.Context) (stream, error) { return wrap(s.OpenStream()) },
		accept: func(ctx context.Context) (stream, error) { return wrap(s.AcceptStreamWithContext(ctx)) },
		close:  func() { s.Close() },
	}
}

func ofLibp2p(t *testing.T, conn net.Conn, client bool) session {
	make := func(c net.Conn, cfg *libp2p.Config) (*libp2p.Session, error) { return libp2p.Server(c, cfg, nil) }
	if client {
		make = func(c net.Conn, cfg *libp2p.Config) (*libp2p.Session, error) { return libp2p.Client(c, cfg, nil) }
	}
	cfg := libp2p.DefaultConfig()
	cfg.LogOutput = io.Discard
	s, err := make(conn, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return session{
		open:   func(ctx context.Context) (stream, error) { return s.OpenStream(ctx) },
		accept: func(context.Context) (stream, error) { return s.AcceptStream() },
		close:  func() { s.Close() },
		reset:  func(st stream) { st.(*libp2p.Stream).Reset() },
	}
}

type maker func(*testing.T, net.Conn, bool) session

// each runs a test of two sessions with us in both roles, plain and over TLS.
func each(t *testing.T, f func(t *testing.T, a, b session)) {
	others := []struct {
		name string
		make maker
	}{{"ours", ours}, {"hashicorp", ofHashicorp}, {"libp2p", ofLibp2p}}
	for _, other := range others {
		for _, secure := range []bool{false, true} {
			for _, client := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/tls=%v/we-dial=%v", other.name, secure, client), func(t *testing.T) {
					c, s := connect(t, secure)
					if !client {
						c, s = s, c
					}
					a, b := ours(t, c, client), other.make(t, s, !client)
					defer b.close()
					defer a.close()
					f(t, a, b)
				})
			}
		}
	}
}

func TestTwoHundredStreams(t *testing.T) {
	each(t, func(t *testing.T, a, b session) {
		var wg sync.WaitGroup
		wg.Go(func() { transfer(t, a, b, 100, 0) })
		wg.Go(func() { transfer(t, b, a, 100, 1) })
		wg.Wait()
	})
}

// transfer opens n streams from a to b. Each carries a number, as many bytes,
// and a half-close; the answer is the SHA-256 of the bytes and then the bytes,
// from every second stream.
func transfer(t *testing.T, a, b session, n int, salt int) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for range n {
			st, err := b.accept(t.Context())
			if err != nil {
				t.Errorf("accept: %v", err)
				return
			}
			wg.Go(func() { answer(t, st) })
		}
	})
	gate := make(chan struct{}, 64)
	for i := range n {
		gate <- struct{}{}
		wg.Go(func() {
			defer func() { <-gate }()
			st, err := a.open(t.Context())
			if err != nil {
				t.Errorf("open: %v", err)
				return
			}
			ask(t, st, size(i), i*2+salt)
		})
	}
	wg.Wait()
}

// size gives mixed sizes: many short, some of more than a window.
func size(i int) int {
	switch i % 10 {
	case 0:
		return 0
	case 1:
		return 700_000 + i
	case 2:
		return 262_144
	case 3:
		return 65_524 + i%40
	default:
		return i * i % 5000
	}
}

func payload(n, seed int) []byte {
	b := make([]byte, n)
	x := uint32(seed)*2654435761 + 12345
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

func ask(t *testing.T, st stream, n, seed int) {
	head := binary.BigEndian.AppendUint32(nil, uint32(seed%2))
	converse(t, st, head, payload(n, seed), seed)
}

// converse sends a head and data, ends its direction, and checks the answer: the
// hash of the data and, for odd numbers, the data.
func converse(t *testing.T, st stream, head, data []byte, number int) {
	defer st.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := st.Write(head); err != nil {
			t.Errorf("write: %v", err)
		}
		for rest := data; len(rest) > 0; {
			k := min(len(rest), 1+number*997%70000)
			if _, err := st.Write(rest[:k]); err != nil {
				t.Errorf("write: %v", err)
				return
			}
			rest = rest[k:]
		}
		if err := st.CloseWrite(); err != nil {
			t.Errorf("close write: %v", err)
		}
	})
	got, err := io.ReadAll(st)
	wg.Wait()
	if err != nil {
		t.Errorf("read: %v", err)
		return
	}
	want := sha256.Sum256(data)
	if len(got) < len(want) || string(got[:len(want)]) != string(want[:]) {
		t.Errorf("stream %d: wrong hash of %d bytes", number, len(data))
		return
	}
	if got = got[len(want):]; number%2 == 1 && string(got) != string(data) {
		t.Errorf("stream %d: sent %d bytes, got %d", number, len(data), len(got))
	}
}

func answer(t *testing.T, st stream) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(st, head); err != nil {
		t.Errorf("read head: %v", err)
		return
	}
	answerRest(t, st, head[3] == 1, -1)
}

// answerRest reads to the end and answers. want is how many bytes are expected, if
// that is known.
func answerRest(t *testing.T, st stream, back bool, want int) {
	defer st.Close()
	data, err := io.ReadAll(st)
	if err != nil {
		t.Errorf("read: %v", err)
		return
	}
	if want >= 0 && len(data) != want {
		t.Errorf("%d bytes of %d came", len(data), want)
	}
	sum := sha256.Sum256(data)
	if _, err := st.Write(sum[:]); err != nil {
		t.Errorf("write sum: %v", err)
	}
	if back {
		if _, err := st.Write(data); err != nil {
			t.Errorf("write data: %v", err)
		}
	}
	if err := st.CloseWrite(); err != nil {
		t.Errorf("close write: %v", err)
	}
}

func TestResets(t *testing.T) {
	each(t, func(t *testing.T, a, b session) {
		for _, dir := range [][2]session{{a, b}, {b, a}} {
			from, to := dir[0], dir[1]
			if from.reset == nil {
				continue // this implementation has no reset
			}
			for i := range 20 {
				st, err := from.open(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := st.Write([]byte{byte(i)}); err != nil {
					t.Fatal(err)
				}
				other, err := to.accept(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(other, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				from.reset(st)
				if _, err := other.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
					t.Fatalf("read after reset: %v", err)
				}
				other.Close()
			}
			// The session is as good as before.
			transfer(t, from, to, 5, 0)
		}
	})
}
