package http2

import (
	"bytes"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
)

// TestExchange: a body and trailers come back as they were sent, in as many pieces as they
// take.
func TestExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := visit(t, Config{Handle: echo})
		v.request(1, false, "cookie", "a=1", "cookie", "b=2")
		want := ""
		for i := range 3 {
			piece := strings.Repeat(string(rune('a'+i)), 15_000)
			check(t, v.WriteData(1, false, []byte(piece)))
			want += piece
		}
		check(t, v.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: v.head("x-sum", "7"), EndHeaders: true, EndStream: true}))
		status, body, last := v.answer(1)
		if status != "200" || body != want || !last.end || last.fields["x-sum"] != "7" {
			t.Errorf("got %s, %d bytes, then %v", status, len(body), last)
		}
	})
}

// TestRequest: what HTTP/2 carries apart is a request of HTTP/1.1.
func TestRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := make(chan *Stream, 1)
		v := visit(t, Config{Handle: func(s *Stream) {
			requests <- s
			_ = s.WriteHead(204, nil, true)
		}})
		v.request(1, false, "content-length", "3", "cookie", "a=1", "x-forwarded-for", " 1 ", "cookie", "b=2", "te", "trailers", "expect", "100-continue")
		s := <-requests
		var got []string
		for _, f := range s.Request.Fields {
			got = append(got, string(f.Name)+": "+string(f.Value))
		}
		const want = "Content-Length: 3, Cookie: a=1; b=2, X-Forwarded-For: 1, Te: trailers, Expect: 100-continue"
		if s.Fault != nil || strings.Join(got, ", ") != want || s.Request.Length != 3 || s.Request.Chunked || !s.Request.Expect || !s.Request.Trailers {
			t.Errorf("got %q, %+v, %v", got, s.Request, s.Fault)
		}
	})
}

// TestMalformed: what is no request reaches nobody (RFC 9113, section 8.1.1).
func TestMalformed(t *testing.T) {
	good := []string{":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/"}
	with := func(fields ...string) []string { return append(append([]string{}, good...), fields...) }
	for what, fields := range map[string][]string{
		"two methods":           with(":method", "GET"),
		"no path":               good[:6],
		"an empty path":         {":method", "GET", ":scheme", "https", ":authority", "a", ":path", ""},
		"another scheme":        {":method", "GET", ":scheme", "ftp", ":authority", "a", ":path", "/"},
		"a pseudo-header late":  {":method", "GET", ":scheme", "https", "x", "y", ":path", "/"},
		"an unknown one":        with(":x", "y"),
		"an answer's":           with(":status", "200"),
		"capitals":              with("X-Y", "z"),
		"no name":               with("", "z"),
		"Connection":            with("connection", "close"),
		"Transfer-Encoding":     with("transfer-encoding", "chunked"),
		"Upgrade":               with("upgrade", "h2c"),
		"Keep-Alive":            with("keep-alive", "1"),
		"Proxy-Connection":      with("proxy-connection", "x"),
		"TE":                    with("te", "gzip"),
		"another Host":          with("host", "b"),
		"two Hosts":             {":method", "GET", ":scheme", "https", ":path", "/", "host", "a", "host", "a"},
		"a length without body": with("content-length", "1"),
		"CONNECT with a path":   {":method", "CONNECT", ":scheme", "https", ":authority", "a", ":path", "/"},
		"GET with a protocol":   with(":protocol", "websocket"),
	} {
		synctest.Test(t, func(t *testing.T) {
			v := visit(t, Config{Handle: func(*Stream) { t.Errorf("%s: a request", what) }})
			check(t, v.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: v.head(fields...), EndHeaders: true, EndStream: true}))
			if _, _, last := v.answer(1); last.kind != http2.FrameRSTStream || last.code != http2.ErrCodeProtocol {
				t.Errorf("%s: %v", what, last)
			}
		})
	}
	for what, fields := range map[string][]string{
		"two lengths": with("content-length", "0", "content-length", "0"),
		"a fragment":  {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/#a"},
		"a full URL":  {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "https://a/"},
		"a space":     {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/a b"},
		"a line feed": with("x", "a\nb"),
		"no host":     {":method", "GET", ":scheme", "https", ":path", "/"},
		"a method":    {":method", "G T", ":scheme", "https", ":authority", "a", ":path", "/"},
		"a huge head": with("x", long(70<<10)),
	} {
		synctest.Test(t, func(t *testing.T) {
			v := visit(t, Config{Handle: echo})
			// In pieces, as it may be longer than a frame.
			block := v.head(fields...)
			first := block[:min(len(block), 16<<10)]
			check(t, v.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndHeaders: len(first) == len(block), EndStream: true}))
			for block = block[len(first):]; len(block) > 0; {
				piece := block[:min(len(block), 16<<10)]
				block = block[len(piece):]
				check(t, v.WriteContinuation(1, len(block) == 0, piece))
			}
			if status, _, last := v.answer(1); status != "400" {
				t.Errorf("%s: %s, %v", what, status, last)
			}
			v.request(3, true) // and the compression is still in step
			if status, _, last := v.answer(3); status != "200" {
				t.Errorf("after %s: %s, %v", what, status, last)
			}
		})
	}
}

