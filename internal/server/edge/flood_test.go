package edge

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2Conn speaks HTTP/2 frame by frame.
type h2Conn struct {
	*tls.Conn
	*http2.Framer
	heads bytes.Buffer
	enc   *hpack.Encoder
	dec   *hpack.Decoder
}

func dialH2(t *testing.T, r *running, settings ...http2.Setting) *h2Conn {
	t.Helper()
	c := &h2Conn{Conn: tls.Client(dial(t, r.secure), &tls.Config{ServerName: "a.localhost", InsecureSkipVerify: true, NextProtos: []string{"h2"}})}
	_, err := io.WriteString(c.Conn, http2.ClientPreface)
	check(t, err)
	c.Framer = http2.NewFramer(c.Conn, c.Conn)
	c.enc, c.dec = hpack.NewEncoder(&c.heads), hpack.NewDecoder(4096, nil)
	check(t, c.WriteSettings(settings...))
	return c
}

// goAway reads to the end, and returns the code of GOAWAY before it.
func (c *h2Conn) goAway() (code http2.ErrCode) {
	for {
		f, err := c.ReadFrame()
		if err != nil {
			return code
		}
		if away, ok := f.(*http2.GoAwayFrame); ok {
			code = away.ErrCode
		}
	}
}

// head is the head block of a request.
func (c *h2Conn) head(method, path string) []byte {
	return c.block(":method", method, ":scheme", "https", ":authority", "a.localhost", ":path", path)
}

// block is a head block of names and values.
func (c *h2Conn) block(fields ...string) []byte {
	c.heads.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = c.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(c.heads.Bytes())
}

// status sends a request without a body, and returns the status of its answer, or "reset".
func (c *h2Conn) status(t *testing.T, id uint32, fields ...string) string {
	t.Helper()
	check(t, c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block(fields...), EndHeaders: true, EndStream: true}))
	for status := ""; ; {
		f, err := c.ReadFrame()
		check(t, err)
		if f.Header().StreamID != id {
			continue
		}
		switch f := f.(type) {
		case *http2.HeadersFrame:
			decoded, err := c.dec.DecodeFull(f.HeaderBlockFragment())
			check(t, err)
			status = decoded[0].Value
			if f.StreamEnded() {
				return status
			}
		case *http2.DataFrame:
			if f.StreamEnded() {
				return status
			}
		case *http2.RSTStreamFrame:
			return "reset"
		}
	}
}

// h2Client is a visitor who speaks HTTP/2 to a.localhost, wherever the URL leads.
func h2Client() *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{ServerName: "a.localhost", InsecureSkipVerify: true},
		ForceAttemptHTTP2: true,
	}}
}

