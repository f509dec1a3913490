package files

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// serving is a directory at work.
type serving struct {
	*Server
	t      *testing.T
	dir    string
	client *http.Client
}

func serve(t *testing.T, set func(*Server)) *serving {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	outer := t.TempDir()
	dir := filepath.Join(outer, "dir")
	for name, text := range map[string]string{
		"secret": "secret", "dir/a.txt": "0123456789", "dir/sub/b c?.txt": "b", "dir/.env": "KEY", "dir/.well-known/x": "known",
		"dir/site/index.html": "<h1>site</h1>", "dir/sub/.git/config": "g",
	} {
		path := filepath.Join(outer, name)
		check(t, os.MkdirAll(filepath.Dir(path), 0o755))
		check(t, os.WriteFile(path, []byte(text), 0o644))
	}
	check(t, os.Symlink("../secret", filepath.Join(dir, "out")))
	check(t, os.Symlink(outer, filepath.Join(dir, "up")))
	check(t, os.Symlink("a.txt", filepath.Join(dir, "in")))
	check(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644))
	s, err := New(dir)
	check(t, err)
	if set != nil {
		set(s)
	}
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return s.Dial(ctx) }}
	t.Cleanup(tr.CloseIdleConnections)
	return &serving{s, t, dir, &http.Client{Transport: tr, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *serving) do(method, path string, body io.Reader, headers ...string) (*http.Response, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://files"+path, body)
	check(s.t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := s.client.Do(req)
	check(s.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	check(s.t, err)
	return resp, string(b)
}

func TestWhatIsServed(t *testing.T) {
	s := serve(t, nil)
	for path, want := range map[string]string{
		"/a.txt": "0123456789", "/in": "0123456789", "/sub/b%20c%3F.txt": "b", "/sub/../a.txt": "0123456789", "//a.txt": "0123456789",
		"/site/": "<h1>site</h1>", "/.well-known/x": "known",
	} {
		if resp, got := s.do("GET", path, nil); resp.StatusCode != 200 || got != want || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %s %q", path, resp.Status, got)
		}
	}
	for _, path := range []string{
		"/none", "/out", "/up/secret", "/up/", "/../secret", "/%2e%2e/secret", "/..%2fsecret", "/..%5csecret", "/.env", "/sub/.git/config", "/pipe", "/a.txt%00", "/sub/.git/",
	} {
		if resp, got := s.do("GET", path, nil); resp.StatusCode != 404 || strings.Contains(got, "secret") {
			t.Errorf("%s: %s %q", path, resp.Status, got)
		}
	}
	for path, want := range map[string]string{"/sub": "./sub/", "/sub?x=1": "./sub/?x=1", "/a.txt/": "../a.txt", "//example.com/..//sub": "./sub/"} {
		if resp, _ := s.do("GET", path, nil); resp.StatusCode != 301 || resp.Header.Get("Location") != want {
			t.Errorf("%s: %s to %q, want %q", path, resp.Status, resp.Header.Get("Location"), want)
		}
	}
	if resp, _ := s.do("DELETE", "/a.txt", nil); resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("DELETE: %s, Allow %q", resp.Status, resp.Header.Get("Allow"))
	}
	if resp, _ := s.do("PUT", "/new", strings.NewReader("x")); resp.StatusCode != 405 {
		t.Errorf("an upload that was not asked for: %s", resp.Status)
	}
}

func TestRangesAndConditions(t *testing.T) {
	s := serve(t, nil)
	resp, _ := s.do("HEAD", "/a.txt", nil)
	tag, date := resp.Header.Get("ETag"), resp.Header.Get("Last-Modified")
	if tag == "" || date == "" || resp.ContentLength != 10 {
		t.Fatalf("headers %v", resp.Header)
	}
	for want, h := range map[int][]string{
		304: {"If-None-Match", tag}, 412: {"If-Match", `"other"`}, 206: {"Range", "bytes=2-3"}, 416: {"Range", "bytes=10-"}, 200: {"Range", "bytes=0-1", "If-Range", `"other"`},
	} {
		if resp, got := s.do("GET", "/a.txt", nil, h...); resp.StatusCode != want || want == 206 && got != "23" {
			t.Errorf("%v: %s %q, want %d", h, resp.Status, got, want)
		}
	}
	if resp, _ := s.do("GET", "/a.txt", nil, "If-Modified-Since", date); resp.StatusCode != 304 {
		t.Errorf("If-Modified-Since: %s", resp.Status)
	}
	check(t, os.WriteFile(filepath.Join(s.dir, "a.txt"), []byte("changed"), 0o644))
	if resp, got := s.do("GET", "/a.txt", nil, "If-None-Match", tag); resp.StatusCode != 200 || got != "changed" {
		t.Errorf("after a change: %s %q", resp.Status, got)
	}
}

func TestListing(t *testing.T) {
	s := serve(t, nil)
	names := func() (names []string) {
		resp, body := s.do("GET", "/", nil, "Accept", "application/json")
		var list []Entry
		if err := json.Unmarshal([]byte(body), &list); err != nil || resp.Header.Get("Content-Type") != "application/json" {
			t.Fatalf("%s: %v", body, err)
		}
		for _, e := range list {
			names = append(names, e.Name)
		}
		return names
	}
	if got := strings.Join(names(), " "); got != ".well-known site sub a.txt in" {
		t.Errorf("listed: %s", got)
	}
	s.Hidden = true
	if got := strings.Join(names(), " "); got != ".well-known site sub .env a.txt in" {
		t.Errorf("listed with what is hidden: %s", got)
	}
	if _, got := s.do("GET", "/.env", nil); got != "KEY" {
		t.Errorf("a hidden file: %q", got)
	}
	_, body := s.do("GET", "/sub/", nil)
	if !strings.Contains(body, `href="./b%20c%3F.txt"`) || !strings.Contains(body, `href="../"`) || !strings.Contains(body, "color-scheme") || strings.Contains(body, "<form") {
		t.Errorf("the page is\n%s", body)
	}
	check(t, os.WriteFile(filepath.Join(s.dir, `<script>alert("x")&`), nil, 0o644))
	if _, body := s.do("GET", "/", nil); strings.Contains(body, "<script") {
		t.Errorf("a file's name is not quoted:\n%s", body)
	}
}

func TestUpload(t *testing.T) {
	s := serve(t, func(s *Server) { s.Upload = true })
	if resp, _ := s.do("PUT", "/sub/new.txt", strings.NewReader("new")); resp.StatusCode != 201 {
		t.Errorf("PUT: %s", resp.Status)
	}
	if _, got := s.do("GET", "/sub/new.txt", nil); got != "new" {
		t.Errorf("it holds %q", got)
	}
	for path, want := range map[string]int{
		"/sub/new.txt": 409, "/sub": 409, "/": 409, "/no/dir": 404, "/up/escaped": 404, "/out": 409, "/.hidden": 404, "/../escaped": 201,
	} {
		if resp, _ := s.do("PUT", path, strings.NewReader("x")); resp.StatusCode != want {
			t.Errorf("PUT %s: %s, want %d", path, resp.Status, want)
		}
	}
	if _, err := os.Stat(filepath.Join(s.dir, "..", "escaped")); err == nil {
		t.Error("an upload left the directory")
	}
	var form bytes.Buffer
	m := multipart.NewWriter(&form)
	for _, name := range []string{"one.bin", "../../two.bin"} {
		part, err := m.CreateFormFile("file", name)
		check(t, err)
		_, err = io.WriteString(part, name)
		check(t, err)
	}
	check(t, m.Close())
	body := form.Bytes()
	if resp, _ := s.do("POST", "/sub/", bytes.NewReader(body), "Content-Type", m.FormDataContentType(), "Sec-Fetch-Site", "cross-site"); resp.StatusCode != 403 {
		t.Errorf("a form of another site: %s", resp.Status)
	}
	if resp, _ := s.do("POST", "/sub/", bytes.NewReader(body), "Content-Type", m.FormDataContentType()); resp.StatusCode != 303 {
		t.Errorf("POST: %s", resp.Status)
	}
	if resp, _ := s.do("POST", "/sub/", bytes.NewReader(body), "Content-Type", m.FormDataContentType()); resp.StatusCode != 409 {
		t.Errorf("POST again: %s", resp.Status)
	}
	left, err := filepath.Glob(filepath.Join(s.dir, "sub", "*"))
	check(t, err)
	hidden, err := filepath.Glob(filepath.Join(s.dir, "*", ".upload-*"))
	check(t, err)
	if len(left) != 5 || len(hidden) != 0 {
		t.Errorf("left: %v, %v", left, hidden)
	}
	if _, body := s.do("GET", "/sub/", nil); !strings.Contains(body, "<form") {
		t.Error("the page has no form")
	}
	// What is broken off leaves nothing.
	r, w := io.Pipe()
	go func() {
		_, _ = io.WriteString(w, "half")
		_ = w.CloseWithError(io.ErrUnexpectedEOF)
	}()
	req, err := http.NewRequestWithContext(t.Context(), "PUT", "http://files/half", r)
	check(t, err)
	if resp, err := s.client.Do(req); err == nil {
		_ = resp.Body.Close()
	}
	if _, err := os.Stat(filepath.Join(s.dir, "half")); err == nil {
		t.Error("half a file is there")
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 1_500_000: "1.5 MB", 1 << 50: "1125.9 TB"} {
		if got := size(n); got != want {
			t.Errorf("%d is %q", n, got)
		}
	}
}

// TestShown: no name on the page looks like another one.
func TestShown(t *testing.T) {
	for name, want := range map[string]string{
		"a b é 日本 שלום.txt": "a b é 日本 שלום.txt", "photo\u202Egpj.exe": "photo\uFFFDgpj.exe", "a\nb\x1b": "a\uFFFDb\uFFFD", "a\u2066b\u200f": "a\uFFFDb\uFFFD",
	} {
		if got := shown(name); got != want {
			t.Errorf("%q is shown as %q, want %q", name, got, want)
		}
	}
}