// TestLengths: a body that is not as long as was said is none.
func TestLengths(t *testing.T) {
	for what, send := range map[string]func(*visitor) error{
		"longer":  func(v *visitor) error { return v.WriteData(1, false, []byte("1234")) },
		"shorter": func(v *visitor) error { return v.WriteData(1, true, []byte("12")) },
		"shorter, with trailers": func(v *visitor) error {
			return v.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: v.head("a", "b"), EndHeaders: true, EndStream: true})
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			errs := make(chan error, 1)
			v := visit(t, Config{Handle: func(s *Stream) {
				_, err := io.Copy(io.Discard, s)
				errs <- err
			}})
			v.request(1, false, "content-length", "3")
			check(t, send(v))
			if err := <-errs; err == nil {
				t.Errorf("%s: an orderly end", what)
			}
			if _, _, last := v.answer(1); last.code != http2.ErrCodeProtocol {
				t.Errorf("%s: %v", what, last)
			}
		})
	}
}

// TestOneWrite: what is ready while something is on its way leaves in one write.
func TestOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		v, p := visitPipe(t, Config{Handle: func(s *Stream) {
			_ = s.WriteHead(200, []http1.Field{{Name: []byte("a"), Value: []byte("b")}}, false)
			_ = s.Write([]byte("hello"), true)
		}}, hold)
		for id := uint32(1); id < 40; id += 2 {
			v.request(id, true)
		}
		synctest.Wait()
		close(hold)
		for id := uint32(1); id < 40; id += 2 {
			if status, body, last := v.answer(id); status != "200" || body != "hello" || !last.end {
				t.Errorf("stream %d: %s %q", id, status, body)
			}
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.writes) != 2 { // the settings, and all else
			t.Errorf("%d writes", len(p.writes))
		}
	})
}

// TestWindows: an answer goes as far as the visitor lets it, of the stream and of the
// connection, and no further byte is taken of who sends it; other streams go on.
func TestWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := make(chan int, 100)
		v := visit(t, Config{Handle: func(s *Stream) {
			_ = s.WriteHead(200, nil, false)
			for range 10 {
				if s.Write([]byte(long(30_000)), false) != nil {
					return
				}
				sent <- 30_000
			}
			_ = s.Write(nil, true)
		}}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 40_000})
		v.request(1, true)
		_, one, _ := v.answer(1)
		v.request(3, true)
		_, three, _ := v.answer(3)
		whole := len(one)/30_000 + len(three)/30_000 // one or two, as they take turns
		if len(one) > 40_000 || len(three) > 40_000 || len(one)+len(three) != 65_535 || len(sent) != whole {
			t.Errorf("%d and %d bytes came, %d pieces were taken", len(one), len(three), len(sent))
		}
		check(t, v.WriteWindowUpdate(0, 1<<20))
		_, one, _ = v.answer(1)
		_, three, _ = v.answer(3)
		if len(one) != 40_000 || len(three) != 40_000 {
			t.Errorf("%d and %d bytes came with a window of the connection", len(one), len(three))
		}
		check(t, v.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 50_000}))
		if _, one, _ = v.answer(1); len(one) != 50_000 {
			t.Errorf("%d bytes came with a larger initial window", len(one))
		}
		check(t, v.WriteWindowUpdate(1, 1<<20))
		if _, one, last := v.answer(1); len(one) != 300_000 || !last.end {
			t.Errorf("%d bytes came in all", len(one))
		}
		check(t, v.WriteRSTStream(3, http2.ErrCodeCancel))
		synctest.Wait()
		v.conn.mu.Lock()
		defer v.conn.mu.Unlock()
		if v.conn.mu.running != 0 || len(v.conn.mu.streams) != 0 || len(v.conn.mu.ready) != 0 {
			t.Errorf("left: %d handlers, %d streams", v.conn.mu.running, len(v.conn.mu.streams))
		}
	})
}

