package yamux

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// unixPair returns the two ends of a unix stream connection.
func unixPair(tb testing.TB) (net.Conn, net.Conn) {
	tb.Helper()
	return socketPair(tb, "unix", filepath.Join(tb.TempDir(), "s"))
}

// TestRelay sends bytes of all sizes from a socket through a stream to another
// socket, by ReadFrom and WriteTo, as a proxy does.
func TestRelay(t *testing.T) {
	for _, kind := range []struct {
		name string
		pair func(testing.TB) (net.Conn, net.Conn)
	}{{"tcp", tcpPair}, {"narrow", narrowPair}, {"unix", unixPair}, {"pipe", pipePair}} {
		t.Run(kind.name, func(t *testing.T) {
			eachWire(t, func(t *testing.T, c, s *Session) {
				st, other := streams(t, c, s)
				visitor, in := kind.pair(t)
				out, upstream := kind.pair(t)
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
					visitor.Close()
				})
				tasks.Go(func() {
					if n, err := io.Copy(st, in); n != int64(len(want)) || err != nil {
						t.Errorf("into the stream went %d bytes: %v", n, err)
					}
					_ = st.CloseWrite()
				})
				tasks.Go(func() {
					if n, err := io.Copy(out, other); n != int64(len(want)) || err != nil {
						t.Errorf("out of the stream went %d bytes: %v", n, err)
					}
					out.Close()
				})
				got, err := io.ReadAll(upstream)
				tasks.Wait()
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes of %d came through: %v", len(got), len(want), err)
				}
			})
		})
	}
}

// TestSinkPingPong sends short messages there and back while WriteTo is parked on
// both sides, which is when they go straight to the sockets.
func TestSinkPingPong(t *testing.T) {
	c, s := tcpSessions(t)
	st, other := streams(t, c, s)
	visitor, near := tcpPair(t)
	far, upstream := tcpPair(t)
	var tasks sync.WaitGroup
	for _, copies := range [][2]net.Conn{{st, near}, {near, st}, {other, far}, {far, other}} {
		tasks.Go(func() {
			if _, err := io.Copy(copies[0], copies[1]); err != nil {
				t.Error(err)
			}
			_ = copies[0].(interface{ CloseWrite() error }).CloseWrite()
		})
	}
	tasks.Go(func() { _, _ = io.Copy(upstream, upstream); upstream.Close() })
	for i := range 500 {
		want := filler(uint64(i), 1+i*37%(2*lookahead))
		if _, err := visitor.Write(want); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(visitor, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	_ = visitor.(*net.TCPConn).CloseWrite()
	tasks.Wait()
}

// writeTo is WriteTo, and writeToThen the same by WriteToThen.
func writeTo(st *Stream, w io.Writer) (int64, error) { return st.WriteTo(w) }

func writeToThen(st *Stream, w io.Writer) (int64, error) {
	var n int64
	ended := make(chan error, 1)
	st.WriteToThen(w, func(m int64, err error) {
		n = m
		ended <- err
	})
	err := <-ended
	return n, err
}

// writingTo is one of the two.
type writingTo func(*Stream, io.Writer) (int64, error)

// bothWays runs a test with each.
func bothWays(t *testing.T, test func(t *testing.T, writeTo writingTo)) {
	t.Run("WriteTo", func(t *testing.T) { test(t, writeTo) })
	t.Run("WriteToThen", func(t *testing.T) { test(t, writeToThen) })
}

// TestWriteToThenIdle: what waits for something to come takes no goroutine, not before the
// first byte and not after a message, short or long.
func TestWriteToThenIdle(t *testing.T) {
	c, s := tcpSessions(t)
	const many = 50
	outcomes := make(chan error, many)
	sts, fars := make([]*Stream, many), make([]net.Conn, many)
	for i := range many {
		var other *Stream
		sts[i], other = streams(t, c, s)
		var near net.Conn
		near, fars[i] = tcpPair(t)
		other.WriteToThen(near, func(n int64, err error) {
			if err == nil && n != 100_003 {
				err = fmt.Errorf("%d bytes were written", n)
			}
			outcomes <- err
		})
	}
	for _, message := range [][]byte{[]byte("one"), filler(1, 100_000)} {
		for i, st := range sts {
			if _, err := st.Write(message); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(message))
			if _, err := io.ReadFull(fars[i], got); err != nil || !bytes.Equal(got, message) {
				t.Fatalf("message of stream %d: %v", i, err)
			}
		}
		waiting := func() int { return strings.Count(goroutines(), "(*mover).run") }
		for deadline := time.Now().Add(10 * time.Second); waiting() > 0; <-time.After(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d goroutines wait for nothing", waiting())
			}
		}
	}
	for _, st := range sts {
		_ = st.Close()
	}
	for range sts {
		if err := <-outcomes; err != nil {
			t.Error(err)
		}
	}
}

