package inspect

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"
)

// watched is a client whose connections to a server are watched, as an agent's are.
type watched struct {
	in     *Inspector
	client *http.Client
	url    string
	dial   Dial
	stop   func() // ends the Inspector and waits
}

// watch runs an Inspector and a server, in HTTP/2 with prior knowledge if h2 is set.
func watch(t *testing.T, h2 bool, handler http.HandlerFunc) *watched {
	t.Helper()
	srv := httptest.NewUnstartedServer(handler)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(!h2)
	srv.Config.Protocols.SetUnencryptedHTTP2(h2)
	srv.Start()
	in := New(Config{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx) }()
	dial := func(ctx context.Context, _ string) (net.Conn, bool, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", srv.Listener.Addr().String())
		return c, h2, err
	}
	tr := &http.Transport{Protocols: srv.Config.Protocols, DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, _, err := dial(ctx, "")
		if err != nil {
			return nil, err
		}
		return in.Watch("web", "visitor", c), nil
	}}
	stop := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the inspector didn't end in time")
		}
	})
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		stop()
		srv.Close()
		goleak.VerifyNone(t)
	})
	return &watched{in: in, client: &http.Client{Transport: tr}, url: srv.URL, dial: dial, stop: stop}
}

// done waits until an exchange is over, by its id.
func (w *watched) done(t *testing.T, id uint64) Exchange {
	t.Helper()
	sub := w.in.Subscribe()
	defer sub.Close()
	timeout := time.After(20 * time.Second)
	for {
		if x, ok := w.in.Find(id); ok && x.State != Open {
			return x
		}
		select {
		case <-sub.Ready():
			sub.Take()
		case <-timeout:
			t.Fatalf("exchange %d isn't over in time", id)
		}
	}
}

func (w *watched) post(t *testing.T, contentType, body string) {
	t.Helper()
	res, err := w.client.Post(w.url+"/path?a=b", contentType, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
}

// TestRealHTTP2: an HTTP/2 client and server that are not ours; trailers; many exchanges
// on one connection; a replay.
func TestRealHTTP2(t *testing.T) {
	w := watch(t, true, func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		rw.Header().Set("Trailer", "X-Sum")
		rw.WriteHeader(http.StatusCreated)
		_, _ = rw.Write(append([]byte(r.Proto+" "), body...))
		rw.Header().Set("X-Sum", fmt.Sprint(len(body)))
	})
	long := strings.Repeat("0123456789", 20000)
	for _, body := range []string{"hello", long, ""} {
		w.post(t, "text/plain", body)
	}
	for id, want := range []string{"hello", long, ""} {
		x := w.done(t, uint64(id)+1)
		d := x.View(true)
		if d.Protocol != "HTTP/2.0" || d.Method != "POST" || d.Path != "/path?a=b" || d.Status != 201 || d.Request.Body.Text != want ||
			d.Response.Body.Text != "HTTP/2.0 "+want || len(d.Response.Trailers) != 1 || d.Response.Trailers[0] != [2]string{"x-sum", fmt.Sprint(len(want))} {
			d.Request.Body.Text, d.Response.Body.Text = "", ""
			t.Errorf("%+v", d)
		}
	}
	id, err := w.in.Replay(t.Context(), w.dial, 1, &Edit{Headers: &[][2]string{{"x-new", "1"}}})
	if err != nil {
		t.Fatal(err)
	}
	if x := w.done(t, id); x.ReplayOf != 1 || !x.Edited || string(x.Response.Body) != "HTTP/2.0 hello" || !strings.Contains(x.Request.Head, "x-new: 1\r\n") {
		t.Errorf("%+v", x)
	}
}