// TestBackPressure: no more of a body comes than was let, all of it in the end.
func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read, sum := make(chan struct{}), make(chan int, 1)
		v := visit(t, Config{Handle: func(s *Stream) {
			<-read
			n, _ := io.Copy(io.Discard, s)
			sum <- int(n)
		}})
		v.request(1, false)
		const total = 4 << 20
		granted := func(id uint32) (by int) {
			for _, g := range v.all(id) {
				by += int(g.by)
			}
			return by
		}
		for sent := 0; sent < total; {
			room := min(firstWindow+granted(0), streamWindow+granted(1)) - sent
			if room < frameSize {
				if sent != connWindow {
					t.Fatalf("no room after %d bytes", sent)
				}
				close(read)
				continue
			}
			check(t, v.WriteData(1, false, make([]byte, frameSize)))
			sent += frameSize
		}
		check(t, v.WriteData(1, true, nil))
		if n := <-sum; n != total {
			t.Errorf("%d bytes were read", n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		v := visit(t, Config{Handle: func(s *Stream) { <-s.Context().Done() }})
		v.request(1, false)
		for range connWindow/frameSize + 1 {
			if v.WriteData(1, false, make([]byte, frameSize)) != nil {
				break
			}
		}
		if code, _ := v.goneAway(); code != http2.ErrCodeFlowControl {
			t.Errorf("who sends more than he may gets %v", code)
		}
	})
}

// TestEarlyAnswer: an answer ahead of the request's end is whole, and ends it.
func TestEarlyAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := visit(t, Config{Handle: func(s *Stream) { _ = s.WriteHead(413, nil, true) }})
		v.request(1, false)
		if frames := v.all(1); len(frames) != 1 {
			t.Errorf("got %v", frames)
		}
		check(t, v.WriteData(1, false, []byte("on its way")))
		synctest.Wait()
		v.conn.Look(1)
		v.conn.Look(time.Second)
		frames := v.all(1)
		if len(frames) != 2 || frames[0].fields[":status"] != "413" || !frames[0].end || frames[1].code != http2.ErrCodeNo {
			t.Errorf("got %v", frames)
		}
		check(t, v.WriteData(1, true, []byte("on its way")))
		v.request(3, false)
		check(t, v.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: v.head("a", "b"), EndHeaders: true, EndStream: true}))
		if code, gone := v.goneAway(); gone {
			t.Errorf("what was on its way ended the connection: %v", code)
		}
	})
}

