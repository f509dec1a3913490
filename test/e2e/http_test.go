package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// blob is endless bytes that are no text and don't compress away.
type blob struct{ n uint64 }

func (b *blob) Read(p []byte) (int, error) {
	for i := range p {
		b.n = b.n*6364136223846793005 + 1442695040888963407
		p[i] = byte(b.n >> 33)
	}
	return len(p), nil
}

// upstream is a web service with all that HTTP has.
type upstream struct {
	*httptest.Server
	aborted chan struct{} // a visitor's abort arrived
	started chan struct{} // the beginning of an upload arrived
	seen    chan http.Header
}

func newUpstream(t *testing.T) *upstream {
	t.Helper()
	u := &upstream{aborted: make(chan struct{}, 10), started: make(chan struct{}, 10), seen: make(chan http.Header, 10)}
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello %s %s", r.Method, r.Host) })
	mux.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) { _ = json.NewEncoder(w).Encode(r.Header) })
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := 0; ; i++ {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			// The next event comes only when the visitor says it has this one.
			select {
			case <-u.seen:
			case <-r.Context().Done():
				u.aborted <- struct{}{}
				return
			}
		}
	})
	mux.HandleFunc("/ack", func(_ http.ResponseWriter, r *http.Request) { u.seen <- r.Header })
	mux.HandleFunc("/trailers", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Sum")
		_, _ = w.Write([]byte("body"))
		w.Header().Set("X-Sum", "of "+r.Trailer.Get("X-Sent"))
		w.Header().Set(http.TrailerPrefix+"X-Late", "unannounced")
	})
	mux.HandleFunc("/refuse", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusExpectationFailed) })
	mux.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		if err != nil {
			return
		}
		fmt.Fprintf(w, "%d %x", n, h.Sum(nil))
	})
	mux.HandleFunc("/slurp", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadFull(r.Body, make([]byte, 5))
		u.started <- struct{}{}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			u.aborted <- struct{}{}
		}
	})
	mux.HandleFunc("/early", func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		_, _ = w.Write([]byte("too much"))
	})
	mux.HandleFunc("/blob", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseInt(r.URL.Query().Get("n"), 10, 64)
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		_, _ = io.CopyN(w, &blob{}, n)
	})
	mux.HandleFunc("/cut", func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("half of it"))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "f.txt", time.Unix(1e9, 0), strings.NewReader("0123456789"))
	})
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		c.SetReadLimit(1 << 20)
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if c.Write(r.Context(), kind, b) != nil {
				return
			}
		}
	})
	u.Server = httptest.NewUnstartedServer(mux)
	u.Start()
	t.Cleanup(u.Close)
	return u
}

func (u *upstream) port() string { return u.Listener.Addr().String() }

