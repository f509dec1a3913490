package http2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
)

// script is what a visitor sends, made by calls of a Framer.
func script(write func(f *http2.Framer, head func(fields ...string) []byte)) []byte {
	var b, block bytes.Buffer
	b.WriteString(http2.ClientPreface)
	enc := hpack.NewEncoder(&block)
	f := http2.NewFramer(&b, nil)
	f.AllowIllegalWrites = true
	_ = f.WriteSettings()
	write(f, func(fields ...string) []byte {
		block.Reset()
		for i := 0; i < len(fields); i += 2 {
			_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
		}
		return bytes.Clone(block.Bytes())
	})
	return b.Bytes()
}

var plain = []string{":method", "POST", ":scheme", "https", ":authority", "a", ":path", "/"}

// FuzzConn: whatever comes on a connection, it ends, says what can be read, and takes
// memory in proportion.
func FuzzConn(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(script(func(f *http2.Framer, head func(...string) []byte) {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head(plain...), EndHeaders: true})
		_ = f.WriteData(1, false, []byte("hello"))
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head("x", "y"), EndHeaders: true, EndStream: true})
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: head(plain...), EndStream: true})
		_ = f.WriteContinuation(3, true, nil)
		_ = f.WriteRSTStream(3, http2.ErrCodeCancel)
	}))
	f.Add(script(func(f *http2.Framer, head func(...string) []byte) {
		_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}, http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head(plain...), EndHeaders: true, PadLength: 3})
		_ = f.WriteDataPadded(1, true, []byte("hello"), make([]byte, 10))
		_ = f.WriteWindowUpdate(1, 3)
		_ = f.WriteWindowUpdate(0, 1<<31-1)
		_ = f.WritePing(false, [8]byte{1})
		_ = f.WritePriority(5, http2.PriorityParam{StreamDep: 5})
		_ = f.WriteGoAway(0, http2.ErrCodeNo, []byte("bye"))
		_ = f.WriteRawFrame(0x10, 0, 0, []byte("priority update"))
	}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		out := serveBytes(t, b, Config{Handle: echo})
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > uint64(4<<20+1<<10*len(b)) {
			t.Errorf("%d bytes for %d that came", n, len(b))
		}
		frames := http2.NewFramer(nil, bytes.NewReader(out))
		frames.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		for {
			f, err := frames.ReadFrame()
			if err != nil {
				if err != io.EOF && err != io.ErrUnexpectedEOF { //nolint:errorlint // the very same
					t.Fatalf("what was said can't be read: %v", err)
				}
				return
			}
			_ = f
		}
	})
}

// seenRequest is a request as a handler sees it, in one text.
func seenRequest(method, host, target string, fields []string, body []byte, trailer []string) string {
	slices.Sort(fields)
	slices.Sort(trailer)
	return fmt.Sprintf("%s %s %s\n%s\n%q\n%s", method, host, target, strings.Join(fields, "\n"), body, strings.Join(trailer, "\n"))
}

func ofNetHTTP(r *http.Request) string {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return "" // the visitor broke it off
	}
	flat := func(h http.Header) (fields []string) {
		for name, values := range h {
			for _, v := range values {
				if name == "Host" {
					continue // it is in r.Host
				}
				fields = append(fields, strings.ToLower(name)+": "+strings.Trim(v, " \t"))
			}
		}
		return fields
	}
	return seenRequest(r.Method, r.Host, r.RequestURI, flat(r.Header), body, flat(r.Trailer))
}

func ofStream(s *Stream) string {
	body, err := io.ReadAll(s)
	if err != nil {
		return ""
	}
	// What net/http takes out of the head, and trailers that were not announced.
	announced := ""
	flat := func(from []http1.Field, trailer bool) (fields []string) {
		for _, f := range from {
			name := strings.ToLower(string(f.Name))
			switch {
			case trailer:
				if !http1.HasToken([]byte(announced), name) {
					continue
				}
			case f.Kind == http1.Trailer:
				announced += "," + strings.ToLower(string(f.Value))
				continue
			case f.Kind == http1.Host, f.Kind == http1.Expect && s.Request.Expect:
				continue
			}
			fields = append(fields, name+": "+string(f.Value))
		}
		return fields
	}
	fields := flat(s.Request.Fields, false)
	return seenRequest(string(s.Request.Method), string(s.Request.Host), string(s.Request.Target), fields, body, flat(s.Trailer(), true))
}

