package inspect

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// FuzzTap lets anything pass in both directions: each piece is a byte that says where to
// and how long, and then so many bytes. Whatever it is, what is kept stays within bounds
// and can be shown in every form.
func FuzzTap(f *testing.F) {
	piece := func(dir direction, text string) string {
		out := ""
		for len(text) > 0 {
			n := min(len(text), 127)
			out += string([]byte{byte(dir)<<7 | byte(n)}) + text[:n] //nolint:gosec // 7 bits
			text = text[n:]
		}
		return out
	}
	ws := "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
	switched := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
	f.Add([]byte(piece(toUpstream, get) + piece(toVisitor, ok)))
	f.Add([]byte(piece(toUpstream, "POST /f?token=1 HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 12\r\n\r\npassword=a&b") +
		piece(toVisitor, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")))
	f.Add([]byte(piece(toUpstream, ws) + piece(toVisitor, switched) + piece(toUpstream, "\xc1\x87\x01\x02\x03\x04abcdefg\x88\x80\x00\x00\x00\x00") + piece(toVisitor, "\x81\x02hi\x88\x02\x03\xe8")))
	f.Add([]byte(piece(toUpstream, get) + piece(toVisitor, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nid: 1\ndata: a\ndata: b\n\n")))
	f.Add([]byte(piece(toUpstream, "POST /s HTTP/1.1\r\nContent-Type: application/grpc\r\nContent-Length: 7\r\n\r\n\x00\x00\x00\x00\x02hi")))
	f.Add([]byte(piece(toUpstream, preface+frame2Bytes(1, 5, 1, fields(":method", "GET", ":path", "/", ":authority", "h"))) +
		piece(toVisitor, frame2Bytes(1, 4, 1, fields(":status", "200"))+frame2Bytes(0, 9, 1, "\x02hi\x00\x00"))))
	f.Fuzz(func(t *testing.T, script []byte) {
		cv := newConversation(Config{Memory: 64 << 10, Body: 4 << 10})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for len(script) > 0 {
			dir, n := direction(script[0]>>7), int(script[0]&0x7f)
			script = script[1:]
			n = min(n, len(script))
			cv.t.saw(dir, script[:n])
			script = script[n:]
			if n%3 == 0 {
				cv.in.work()
			}
		}
		cv.end()
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 256<<20 {
			t.Errorf("%d bytes were allocated", grown)
		}
		if s := cv.in.Stats(); s.Bytes > 64<<10 || s.Bytes < 0 || cv.in.pending.Load() != 0 {
			t.Errorf("%+v, %d pending", s, cv.in.pending.Load())
		}
		for _, x := range cv.all() {
			for _, secrets := range []bool{false, true} {
				if _, err := json.Marshal(x.View(secrets)); err != nil {
					t.Error(err)
				}
				if line, err := x.Curl(secrets); err == nil && !strings.Contains(line, "curl ") {
					t.Error(line)
				}
			}
			if _, err := json.Marshal(Archive([]Exchange{x}, "test", false)); err != nil {
				t.Error(err)
			}
			_, _ = x.repeat(nil)
			if x.footprint < 0 {
				t.Errorf("%d takes %d bytes", x.ID, x.footprint)
			}
		}
	})
}

// frame2Bytes is a frame of HTTP/2.
func frame2Bytes(kind, flags byte, stream uint32, payload string) string {
	b := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags} //nolint:gosec // cut off on purpose
	return string(binary.BigEndian.AppendUint32(b, stream)) + payload
}

// fields is a header block.
func fields(pairs ...string) string {
	var b strings.Builder
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(pairs); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return b.String()
}

// FuzzRedact: what has a secret's name is never left, and what is hidden once stays as it
// is.
func FuzzRedact(f *testing.F) {
	for _, s := range []string{
		`{"password":"x","a":{"token":["b"]}}`, "a=1&password=2", "<a><password>x</password></a>", `{"pass\u0077ord":"x"}`, `"token":"cut`, "//u:p@h/?key=1#access_token=2",
	} {
		f.Add(s, "application/json")
		f.Add(s, "application/x-www-form-urlencoded")
		f.Add("--b\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\n"+s+"\r\n--b--", "multipart/form-data; boundary=b")
	}
	f.Fuzz(func(t *testing.T, body, contentType string) {
		once, _ := redactBody([]byte(body), contentType)
		twice, _ := redactBody(once, contentType)
		if string(once) != string(twice) {
			t.Errorf("%q, then %q", once, twice)
		}
		if got := RedactTarget("/?password=" + strings.Map(func(c rune) rune {
			if strings.ContainsRune("&#?;", c) {
				return 'x'
			}
			return c
		}, body)); got != "/?password="+Hidden && body != "" {
			t.Errorf("%q", got)
		}
		_ = fmt.Sprint(form([]byte(body), contentType))
	})
}