func TestHTTPKeepsItsMeaning(t *testing.T) {
	up := newUpstream(t)
	n := startServer(t)
	_, url := n.publish("http", up.port(), "--name", "app")
	for _, version := range []string{"1.1", "2"} {
		t.Run("HTTP/"+version, func(t *testing.T) {
			client := n.visitor(version == "2")
			t.Run("events are flushed one by one", func(t *testing.T) { testEvents(t, up, client, url) })
			t.Run("trailers", func(t *testing.T) { testTrailers(t, client, url) })
			t.Run("expectation", func(t *testing.T) { testExpectation(t, client, url) })
			t.Run("early response", func(t *testing.T) { testEarly(t, client, url) })
			t.Run("aborts", func(t *testing.T) { testAborts(t, up, client, url) })
		})
	}
	t.Run("plain and TLS, curl", func(t *testing.T) {
		if got, want := n.curl("--http1.1", url+"/hello"), "hello GET "+strings.TrimPrefix(url, "https://"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got := n.curl("--http2", "-w", " %{http_version}", url+"/hello"); !strings.HasSuffix(got, " 2") {
			t.Errorf("no HTTP/2: %q", got)
		}
		if got := n.curl(n.plainURL(url) + "/hello"); !strings.HasPrefix(got, "hello GET") {
			t.Errorf("got %q", got)
		}
		if got := n.curl("-I", url+"/hello"); !strings.Contains(got, "200") {
			t.Errorf("HEAD: %q", got)
		}
		if got := n.curl("-r", "2-5", "-w", " %{http_code}", url+"/file"); got != "2345 206" {
			t.Errorf("range: %q", got)
		}
	})
	t.Run("the edge owns where a request comes from", func(t *testing.T) {
		var h http.Header
		check(t, json.Unmarshal([]byte(n.curl("--http1.1", url+"/headers",
			"-H", "X-Forwarded-For: 6.6.6.6", "-H", "X-Real-IP: 6.6.6.6", "-H", "Forwarded: for=6.6.6.6", "-H", "X_Forwarded_For: 6.6.6.6",
			"-H", "X-Forwarded-Proto: gopher", "-H", "X-Forwarded-Host: evil", "-H", "Connection: X-Forwarded-For, X-Real-IP")), &h))
		if s := fmt.Sprint(h); strings.Contains(s, "6.6.6.6") || strings.Contains(s, "gopher") || strings.Contains(s, "evil") {
			t.Errorf("a visitor's word was passed on: %v", h)
		}
		if h.Get("X-Forwarded-For") != "127.0.0.1" || h.Get("X-Real-Ip") != "127.0.0.1" || h.Get("X-Forwarded-Proto") != "https" {
			t.Errorf("the edge's word is missing: %v", h)
		}
	})
	t.Run("WebSocket", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c, _, err := websocket.Dial(ctx, url+"/ws", &websocket.DialOptions{HTTPClient: n.visitor(false)})
		check(t, err)
		c.SetReadLimit(1 << 20)
		for _, size := range []int{0, 1, 125, 126, 65536, 1 << 19} {
			want := make([]byte, size)
			_, _ = (&blob{n: uint64(size)}).Read(want)
			check(t, c.Write(ctx, websocket.MessageBinary, want))
			_, got, err := c.Read(ctx)
			check(t, err)
			if !bytes.Equal(got, want) {
				t.Fatalf("%d bytes came back changed", size)
			}
		}
		check(t, c.Close(websocket.StatusNormalClosure, "done"))
	})
}

func testEvents(t *testing.T, up *upstream, client *http.Client, url string) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/events", nil)
	check(t, err)
	res, err := client.Do(req)
	check(t, err)
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for i := range 3 {
		lines.Scan()
		if got, want := lines.Text(), "data: "+strconv.Itoa(i); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
		lines.Scan()
		if i == 2 {
			break
		}
		ack, err := client.Get(url + "/ack")
		check(t, err)
		_ = ack.Body.Close()
	}
	cancel()
	waitFor(t, up.aborted, "the upstream to see the visitor leave")
}

func waitFor(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
}

func testTrailers(t *testing.T, client *http.Client, url string) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/trailers", io.MultiReader(strings.NewReader("some")))
	check(t, err)
	req.Trailer = http.Header{"X-Sent": {"words"}}
	res, err := client.Do(req)
	check(t, err)
	b, err := io.ReadAll(res.Body)
	check(t, err)
	_ = res.Body.Close()
	if string(b) != "body" || res.Trailer.Get("X-Sum") != "of words" || res.Trailer.Get("X-Late") != "unannounced" {
		t.Errorf("body %q, trailers %v", b, res.Trailer)
	}
}

// counting counts what is read of a body.
type counting struct {
	io.Reader
	read int
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.read += n
	return n, err
}

