package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestCompress: curl decodes what was compressed for it, by every version and coding, to
// upstreams of either; events are not held back.
func TestCompress(t *testing.T) {
	text := strings.Repeat("some text that repeats itself. ", 10_000)
	more := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/text", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, text)
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: one\n\n")
		w.(http.Flusher).Flush()
		<-more
	})
	up := httptest.NewUnstartedServer(mux)
	up.Config.Protocols = new(http.Protocols)
	up.Config.Protocols.SetHTTP1(true)
	up.Config.Protocols.SetUnencryptedHTTP2(true)
	up.Start()
	t.Cleanup(up.Close)
	n := startServer(t)
	_, plain := n.publish("http", up.Listener.Addr().String(), "--name", "plain")
	if got := n.curl("-D-", "-o/dev/null", "-H", "Accept-Encoding: gzip", plain+"/text"); strings.Contains(got, "gzip") {
		t.Errorf("compressed without being asked to: %s", got)
	}
	for _, upstream := range []string{"http://", "h2c://"} {
		_, url := n.publish("http", upstream+up.Listener.Addr().String(), "--name", upstream[:strings.Index(upstream, ":")], "--compress")
		for _, version := range []string{"--http1.1", "--http2"} {
			for _, coding := range []string{"gzip", "br", "zstd", "identity"} {
				got := n.curl(version, "--compressed", "-H", "Accept-Encoding: "+coding, "-w", "%header{content-encoding} %{size_download}", url+"/text")
				var used string
				var size int
				body, note := got[:min(len(got), len(text))], got[min(len(got), len(text)):]
				_, _ = fmt.Sscan(note, &used, &size)
				if body != text {
					t.Errorf("%s%s %s: %d bytes came back changed", upstream, version, coding, len(got))
				}
				if coding != "identity" && (used != coding || size > len(text)/10) {
					t.Errorf("%s%s %s: %s", upstream, version, coding, note)
				}
			}
		}
		for _, h2 := range []bool{false, true} {
			res, err := n.visitor(h2).Get(url + "/events") // net/http asks for gzip and decodes it
			check(t, err)
			b := make([]byte, len("data: one\n\n"))
			_, err = io.ReadFull(res.Body, b)
			check(t, err)
			if string(b) != "data: one\n\n" || !res.Uncompressed {
				t.Errorf("%s, HTTP/2 %v: %q, compressed: %v", upstream, h2, b, res.Uncompressed)
			}
			more <- struct{}{}
			_ = res.Body.Close()
		}
	}
}