// goroutines are the stacks of all.
func goroutines() string {
	var b bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&b, 2)
	return b.String()
}

// TestWriteToBlockedSink: a destination that takes nothing holds up its stream
// and no other, and gets all bytes in order in the end.
func TestWriteToBlockedSink(t *testing.T) { bothWays(t, testBlockedSink) }

func testBlockedSink(t *testing.T, writeTo writingTo) {
	c, s := tcpSessions(t)
	st, other := streams(t, c, s)
	near, far := narrowPair(t)
	copied := make(chan error, 1)
	go func() {
		_, err := writeTo(other, near)
		near.Close()
		copied <- err
	}()
	var sent bytes.Buffer
	_ = st.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	for i := uint64(0); ; i++ {
		b := filler(i, 3000)
		n, err := st.Write(b)
		sent.Write(b[:n])
		if err != nil {
			is(t, err, os.ErrDeadlineExceeded)
			break
		}
	}
	flows(t, c, s)
	_ = st.SetWriteDeadline(time.Time{})
	_ = st.CloseWrite()
	got, err := io.ReadAll(far)
	if err := errors.Join(err, <-copied); err != nil || !bytes.Equal(got, sent.Bytes()) {
		t.Errorf("got %d bytes of %d: %v", len(got), sent.Len(), err)
	}
}

// watched is a socket that keeps what it is shown. Its own Write and Read are those of
// systems that have no better way.
type watched struct {
	*net.TCPConn
	mu            sync.Mutex
	written, read bytes.Buffer
}

func (w *watched) Writing(p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.written.Write(p)
}

func (w *watched) HasRead(p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.read.Write(p)
}

func (w *watched) Write(p []byte) (int, error) {
	w.Writing(p)
	return w.TCPConn.Write(p)
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.TCPConn.Read(p)
	w.HasRead(p[:n])
	return n, err
}

func (w *watched) WriteTo(io.Writer) (int64, error)  { panic("not asked for") }
func (w *watched) ReadFrom(io.Reader) (int64, error) { panic("not asked for") }

// TestWatched: a socket is shown what passes once and in order, also when it takes only
// parts of it, and a message before the answer to it.
func TestWatched(t *testing.T) {
	c, s := tcpSessions(t)
	st, other := streams(t, c, s)
	near, far := narrowPair(t)
	w := &watched{TCPConn: near.(*net.TCPConn)}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		_, err := other.WriteTo(w)
		if err := errors.Join(err, w.CloseWrite()); err != nil {
			t.Error(err)
		}
	})
	tasks.Go(func() {
		_, err := other.ReadFrom(w)
		if err := errors.Join(err, other.CloseWrite()); err != nil {
			t.Error(err)
		}
	})
	var said, answered bytes.Buffer
	for i := range 200 {
		message, answer := filler(uint64(i), 1+i*37%(2*lookahead)), filler(uint64(i+1000), 1+i)
		said.Write(message)
		answered.Write(answer)
		_, err := st.Write(message)
		if _, rerr := io.ReadFull(far, make([]byte, len(message))); err != nil || rerr != nil {
			t.Fatal(err, rerr)
		}
		w.mu.Lock()
		seen := w.written.Len()
		w.mu.Unlock()
		if seen != said.Len() {
			t.Fatalf("message %d came, %d of %d bytes were shown", i, seen, said.Len())
		}
		_, err = far.Write(answer)
		if _, rerr := io.ReadFull(st, make([]byte, len(answer))); err != nil || rerr != nil {
			t.Fatal(err, rerr)
		}
	}
	// More than the socket takes, in pieces of all kinds, read only afterwards.
	tasks.Go(func() {
		for i := range 400 {
			b := filler(uint64(i), 1+i*211%(3*lookahead))
			said.Write(b)
			if _, err := st.Write(b); err != nil {
				t.Error(err)
			}
		}
		_ = st.CloseWrite()
	})
	if _, err := io.Copy(io.Discard, far); err != nil {
		t.Error(err)
	}
	_ = far.(*net.TCPConn).CloseWrite()
	tasks.Wait()
	if !bytes.Equal(w.written.Bytes(), said.Bytes()) || !bytes.Equal(w.read.Bytes(), answered.Bytes()) {
		t.Errorf("shown %d of %d bytes written, %d of %d read", w.written.Len(), said.Len(), w.read.Len(), answered.Len())
	}
}