func testExpectation(t *testing.T, client *http.Client, url string) {
	body := &counting{Reader: io.LimitReader(&blob{}, 1<<20)}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/refuse", body)
	check(t, err)
	req.ContentLength = 1 << 20
	req.Header.Set("Expect", "100-continue")
	res, err := client.Do(req)
	check(t, err)
	_ = res.Body.Close()
	if res.StatusCode != http.StatusExpectationFailed || (res.ProtoMajor == 1 && body.read != 0) {
		t.Errorf("status %d after %d bytes of body", res.StatusCode, body.read)
	}
	req, err = http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/sum", io.LimitReader(&blob{}, 1<<20))
	check(t, err)
	req.ContentLength = 1 << 20
	req.Header.Set("Expect", "100-continue")
	res, err = client.Do(req)
	check(t, err)
	b, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if !strings.HasPrefix(string(b), "1048576 ") {
		t.Errorf("got %q", b)
	}
}

func testEarly(t *testing.T, client *http.Client, url string) {
	pr, pw := io.Pipe() // a body that does not end
	defer pw.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/early", pr)
	check(t, err)
	go func() { _, _ = pw.Write([]byte("start")) }()
	res, err := client.Do(req)
	check(t, err)
	defer res.Body.Close()
	b := make([]byte, 8)
	_, err = io.ReadFull(res.Body, b)
	check(t, err)
	if res.StatusCode != http.StatusRequestEntityTooLarge || string(b) != "too much" {
		t.Errorf("status %d, body %q", res.StatusCode, b)
	}
}

func testAborts(t *testing.T, up *upstream, client *http.Client, url string) {
	res, err := client.Get(url + "/cut")
	check(t, err)
	_, err = io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err == nil {
		t.Error("an answer that the upstream broke off looked whole")
	}
	pr, pw := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/slurp", pr)
	check(t, err)
	go func() {
		_, _ = pw.Write([]byte("start"))
		<-up.started
		_ = pw.CloseWithError(io.ErrClosedPipe) // the client breaks the upload off
	}()
	if res, err := client.Do(req); err == nil {
		_ = res.Body.Close()
		t.Fatal("the aborted upload was answered")
	}
	waitFor(t, up.aborted, "the upstream to see the upload aborted")
}

// gib is what the big transfers move. The race detector makes the test's own
// arithmetic ten times as slow, and finds with less what it finds at all.
var gib = func() int64 {
	if os.Getenv("CULVERT_TEST_RACE") != "" {
		return 64 << 20
	}
	return 1 << 30
}()

// blobSum is the SHA-256 of the first n bytes of a blob.
func blobSum(n int64) string {
	h := sha256.New()
	_, _ = io.CopyN(h, &blob{}, n)
	return hex.EncodeToString(h.Sum(nil))
}

func TestHTTPGibibyte(t *testing.T) {
	up := newUpstream(t)
	n := startServer(t)
	agent, url := n.publish("http", up.port(), "--name", "app")
	client := n.visitor(false)
	want := blobSum(gib)

	res, err := client.Get(url + "/blob?n=" + strconv.FormatInt(gib, 10))
	check(t, err)
	h := sha256.New()
	_, err = io.Copy(h, res.Body)
	check(t, err)
	_ = res.Body.Close()
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		t.Error("the download came changed")
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/sum", io.LimitReader(&blob{}, gib))
	check(t, err)
	res, err = client.Do(req)
	check(t, err)
	b, err := io.ReadAll(res.Body)
	check(t, err)
	_ = res.Body.Close()
	if got := string(b); got != fmt.Sprintf("%d %s", gib, want) {
		t.Errorf("the upload came changed: %s", got)
	}
	for name, p := range map[string]*process{"server": n.process, "agent": agent} {
		if peak := peakMemory(t, p.cmd.Process.Pid); peak > 200<<20 {
			t.Errorf("%s held %d MiB", name, peak>>20)
		}
	}
}

// peakMemory is the most memory a process has held, in bytes.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	return memory(t, pid, "VmHWM:")
}

// memory reads a line of proc(5)'s status, in bytes.
func memory(t *testing.T, pid int, line string) int64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	check(t, err)
	_, rest, _ := strings.Cut(string(b), line)
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	check(t, err)
	return kib << 10
}