// only is a listener for one connection.
type only struct {
	conns chan net.Conn
	once  sync.Once
}

func (l *only) Accept() (net.Conn, error) {
	c, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (l *only) Close() error {
	l.once.Do(func() { close(l.conns) })
	return nil
}

func (l *only) Addr() net.Addr { return &net.TCPAddr{} }

// both sends the same bytes to a connection of ours and to one of net/http's
// server, and returns what their handlers saw.
func both(t *testing.T, b []byte) (ours, theirs string, fault error) {
	t.Helper()
	seen := make(chan string, 1)
	ask := func(serve func(net.Conn)) {
		client, server := net.Pipe()
		_ = client.SetReadDeadline(time.Now().Add(20 * time.Second))
		done := make(chan struct{})
		go func() { defer close(done); serve(server) }()
		go func() { _, _ = client.Write(b) }()
		frames := http2.NewFramer(nil, client)
		for over := false; !over; {
			f, err := frames.ReadFrame()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("no answer to %q", b)
			}
			if err != nil {
				break
			}
			switch f := f.(type) {
			case *http2.HeadersFrame:
				over = f.StreamEnded()
			case *http2.DataFrame:
				over = f.StreamEnded()
			case *http2.RSTStreamFrame, *http2.GoAwayFrame:
				over = true
			}
		}
		_ = client.Close()
		<-done
	}
	ask(func(c net.Conn) {
		_ = New(c, Config{Handle: func(s *Stream) {
			if fault = s.Fault; fault == nil {
				ours = ofStream(s)
			}
			_ = s.WriteHead(204, nil, true)
		}}).Run(t.Context())
	})
	ask(func(c net.Conn) {
		server := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case seen <- ofNetHTTP(r):
			default:
			}
			w.WriteHeader(http.StatusNoContent)
		})}
		server.Protocols.SetUnencryptedHTTP2(true)
		l := &only{conns: make(chan net.Conn, 1)}
		left := make(chan struct{})
		server.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed {
				close(left)
			}
		}
		l.conns <- c
		go func() { <-left; _ = server.Close() }()
		_ = server.Serve(l)
	})
	select {
	case theirs = <-seen:
	default:
	}
	return ours, theirs, fault
}

// FuzzRequest: what a request is here, it is to net/http's server, unless it is
// refused here. fields are lines of names and values.
func FuzzRequest(f *testing.F) {
	const head = ":method GET\n:scheme https\n:authority a\n:path /a?b\n"
	f.Add(head, []byte(nil), "", false)
	f.Add(head+"cookie a=1\nx y\ncookie b=2\nuser-agent z", []byte("hello"), "x y", true)
	f.Add(":method POST\n:scheme https\n:path *\nhost a:80\ncontent-length 5\ntrailer x\nexpect 100-continue", []byte("hello"), "x y", true)
	f.Add(":method CONNECT\n:authority a:80", []byte("hello"), "", true)
	f.Add(head+"te trailers\nhost a\nx  \xff \nx-y", []byte(nil), "", true)
	f.Fuzz(func(t *testing.T, fields string, body []byte, trailer string, hasBody bool) {
		if len(body) > 10_000 || len(fields) > 10_000 || len(trailer) > 1_000 {
			return
		}
		lines := func(s string) (out []string) {
			for line := range strings.SplitSeq(s, "\n") {
				name, value, _ := strings.Cut(line, " ")
				if s != "" {
					out = append(out, name, value)
				}
			}
			return out
		}
		b := script(func(f *http2.Framer, head func(...string) []byte) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head(lines(fields)...), EndHeaders: true, EndStream: !hasBody})
			if !hasBody {
				return
			}
			_ = f.WriteData(1, trailer == "", body)
			if trailer != "" {
				_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head(lines(trailer)...), EndHeaders: true, EndStream: true})
			}
		})
		ours, theirs, fault := both(t, b)
		if ours != "" && ours != theirs && !strings.HasPrefix(ours, "CONNECT ") { // its target is empty here

			t.Errorf("%q %q %q:\nhere %s\nthere %s", fields, body, trailer, ours, theirs)
		}
		if ours == "" && fault == nil && theirs != "" && !strings.Contains(fields, "host") && !strings.Contains(fields, ":protocol") {
			t.Logf("refused here: %q", fields)
		}
	})
}
