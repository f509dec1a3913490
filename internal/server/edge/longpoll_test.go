package edge

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestSilence: events and long polls may be silent for as long as they like, in each
// version; no time-out is for them. Time passes here by visitors whom it is for.
func TestSilence(t *testing.T) {
	const short = 200 * time.Millisecond
	r := run(t, Config{HelloTimeout: short, HeaderTimeout: short, IdleTimeout: short, BodyTimeout: short, WriteTimeout: short})
	more := make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/events" {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "data: one\n\n")
			w.(http.Flusher).Flush()
		}
		<-more
		fmt.Fprint(w, "data: two\n\n")
	}))
	t.Cleanup(up.Close)
	r.bind(t, "app.localhost", up.Listener.Addr().String())
	client := func(h2 bool) *http.Client {
		tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: "app.localhost"}, Protocols: new(http.Protocols)}
		tr.Protocols.SetHTTP1(!h2)
		tr.Protocols.SetHTTP2(h2)
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr}
	}
	type outcome struct {
		what, got string
		err       error
	}
	outcomes := make(chan outcome)
	visits := 0
	for version, c := range map[string]*http.Client{"HTTP/1.1": client(false), "HTTP/2": client(true), "HTTP/3": visitor3(t, r.secure)} {
		for _, path := range []string{"/events", "/poll"} {
			visits++
			go func() {
				o := outcome{what: version + " " + path}
				defer func() { outcomes <- o }()
				url := "https://" + r.secure + path
				if version == "HTTP/3" {
					url = "https://app.localhost" + path
				}
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
				if err != nil {
					o.err = err
					return
				}
				req.Host = "app.localhost"
				res, err := c.Do(req)
				if err != nil {
					o.err = err
					return
				}
				defer res.Body.Close()
				b, err := io.ReadAll(res.Body)
				o.got, o.err = string(b), err
			}()
		}
	}
	for range 4 {
		_, _ = io.Copy(io.Discard, dial(t, r.plain)) // until IdleTimeout
	}
	close(more)
	for range visits {
		o := <-outcomes
		want := "data: two\n\n"
		if o.what[len(o.what)-len("/events"):] == "/events" {
			want = "data: one\n\n" + want
		}
		if o.err != nil || o.got != want {
			t.Errorf("%s: %q, %v", o.what, o.got, o.err)
		}
	}
}