// TestRealGRPC: messages both ways in one stream, with the status in the trailer.
func TestRealGRPC(t *testing.T) {
	message := func(text string) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(text))), text...) //nolint:gosec // short
	}
	w := watch(t, true, func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		rw.Header().Set("Content-Type", "application/grpc+proto")
		rw.Header().Set("Trailer", "Grpc-Status")
		for _, text := range []string{"one", "two"} {
			_, _ = rw.Write(message(text))
			_ = http.NewResponseController(rw).Flush()
		}
		rw.Header().Set("Grpc-Status", "0")
	})
	w.post(t, "application/grpc+proto", string(message("question")))
	x := w.done(t, 1)
	var got []string
	for _, f := range x.Frames {
		got = append(got, fmt.Sprintf("%v %s", f.ToVisitor, f.Data))
	}
	if strings.Join(got, ", ") != "false question, true one, true two" || x.Kind != KindGRPC || !strings.Contains(x.Response.Trailer, "grpc-status: 0") {
		t.Errorf("%v %s %q", got, x.Kind, x.Response.Trailer)
	}
}

// TestRealCodings: bodies of encoders that are not ours are shown decoded.
func TestRealCodings(t *testing.T) {
	text := strings.Repeat("compressible ", 500)
	w := watch(t, false, func(rw http.ResponseWriter, r *http.Request) {
		var b bytes.Buffer
		coding := r.Header.Get("Content-Type")[len("text/"):]
		switch coding {
		case "br":
			e := brotli.NewWriter(&b)
			_, _ = io.WriteString(e, text)
			_ = e.Close()
		case "zstd":
			e, _ := zstd.NewWriter(&b)
			_, _ = io.WriteString(e, text)
			_ = e.Close()
		}
		rw.Header().Set("Content-Encoding", coding)
		rw.Header().Set("Content-Type", "text/plain")
		_, _ = rw.Write(b.Bytes())
	})
	for i, coding := range []string{"br", "zstd"} {
		w.post(t, "text/"+coding, "x")
		x := w.done(t, uint64(i)+1) //nolint:gosec // few
		if d := x.View(false); d.Response.Body.Text != text || d.Response.Body.Encoding != coding || d.Response.Body.Size >= int64(len(text)) {
			t.Errorf("%s: %+v", coding, d.Response.Body)
		}
	}
}

// TestRunEnds: a replay under way doesn't hold up the end.
func TestRunEnds(t *testing.T) {
	release := make(chan struct{})
	w := watch(t, false, func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Wait") != "" {
			<-release
		}
	})
	w.post(t, "text/plain", "x")
	w.done(t, 1)
	if _, err := w.in.Replay(t.Context(), w.dial, 1, &Edit{Headers: &[][2]string{{"X-Wait", "1"}}}); err != nil {
		t.Fatal(err)
	}
	w.stop()
	close(release)
}

// TestReplayLimits: what can't be sent again says why, and an upstream that never answers
// holds a replay no longer than its time-out.
func TestReplayLimits(t *testing.T) {
	cv := newConversation(Config{Body: 4})
	cv.say(toUpstream, "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde")
	cv.say(toVisitor, ok)
	cv.say(toUpstream, "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab")
	for id, want := range map[uint64]error{1: ErrCut, 2: ErrOpen, 3: ErrNotFound} {
		if _, err := cv.in.Replay(t.Context(), nil, id, nil); err != want { //nolint:errorlint // returned bare
			t.Errorf("%d: %v, want %v", id, err, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		cv := newConversation(Config{})
		cv.say(toUpstream, get)
		cv.say(toVisitor, ok)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- cv.in.Run(ctx) }()
		start := time.Now()
		id, err := cv.in.Replay(t.Context(), func(context.Context, string) (net.Conn, bool, error) {
			near, far := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, far) }()
			return near, false, nil
		}, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		<-time.After(replayTimeout + time.Second) // in the bubble no time passes
		if x, _ := cv.in.Find(id); x.State != Failed || x.End.Sub(start) > replayTimeout+time.Second {
			t.Errorf("%s after %v", x.State, x.End.Sub(start))
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
