package inspect

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net"
	"strings"
	"testing"
)

// conversation is a tap that a test says bytes through.
type conversation struct {
	in *Inspector
	t  *tap
}

func newConversation(cfg Config) *conversation {
	in := New(cfg)
	c, _ := net.Pipe()
	return &conversation{in: in, t: in.watch("web", "198.51.100.7:1234", c, nil)}
}

// say notes bytes in a direction and lets the worker come by.
func (c *conversation) say(dir direction, text string) {
	c.t.saw(dir, []byte(text))
	c.in.work()
}

func (c *conversation) end() {
	c.t.end()
	c.in.work()
}

// all returns what was captured, the oldest first.
func (c *conversation) all() []Exchange {
	list, _ := c.in.List(Filter{}, 0, 1000)
	for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
		list[i], list[j] = list[j], list[i]
	}
	return list
}

// short says of an exchange what most tests want to know.
func short(x *Exchange) string {
	return fmt.Sprintf("%s %s %d %s %q %q", x.Method, x.Target, x.Status, x.State, x.Request.Body, x.Response.Body)
}

const (
	get = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
	ok  = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
)

func TestHTTP1(t *testing.T) {
	chunked := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n4;ext=1\r\nwiki\r\n5\r\npedia\r\n0\r\nX: y\r\n\r\n"
	for name, c := range map[string]struct {
		up, down string
		want     []string
	}{
		"one":                          {get, ok, []string{`GET /a 200 done "" "ok"`}},
		"two":                          {get + get, ok + ok, []string{`GET /a 200 done "" "ok"`, `GET /a 200 done "" "ok"`}},
		"body":                         {"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc" + get, ok + ok, []string{`POST / 200 done "abc" "ok"`, `GET /a 200 done "" "ok"`}},
		"chunked":                      {get + get, chunked + ok, []string{`GET /a 200 done "" "wikipedia"`, `GET /a 200 done "" "ok"`}},
		"head":                         {"HEAD / HTTP/1.1\r\n\r\n" + get, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" + ok, []string{`HEAD / 200 done "" ""`, `GET /a 200 done "" "ok"`}},
		"304":                          {get + get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n" + ok, []string{`GET /a 304 done "" ""`, `GET /a 200 done "" "ok"`}},
		"1xx":                          {get, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ok, []string{`GET /a 200 done "" "ok"`}},
		"to close":                     {get, "HTTP/1.0 200 OK\r\n\r\nall of it", []string{`GET /a 200 done "" "all of it"`}},
		"unfinished":                   {get, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", []string{`GET /a 200 failed "" "ab"`}},
		"unanswered":                   {get, "", []string{`GET /a 0 failed "" ""`}},
		"nonsense":                     {"\x16\x03\x01 hello", "", nil},
		"bad chunk":                    {get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", []string{`GET /a 200 failed "" ""`}},
		"empty lines before a request": {get + "\r\n" + get, ok + ok, []string{`GET /a 200 done "" "ok"`, `GET /a 200 done "" "ok"`}},
	} {
		for _, step := range []int{1, 2, 3, 7, 1 << 20} {
			t.Run(fmt.Sprintf("%s by %d", name, step), func(t *testing.T) {
				cv := newConversation(Config{})
				for _, d := range []struct {
					dir  direction
					text string
				}{{toUpstream, c.up}, {toVisitor, c.down}} {
					for text := d.text; text != ""; {
						n := min(step, len(text))
						cv.say(d.dir, text[:n])
						text = text[n:]
					}
				}
				cv.end()
				all := cv.all()
				var got []string
				for i := range all {
					got = append(got, short(&all[i]))
				}
				if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
					t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
				}
			})
		}
	}
}

// TestFields: what is said of an exchange beside its bodies.
func TestFields(t *testing.T) {
	cv := newConversation(Config{})
	cv.say(toUpstream, "GET /a?token=abc HTTP/1.1\r\nHost: app.example.com\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nAuthorization: Bearer abc\r\n\r\n")
	cv.say(toVisitor, "HTTP/1.1 201 Created\r\nContent-Type: text/plain\r\nSet-Cookie: s=1; Path=/\r\nContent-Length: 0\r\n\r\n")
	x := cv.all()[0]
	d := x.View(false)
	if d.Visitor != "203.0.113.9" || d.Endpoint != "web" || d.URL != "https://app.example.com/a?token="+Hidden || d.Path != "/a?token="+Hidden ||
		d.Request.Line != "GET /a?token="+Hidden+" HTTP/1.1" || d.ContentType != "text/plain" || !d.Redacted {
		t.Errorf("%+v", d)
	}
	if got := d.Request.Headers[3]; got != [2]string{"Authorization", "Bearer " + Hidden} {
		t.Errorf("%v", got)
	}
	if got := d.Response.Headers[1]; got != [2]string{"Set-Cookie", "s=" + Hidden + "; Path=/"} {
		t.Errorf("%v", got)
	}
	if d.Timing.RequestEnd == nil || d.Timing.FirstByte == nil || d.Timing.End == nil {
		t.Errorf("%+v", d.Timing)
	}
	if d := x.View(true); d.URL != "https://app.example.com/a?token=abc" || d.Request.Headers[3][1] != "Bearer abc" || d.Redacted {
		t.Errorf("%+v", d)
	}
}

// TestLargeBodies: a body is kept up to the limit, the rest is counted without being
// copied, and the next exchange is found behind it.
func TestLargeBodies(t *testing.T) {
	const size = 1 << 20
	body := strings.Repeat("x", size)
	chunks := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", size, body)
	for name, answer := range map[string]string{
		"length":  fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", size, body),
		"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks,
	} {
		t.Run(name, func(t *testing.T) {
			cv := newConversation(Config{Body: 1000})
			cv.say(toUpstream, get)
			copied := 0
			for text := answer; text != ""; {
				n := min(10000, len(text))
				cv.t.saw(toVisitor, []byte(text[:n]))
				copied += len(cv.t.mu.batch.data)
				cv.in.work()
				text = text[n:]
			}
			cv.say(toUpstream, get)
			cv.say(toVisitor, ok)
			all := cv.all()
			if len(all) != 2 || short(&all[1]) != `GET /a 200 done "" "ok"` {
				t.Fatalf("%d exchanges", len(all))
			}
			if r := all[0].Response; len(r.Body) != 1000 || r.Size != size || !r.Cut || all[0].State != Done {
				t.Errorf("%d of %d kept, cut %v, %s", len(r.Body), r.Size, r.Cut, all[0].State)
			}
			if copied > 30000 {
				t.Errorf("%d bytes were copied", copied)
			}
		})
	}
}

// TestBehind: what there is no room for is a gap, which is marked, and capture goes on
// with the next request.
func TestBehind(t *testing.T) {
	cv := newConversation(Config{})
	cv.say(toUpstream, get)
	cv.t.saw(toVisitor, []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"))
	for range 2 * maxPending / 65536 {
		cv.t.saw(toVisitor, bytes.Repeat([]byte("x"), 65536))
	}
	cv.in.work()
	cv.say(toVisitor, "rest of it")
	cv.say(toUpstream, "GET /b HTTP/1.1\r\n\r\n")
	cv.say(toVisitor, ok)
	all := cv.all()
	if len(all) != 2 || !all[0].Gap || all[0].State != Failed || short(&all[1]) != `GET /b 200 done "" "ok"` || all[1].Gap {
		t.Fatalf("%d exchanges: %+v", len(all), all)
	}
	if s := cv.in.Stats(); s.Missed == 0 || cv.in.pending.Load() != 0 {
		t.Errorf("%+v, %d pending", s, cv.in.pending.Load())
	}
}

// TestMemory: the oldest make room, and ids stay what they were.
func TestMemory(t *testing.T) {
	cv := newConversation(Config{Memory: 100 << 10})
	for range 500 {
		cv.say(toUpstream, get)
		cv.say(toVisitor, ok)
	}
	s := cv.in.Stats()
	all := cv.all()
	if s.Bytes > 100<<10 || s.Exchanges != len(all) || len(all) < 50 || s.Dropped != uint64(500-len(all)) {
		t.Errorf("%+v, %d listed", s, len(all))
	}
	for _, x := range all {
		if found, ok := cv.in.Find(x.ID); !ok || found.ID != x.ID {
			t.Errorf("%d: %v", x.ID, ok)
		}
	}
	if _, ok := cv.in.Find(1); ok {
		t.Error("the oldest is still there")
	}
	cv.in.Clear()
	if s := cv.in.Stats(); s.Bytes != 0 || s.Exchanges != 0 {
		t.Errorf("%+v", s)
	}
	cv.say(toUpstream, get)
	if all := cv.all(); len(all) != 1 || all[0].ID != 501 {
		t.Errorf("%+v", all)
	}
}

func TestEvents(t *testing.T) {
	cv := newConversation(Config{})
	cv.say(toUpstream, get)
	cv.say(toVisitor, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
	stream := ": hello\n\nid: 7\nevent: price\ndata: {\"a\":1}\ndata: two\r\n\r\ndata:x\r\rdata: unfinished"
	for _, c := range stream {
		cv.say(toVisitor, fmt.Sprintf("1\r\n%c\r\n", c))
	}
	x := cv.all()[0]
	var got []string
	for _, f := range x.Frames {
		got = append(got, f.Event+"|"+f.ID+"|"+string(f.Data))
	}
	if want := "price|7|{\"a\":1}\ntwo message|7|x"; strings.Join(got, " ") != want || x.Kind != KindEvents || x.State != Open {
		t.Errorf("%q, want %q; %s %s", got, want, x.Kind, x.State)
	}
}

func TestGRPC(t *testing.T) {
	cv := newConversation(Config{})
	frames := "\x00\x00\x00\x00\x02hi\x00\x00\x00\x00\x00\x01\x00\x00\x00\x03zip"
	cv.say(toUpstream, fmt.Sprintf("POST /s/M HTTP/1.1\r\nContent-Type: application/grpc\r\nContent-Length: %d\r\n\r\n", len(frames)))
	for _, c := range []byte(frames) {
		cv.say(toUpstream, string(c))
	}
	x := cv.all()[0]
	if x.Kind != KindGRPC || len(x.Frames) != 3 || string(x.Frames[0].Data) != "hi" || x.Frames[1].Size != 0 || !x.Frames[2].Compressed {
		t.Errorf("%s %+v", x.Kind, x.Frames)
	}
}

func TestDecode(t *testing.T) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(make([]byte, 64<<20))
	_ = w.Close()
	out, err := decode(b.Bytes(), "gzip")
	if len(out) != maxDecoded || err == nil {
		t.Errorf("a bomb became %d bytes, %v", len(out), err)
	}
	if _, err := decode(b.Bytes(), strings.Repeat("gzip,", 4)); err == nil {
		t.Error("four codings were undone")
	}
	for _, coding := range []string{"br", "zstd", "deflate", "gzip", "rot13"} {
		if out, err := decode([]byte("not encoded at all"), coding); err == nil {
			t.Errorf("%s: %q", coding, out)
		}
	}
}