// TestWriteToFails: the error of the destination comes back, from the middle of
// bulk and from a parked WriteTo, and the session goes on.
func TestWriteToFails(t *testing.T) { bothWays(t, testWriteToFails) }

func testWriteToFails(t *testing.T, writeTo writingTo) {
	c, s := tcpSessions(t)
	t.Run("plain writer", func(t *testing.T) {
		st, other := streams(t, c, s)
		broken := errors.New("broken")
		r, w := io.Pipe()
		go func() {
			_, _ = io.CopyN(io.Discard, r, 100_000)
			r.CloseWithError(broken)
		}()
		go func() { _, _ = st.Write(make([]byte, InitialWindow)) }()
		n, err := writeTo(other, w)
		is(t, err, broken)
		if n != 100_000 {
			t.Errorf("%d bytes were written", n)
		}
		_ = other.Close()
		_ = st.Close()
	})
	t.Run("socket", func(t *testing.T) {
		st, other := streams(t, c, s)
		near, far := tcpPair(t)
		failed := make(chan error, 1)
		go func() {
			_, err := writeTo(other, near)
			failed <- err
		}()
		if _, err := st.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(far, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		_ = far.(*net.TCPConn).SetLinger(0)
		far.Close()
		for {
			select {
			case err := <-failed:
				if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
					t.Error(err)
				}
				_ = other.Close()
				_ = st.Close()
				return
			default:
				if _, err := st.Write([]byte("x")); err != nil {
					t.Error(err)
				}
			}
		}
	})
	t.Run("closed socket", func(t *testing.T) {
		st, other := streams(t, c, s)
		near, _ := tcpPair(t)
		near.Close()
		if _, err := st.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		_, err := writeTo(other, near)
		is(t, err, net.ErrClosed)
		_ = other.Close()
		_ = st.Close()
	})
	flows(t, c, s)
	flows(t, s, c)
}

func TestWriteToEnds(t *testing.T) { bothWays(t, testWriteToEnds) }

func testWriteToEnds(t *testing.T, writeTo writingTo) {
	c, s := tcpSessions(t)
	for name, end := range map[string]struct {
		how  func(st, other *Stream)
		want error
	}{
		"reset":        {func(st, _ *Stream) { _ = st.Reset() }, ErrStreamReset},
		"closed here":  {func(_, other *Stream) { _ = other.Close() }, ErrStreamClosed},
		"reset here":   {func(_, other *Stream) { _ = other.Reset() }, ErrStreamClosed},
		"deadline":     {func(_, other *Stream) { _ = other.SetReadDeadline(time.Now()) }, os.ErrDeadlineExceeded},
		"orderly":      {func(st, _ *Stream) { _ = st.CloseWrite() }, nil},
		"closed there": {func(st, _ *Stream) { _ = st.Close() }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			st, other := streams(t, c, s)
			near, far := tcpPair(t)
			type result struct {
				n   int64
				err error
			}
			done := make(chan result, 1)
			go func() {
				n, err := writeTo(other, near)
				done <- result{n, err}
			}()
			if _, err := st.Write([]byte("last words")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(far, make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			end.how(st, other)
			got := <-done
			if !errors.Is(got.err, end.want) || (end.want == nil && got.err != nil) || got.n != 10 {
				t.Errorf("%+v", got)
			}
			_ = st.Close()
			_ = other.Close()
		})
	}
}

func TestReadFromEnds(t *testing.T) {
	c, s := tcpSessions(t)
	t.Run("source fails", func(t *testing.T) {
		st, other := streams(t, c, s)
		broken := errors.New("broken")
		n, err := st.ReadFrom(io.MultiReader(bytes.NewReader(make([]byte, 1000)), iotest.ErrReader(broken)))
		is(t, err, broken)
		if n != 1000 {
			t.Errorf("%d bytes", n)
		}
		if _, err := io.ReadFull(other, make([]byte, 1000)); err != nil {
			t.Error(err)
		}
	})
	t.Run("bytes come with the end", func(t *testing.T) {
		st, other := streams(t, c, s)
		if n, err := st.ReadFrom(iotest.DataErrReader(bytes.NewReader(make([]byte, 1000)))); n != 1000 || err != nil {
			t.Error(n, err)
		}
		if _, err := io.ReadFull(other, make([]byte, 1000)); err != nil {
			t.Error(err)
		}
	})
	t.Run("nobody reads", func(t *testing.T) {
		st, other := streams(t, c, s)
		_ = st.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		n, err := st.ReadFrom(neverEnding{})
		is(t, err, os.ErrDeadlineExceeded)
		if n != InitialWindow {
			t.Errorf("%d bytes", n)
		}
		_ = st.SetWriteDeadline(time.Time{})
		_ = other.Reset()
		_, err = st.ReadFrom(neverEnding{})
		is(t, err, ErrStreamReset, syscall.ECONNRESET)
	})
	t.Run("socket is closed", func(t *testing.T) {
		st, _ := streams(t, c, s)
		near, _ := tcpPair(t)
		done := make(chan error, 1)
		go func() {
			_, err := st.ReadFrom(near)
			done <- err
		}()
		near.Close()
		is(t, <-done, net.ErrClosed)
	})
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }

// TestWriteToFailsLetsGo: a writer whose bytes went to a destination that failed is
// reset when the stream is closed there, and does not wait for credit.
func TestWriteToFailsLetsGo(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, c, s *Session) {
		st, other := streams(t, c, s)
		began := time.Now()
		failed := make(chan error, 1)
		go func() {
			_, err := st.ReadFrom(neverEnding{})
			failed <- err
		}()
		synctest.Wait()
		broken := errors.New("broken")
		_, err := other.WriteTo(writerFunc(func([]byte) (int, error) { return 0, broken }))
		is(t, err, broken)
		_ = other.Close()
		is(t, <-failed, ErrStreamReset)
		if d := time.Since(began); d > time.Second {
			t.Errorf("the writer waited for %v", d)
		}
	})
}