// TestFloods: who floods a connection of HTTP/2 loses it, and meanwhile
// others are served.
func TestFloods(t *testing.T) {
	r := run(t, Config{BodyTimeout: time.Second, WriteTimeout: time.Second})
	hold := make(chan struct{})
	up := newRaw(t, func(u *rawUpstream, c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			switch req.URL.Path {
			case "/hold":
				select {
				case <-hold:
				case <-t.Context().Done():
				}
			case "/big":
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
				_, err := c.Write(make([]byte, 10_000_000))
				u.ends <- err
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				u.ends <- err
				return
			}
			_, _ = io.WriteString(c, ok)
		}
	})
	r.bind(t, "a.localhost", up.address)
	defer close(hold)
	others := h2Client()
	defer others.CloseIdleConnections()
	served := func() {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+r.secure, nil)
		check(t, err)
		req.Host = "a.localhost"
		res, err := others.Do(req)
		check(t, err)
		defer res.Body.Close()
		if b, err := io.ReadAll(res.Body); err != nil || string(b) != "ok" {
			t.Errorf("others got %s %q, %v", res.Status, b, err)
		}
	}
	hold2 := func(c *h2Conn, id uint32, end bool) error {
		return c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.head("GET", "/hold"), EndHeaders: true, EndStream: end})
	}
	for what, flood := range map[string]func(c *h2Conn, id uint32) error{
		"a head in pieces": func(c *h2Conn, id uint32) error {
			if id == 1 {
				return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.head("GET", "/")})
			}
			return c.WriteContinuation(1, false, []byte{0x82})
		},
		"a head without end": func(c *h2Conn, id uint32) error {
			if id == 1 {
				return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.head("GET", "/")})
			}
			return c.WriteContinuation(1, false, bytes.Repeat([]byte{0x82}, 16<<10))
		},
		"resets": func(c *h2Conn, id uint32) error {
			if err := hold2(c, id, true); err != nil {
				return err
			}
			return c.WriteRSTStream(id, http2.ErrCodeCancel)
		},
		"resets by the server": func(c *h2Conn, id uint32) error {
			if err := hold2(c, id, true); err != nil {
				return err
			}
			return c.WriteWindowUpdate(id, 1<<31-1)
		},
		"streams": func(c *h2Conn, id uint32) error { return hold2(c, id, true) },
		"pings":   func(c *h2Conn, _ uint32) error { return c.WritePing(false, [8]byte{}) },
		"settings": func(c *h2Conn, _ uint32) error {
			return c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
		},
		"windows": func(c *h2Conn, _ uint32) error { return c.WriteWindowUpdate(0, 1) },
		"priorities": func(c *h2Conn, id uint32) error {
			return c.WritePriority(id, http2.PriorityParam{StreamDep: id + 2})
		},
		"unknown frames": func(c *h2Conn, _ uint32) error { return c.WriteRawFrame(0x42, 0, 0, nil) },
		"empty bodies": func(c *h2Conn, id uint32) error {
			if id == 1 {
				return hold2(c, 1, false)
			}
			return c.WriteData(1, false, nil)
		},
	} {
		t.Run(what, func(t *testing.T) {
			c := dialH2(t, r)
			ended := make(chan error, 1)
			go func() {
				for id := uint32(1); ; id += 2 {
					if err := flood(c, id); err != nil {
						ended <- err
						return
					}
				}
			}()
			for range 5 {
				served()
			}
			if code := c.goAway(); code != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("the offender is told %v", code)
			}
			if err := <-ended; isTimeout(err) {
				t.Error("the offender was not let go")
			}
			_ = c.NetConn().Close()
		})
	}
	t.Run("pings whose answers nobody reads", func(t *testing.T) {
		c := dialH2(t, r)
		for {
			if err := c.WritePing(false, [8]byte{}); err != nil {
				if isTimeout(err) {
					t.Error("the offender was not let go")
				}
				break
			}
		}
		served()
		_ = c.NetConn().Close()
	})
	t.Run("a stream whose answer nobody takes", func(t *testing.T) {
		c := dialH2(t, r, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		check(t, c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.head("GET", "/big"), EndHeaders: true, EndStream: true}))
		if err := <-up.ends; err == nil {
			t.Error("the upstream could send all of it")
		}
		_ = c.NetConn().Close()
	})
	t.Run("a stream whose body stops", func(t *testing.T) {
		c := dialH2(t, r)
		check(t, c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.head("POST", "/"), EndHeaders: true}))
		check(t, c.WriteData(1, false, []byte("half")))
		if err := <-up.ends; err == nil {
			t.Error("the upstream saw an end")
		}
		_ = c.NetConn().Close()
	})
	eventually(t, "nobody to be served", func() bool { return r.edge.Visits() == 0 })
	served()
}

// TestHeadLimits2: a head of HTTP/2 that is too large costs its request, and no other.
func TestHeadLimits2(t *testing.T) {
	r := run(t, Config{})
	up := newRaw(t, answering(ok))
	r.bind(t, "a.localhost", up.address)
	client := h2Client()
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+r.secure, nil)
	check(t, err)
	req.Host = "a.localhost"
	req.Header.Set("X", strings.Repeat("a", 2*maxHeaderBytes))
	res, err := client.Do(req)
	if err == nil {
		_ = res.Body.Close()
		if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("got %s", res.Status)
		}
	}
	if got := up.all(); got != "" {
		t.Errorf("the upstream got %q", got)
	}
}