// TestTimes: who is slow is let go, who is not stays.
func TestTimes(t *testing.T) {
	cfg := Config{Handle: func(s *Stream) {
		_, err := io.Copy(io.Discard, s)
		if err != nil {
			_ = s.WriteHead(408, nil, true)
			return
		}
		_ = s.WriteHead(200, nil, false)
		if err := s.Write([]byte(long(1<<20)), true); err != os.ErrDeadlineExceeded { //nolint:errorlint // as documented
			t.Errorf("writing ended with %v", err)
		}
	}}
	synctest.Test(t, func(t *testing.T) {
		v := visit(t, cfg)
		v.conn.Look(1)
		v.conn.Look(time.Minute)
		_, gone := v.goneAway()
		isTrue(t, "an idle connection ended early", !gone)
		v.conn.Look(3 * time.Minute)
		code, gone := v.goneAway()
		isTrue(t, "an idle connection stays", gone && code == http2.ErrCodeNo)
	})
	synctest.Test(t, func(t *testing.T) {
		v := visit(t, cfg)
		check(t, v.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: v.head(":method", "GET")}))
		synctest.Wait()
		v.conn.Look(time.Second)
		check(t, v.WriteContinuation(1, false, v.head(":path", "/")))
		synctest.Wait()
		v.conn.Look(12 * time.Second)
		code, gone := v.goneAway()
		isTrue(t, "a slow head stays", gone && code == http2.ErrCodeEnhanceYourCalm)
	})
	synctest.Test(t, func(t *testing.T) {
		v := visit(t, cfg)
		v.request(1, false)
		synctest.Wait()
		v.conn.Look(1)
		check(t, v.WriteData(1, false, []byte("x")))
		synctest.Wait()
		v.conn.Look(2 * time.Minute)
		check(t, v.WritePing(false, [8]byte{}))
		synctest.Wait()
		v.conn.Look(3 * time.Minute)
		if status, _, _ := v.answer(1); status != "" {
			t.Errorf("a body that goes on is answered with %s", status)
		}
		check(t, v.WritePing(false, [8]byte{}))
		synctest.Wait()
		v.conn.Look(5 * time.Minute)
		if status, _, _ := v.answer(1); status != "408" {
			t.Errorf("a body that stops is answered with %q", status)
		}
		v.request(3, true)
		synctest.Wait()
		v.conn.Look(6 * time.Minute)
		check(t, v.WritePing(false, [8]byte{}))
		synctest.Wait()
		v.conn.Look(9 * time.Minute)
		if _, _, last := v.answer(3); last.kind != http2.FrameRSTStream {
			t.Errorf("an answer that is not taken ends with %v", last)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		v := visit(t, Config{Handle: func(s *Stream) { <-s.Context().Done() }})
		v.request(1, true)
		synctest.Wait()
		v.conn.Look(1)
		v.conn.Look(time.Minute + 1)
		pinged := false
		for _, g := range v.all(0) {
			pinged = pinged || (g.kind == http2.FramePing && !g.ack)
		}
		isTrue(t, "nobody asked for life", pinged)
		v.conn.Look(time.Minute + 16*time.Second)
		if err := <-v.ended; err != errMute { //nolint:errorlint // the very same
			t.Errorf("a visitor who is gone: %v", err)
		}
		v.ended <- errNone
	})
	synctest.Test(t, func(t *testing.T) {
		v, _ := visitPipe(t, Config{Handle: echo}, make(chan struct{}))
		v.conn.Look(1)
		v.conn.Look(3 * time.Minute)
		if err := <-v.ended; err != errStuck && err != errIdle { //nolint:errorlint // the very same
			t.Errorf("a visitor who reads nothing: %v", err)
		}
		v.ended <- errNone
		close(v.hold)
	})
}

// TestTrickle: who takes a byte now and then takes no part in the answer, and workers go
// when there is nothing for them.
func TestTrickle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		errs := make(chan error, 1)
		v := visit(t, Config{Handle: func(s *Stream) {
			_ = s.WriteHead(200, nil, false)
			errs <- s.Write([]byte(long(100_000)), true)
		}}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		v.request(1, true)
		for at := time.Second; len(errs) == 0 && at < 10*time.Minute; at += 10 * time.Second {
			check(t, v.WriteWindowUpdate(1, 1))
			synctest.Wait()
			v.conn.Look(at)
			synctest.Wait()
		}
		if len(errs) == 0 {
			t.Fatal("it goes on for ever")
		}
		if err := <-errs; err != os.ErrDeadlineExceeded { //nolint:errorlint // as documented
			t.Errorf("got %v", err)
		}
		<-time.After(time.Second)
		synctest.Wait()
		stacks := make([]byte, 1<<20)
		if n := bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("crew.(*Crew).work(")); n != 0 {
			t.Errorf("%d workers are left", n)
		}
	})
}

// TestShutdown: a drain is announced, who comes before the last word is served, and the
// connection ends with the last stream.
func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		v := visit(t, Config{Handle: func(s *Stream) {
			<-release
			_ = s.WriteHead(200, nil, true)
		}})
		v.request(1, true)
		synctest.Wait()
		v.conn.Shutdown()
		v.conn.Shutdown()
		synctest.Wait()
		v.request(3, true)
		synctest.Wait()
		v.conn.Look(1)
		v.conn.Look(2 * time.Second)
		v.request(5, true)
		if _, _, last := v.answer(5); last.code != http2.ErrCodeRefusedStream {
			t.Errorf("a stream after the last one: %v", last)
		}
		close(release)
		for _, id := range []uint32{1, 3} {
			if status, _, last := v.answer(id); status != "200" || !last.end {
				t.Errorf("stream %d: %s", id, status)
			}
		}
		var lasts []uint32
		for _, g := range v.all(0) {
			if g.kind == http2.FrameGoAway {
				lasts = append(lasts, g.last)
			}
		}
		if len(lasts) != 2 || lasts[0] != maxWindow || lasts[1] != 3 {
			t.Errorf("announced: %v", lasts)
		}
		_ = v.net.Close()
		if err := <-v.ended; err != errDone { //nolint:errorlint // the very same
			t.Errorf("the connection ended with %v", err)
		}
		v.ended <- errNone
	})
}