// TestPieces relays by ReadFromN and WriteToN, with plain reads and writes between: no
// piece may take a byte of the next.
func TestPieces(t *testing.T) {
	for _, kind := range []struct {
		name string
		pair func(testing.TB) (net.Conn, net.Conn)
	}{{"tcp", tcpPair}, {"narrow", narrowPair}, {"unix", unixPair}, {"pipe", pipePair}} {
		t.Run(kind.name, func(t *testing.T) {
			eachWire(t, func(t *testing.T, c, s *Session) {
				st, other := streams(t, c, s)
				visitor, in := kind.pair(t)
				out, upstream := kind.pair(t)
				want := filler(5, 2<<20)
				size := func(i int) int { return i*i*31%50_000 + 1 }
				var tasks sync.WaitGroup
				tasks.Go(func() {
					_, _ = visitor.Write(want)
					visitor.Close()
				})
				tasks.Go(func() {
					one := make([]byte, 1)
					for i := 0; ; i++ {
						n, err := st.ReadFromN(in, int64(size(i)))
						if err == io.EOF && n < int64(size(i)) { //nolint:errorlint // documented bare
							break
						}
						if err != nil || n != int64(size(i)) {
							t.Errorf("%d bytes of %d into the stream: %v", n, size(i), err)
							break
						}
						if k, _ := in.Read(one); k == 1 {
							_, _ = st.Write(one)
						}
					}
					_ = st.CloseWrite()
				})
				tasks.Go(func() {
					defer out.Close()
					one := make([]byte, 1)
					for i := 3; ; i++ {
						n, err := other.WriteToN(out, int64(size(i)))
						if err == io.EOF && n < int64(size(i)) { //nolint:errorlint // documented bare
							return
						}
						if err != nil || n != int64(size(i)) {
							t.Errorf("%d bytes of %d out of the stream: %v", n, size(i), err)
							return
						}
						if k, _ := other.Read(one); k == 1 {
							_, _ = out.Write(one)
						}
					}
				})
				got, err := io.ReadAll(upstream)
				tasks.Wait()
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes of %d came through, the same: %v; %v", len(got), len(want), bytes.Equal(got, want[:min(len(got), len(want))]), err)
				}
			})
		})
	}
}

// TestPieceEnds: WriteToN returns when it has its bytes, though none come behind them, and
// what comes later is not its own, whether it came in one frame with them or not.
func TestPieceEnds(t *testing.T) {
	eachWire(t, func(t *testing.T, c, s *Session) {
		st, other := streams(t, c, s)
		out, upstream := tcpPair(t)
		for _, n := range []int{1, 100, 5_000, 40_000, 200_000} {
			for _, behind := range []int{0, 1, 30_000} {
				sent := filler(uint64(n), n+behind)
				done := make(chan error, 1)
				go func() {
					k, err := other.WriteToN(out, int64(n))
					if err == nil && k != int64(n) {
						err = io.ErrShortWrite
					}
					done <- err
				}()
				go func() { _, _ = st.Write(sent) }()
				got := make([]byte, n)
				if _, err := io.ReadFull(upstream, got); err != nil {
					t.Fatal(err)
				}
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				rest := make([]byte, behind)
				if _, err := io.ReadFull(other, rest); err != nil || !bytes.Equal(append(got, rest...), sent) {
					t.Fatalf("%d bytes and %d behind came otherwise: %v", n, behind, err)
				}
			}
		}
	})
}
