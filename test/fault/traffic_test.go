package fault

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// stream is the same bytes for the same seed: as many as are read.
func stream(seed uint64) io.Reader {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	return rand.NewChaCha8(key)
}

// serveTCP runs an upstream that handles each connection in a goroutine.
func serveTCP(t *testing.T, handle func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	serveOn(t, l, handle)
	return l.Addr().String()
}

func serveOn(t *testing.T, l net.Listener, handle func(*net.TCPConn)) {
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		conns.Wait()
	})
}

// both transfers at least n bytes each way over c, and more until ctx ends, and says
// what was wrong with what came. The bytes of each direction are of its own seed; the
// sender's half-close ends them, and their number and sum follow by other means.
func both(ctx context.Context, c *net.TCPConn, n int64, out, in uint64, sums *sums) error {
	sent := make(chan error, 1)
	go func() {
		h := sha256.New()
		src := stream(out)
		var total int64
		for total < n || ctx.Err() == nil {
			k, err := io.CopyN(io.MultiWriter(c, h), src, 256<<10)
			total += k
			if err != nil {
				sent <- fmt.Errorf("after %d bytes sent: %w", total, err)
				return
			}
		}
		sums.put(out, total, h.Sum(nil))
		sent <- c.CloseWrite()
	}()
	h := sha256.New()
	got, err := io.Copy(h, c)
	if err != nil {
		err = fmt.Errorf("after %d bytes received: %w", got, err)
	}
	err = errors.Join(err, <-sent)
	if err == nil {
		err = sums.compare(in, got, h.Sum(nil))
	}
	return err
}

// sums are what was sent, by seed.
type sums struct {
	mu sync.Mutex
	by map[uint64][]byte
}

func (s *sums) put(seed uint64, n int64, sum []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil {
		s.by = make(map[uint64][]byte)
	}
	s.by[seed] = binary.BigEndian.AppendUint64(sum, uint64(n))
}

func (s *sums) compare(seed uint64, n int64, sum []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if want := s.by[seed]; !bytes.Equal(want, binary.BigEndian.AppendUint64(sum, uint64(n))) {
		return fmt.Errorf("%d bytes arrived, not those that were sent", n)
	}
	return nil
}

// website is an HTTP upstream with endless downloads that end when they are told to,
// followed by their sum, and an echo behind an upgrade.
type website struct {
	*httptest.Server
	ctx   context.Context //nolint:containedctx // the test's own
	begun chan struct{}   // a download has begun
}

func newWebsite(ctx context.Context, t *testing.T) *website {
	w := &website{ctx: ctx, begun: make(chan struct{}, 1)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	mux.HandleFunc("GET /download", w.download)
	mux.HandleFunc("POST /upload", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(w, n)
	})
	mux.HandleFunc("GET /echo", echo)
	w.Server = httptest.NewServer(mux)
	t.Cleanup(w.Close)
	return w
}

// visited waits until a download has begun.
func (w *website) visited() { <-w.begun }

func (w *website) port() string { return w.Listener.Addr().String() }

// download sends 16 KiB every 10 ms until the context ends, and their sum as a trailer.
func (w *website) download(rw http.ResponseWriter, r *http.Request) {
	seed, _ := strconv.ParseUint(r.URL.Query().Get("seed"), 10, 64)
	src, h := stream(seed), sha256.New()
	rw.Header().Set("Trailer", "Sum")
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for first := true; first || w.ctx.Err() == nil; first = false {
		if _, err := io.CopyN(io.MultiWriter(rw, h), src, 16<<10); err != nil {
			return
		}
		_ = http.NewResponseController(rw).Flush()
		select {
		case w.begun <- struct{}{}:
		default:
		}
		<-tick.C
	}
	rw.Header().Set("Sum", fmt.Sprintf("%x", h.Sum(nil)))
}

// echo sends back what comes after an upgrade.
func echo(rw http.ResponseWriter, _ *http.Request) {
	rw.Header().Set("Upgrade", "websocket")
	rw.Header().Set("Connection", "Upgrade")
	rw.WriteHeader(http.StatusSwitchingProtocols)
	c, buf, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = io.Copy(c, buf)
}

// visitDownload downloads until the upstream has enough, and compares the sum.
func visitDownload(client *http.Client, url string, seed int) error {
	res, err := client.Get(url + "/download?seed=" + strconv.Itoa(seed))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	h := sha256.New()
	n, err := io.Copy(h, res.Body)
	if err != nil {
		return fmt.Errorf("download %d, after %d bytes: %w", seed, n, err)
	}
	if got := fmt.Sprintf("%x", h.Sum(nil)); n == 0 || got != res.Trailer.Get("Sum") {
		return fmt.Errorf("download %d: %d bytes with sum %s instead of %s", seed, n, got, res.Trailer.Get("Sum"))
	}
	return nil
}

// visitEcho has an echo behind an upgrade return one message after the other.
func visitEcho(ctx context.Context, address, host string, echoes *atomic.Int64) error {
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "GET /echo HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", host); err != nil {
		return err
	}
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("upgrade: %s %s", res.Status, res.Header.Get("Culvert-Error"))
	}
	for i := uint64(0); ctx.Err() == nil; i++ {
		var sent, got [64]byte
		binary.BigEndian.PutUint64(sent[:], i)
		if _, err := c.Write(sent[:]); err != nil {
			return fmt.Errorf("echo %d: %w", i, err)
		}
		if _, err := io.ReadFull(r, got[:]); err != nil {
			return fmt.Errorf("echo %d: %w", i, err)
		}
		if got != sent {
			return fmt.Errorf("echo %d came back as %x", i, got[:8])
		}
		echoes.Add(1)
		<-time.After(time.Millisecond)
	}
	return nil
}
