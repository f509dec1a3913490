package splice

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

// pair is a TCP connection by both its ends.
func pair(t *testing.T) (*net.TCPConn, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	check(t, err)
	s := <-accepted
	t.Cleanup(func() {
		_ = c.Close()
		_ = s.Close()
	})
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// opaque hides what kind of connection it is, so that the buffered path is taken.
type opaque struct{ net.Conn }

func (o opaque) CloseWrite() error { return CloseWrite(o.Conn) }

func (o opaque) Reset() error {
	Reset(o.Conn)
	return nil
}

// joined is a visitor and an upstream with Join between them.
func joined(t *testing.T, hide bool) (visitor, upstream *net.TCPConn, cancel func(), done <-chan error) {
	t.Helper()
	v, a := pair(t)
	b, u := pair(t)
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	ended := make(chan error, 1)
	go func() {
		var right net.Conn = b
		if hide {
			right = opaque{b}
		}
		_, err := Join(ctx, a, right, Config{})
		ended <- err
	}()
	return v, u, stop, ended
}

func TestJoin(t *testing.T) {
	defer goleak.VerifyNone(t)
	for name, hide := range map[string]bool{"sockets": false, "buffered": true} {
		t.Run(name+" half-close", func(t *testing.T) {
			v, u, _, done := joined(t, hide)
			_, err := v.Write([]byte("question"))
			check(t, err)
			check(t, v.CloseWrite())
			got, err := io.ReadAll(u)
			check(t, err)
			_, err = u.Write(append([]byte("re: "), got...))
			check(t, err)
			check(t, u.CloseWrite())
			got, err = io.ReadAll(v)
			check(t, err)
			if err := <-done; string(got) != "re: question" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
		})
		t.Run(name+" reset", func(t *testing.T) {
			for _, fromUpstream := range []bool{true, false} {
				v, u, _, done := joined(t, hide)
				from, to := v, u
				if fromUpstream {
					from, to = u, v
				}
				_, err := from.Write([]byte("x"))
				check(t, err)
				_, err = io.ReadFull(to, make([]byte, 1))
				check(t, err)
				check(t, from.SetLinger(0))
				check(t, from.Close())
				if _, err := io.ReadAll(to); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the other side saw %v", err)
				}
				if <-done == nil {
					t.Error("a reset looked orderly")
				}
			}
		})
		t.Run(name+" bulk both ways", func(t *testing.T) {
			v, u, _, done := joined(t, hide)
			const n = 32 << 20
			sums := make(chan [32]byte, 4)
			for i, c := range []*net.TCPConn{v, u} {
				data := bytes.Repeat([]byte{byte(i), 1, 2, 3, 5, 7, 11}, n/7)
				go func() {
					_, _ = c.Write(data)
					_ = c.CloseWrite()
					sums <- sha256.Sum256(data)
				}()
				go func() {
					h := sha256.New()
					_, _ = io.Copy(h, c)
					sums <- [32]byte(h.Sum(nil))
				}()
			}
			seen := make(map[[32]byte]int)
			for range 4 {
				seen[<-sums]++
			}
			for sum, times := range seen {
				if times != 2 {
					t.Errorf("%x was seen %d times", sum, times)
				}
			}
			check(t, <-done)
		})
		t.Run(name+" cancel", func(t *testing.T) {
			v, _, cancel, done := joined(t, hide)
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("ended with %v", err)
			}
			if _, err := io.ReadAll(v); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the visitor saw %v", err)
			}
		})
	}
}

// TestLastWords: an upstream that refuses an upload answers and closes. Its kernel then
// resets the connection, and the answer must come through all the same.
func TestLastWords(t *testing.T) {
	for range 20 {
		v, u, _, done := joined(t, true)
		go func() {
			for {
				if _, err := v.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}()
		_, err := io.ReadFull(u, make([]byte, 1000))
		check(t, err)
		_, err = u.Write([]byte("too much"))
		check(t, err)
		check(t, u.Close())
		got := make([]byte, 8)
		if _, err := io.ReadFull(v, got); err != nil || string(got) != "too much" {
			t.Fatalf("got %q, %v", got, err)
		}
		if <-done == nil {
			t.Error("a reset looked orderly")
		}
	}
}

// TestWrappedEOF: an error that wraps io.EOF is what a link's end looks like, and
// must not pass as the orderly end of a transfer.
func TestWrappedEOF(t *testing.T) {
	v, a := pair(t)
	_, err := Join(t.Context(), a, broken{}, Config{})
	if err == nil {
		t.Error("a broken stream looked orderly")
	}
	if _, err := io.ReadAll(v); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the visitor saw %v", err)
	}
}

type broken struct{ net.Conn }

func (broken) Read([]byte) (int, error) { return 0, errors.Join(errors.New("link ended"), io.EOF) }
func (broken) Close() error             { return nil }

func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, a := net.Pipe()
		b, u := net.Pipe()
		began := time.Now()
		go func() {
			for range 3 {
				<-time.After(50 * time.Second)
				_, _ = v.Write([]byte("x"))
				_, _ = u.Read(make([]byte, 1))
			}
		}()
		_, err := Join(t.Context(), a, b, Config{IdleTimeout: time.Minute})
		if d := time.Since(began); !errors.Is(err, ErrIdle) || d < 210*time.Second || d > 230*time.Second {
			t.Errorf("ended after %v with %v", d, err)
		}
		_ = v.Close()
		_ = u.Close()
	})
}

func TestPrepend(t *testing.T) {
	v, a := pair(t)
	b, u := pair(t)
	go func() { _, _ = Join(t.Context(), Prepend(a, []byte("peeked ")), b, Config{}) }()
	_, err := v.Write([]byte("and rest"))
	check(t, err)
	check(t, v.CloseWrite())
	got, err := io.ReadAll(u)
	check(t, err)
	if string(got) != "peeked and rest" {
		t.Errorf("got %q", got)
	}
	_ = u.Close()
	_, _ = io.ReadAll(v)
}
