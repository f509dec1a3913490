package e2e

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/coder/websocket"
)

// browser is a Chromium that takes n's certificates for good.
func (n *node) browser(host string, flags ...chromedp.ExecAllocatorOption) context.Context {
	n.t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		n.t.Fatal("chromium is needed: make test installs it")
	}
	// By its key, because a browser takes no other liberty over QUIC.
	c, err := tls.Dial("tcp", n.https, &tls.Config{ServerName: host, InsecureSkipVerify: true})
	check(n.t, err)
	leaf := c.ConnectionState().PeerCertificates[0]
	check(n.t, c.Close())
	key, err := x509.MarshalPKIXPublicKey(leaf.PublicKey)
	check(n.t, err)
	sum := sha256.Sum256(key)
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.UserDataDir(n.t.TempDir()),
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("ignore-certificate-errors-spki-list", base64.StdEncoding.EncodeToString(sum[:])))
	ctx, cancel := chromedp.NewExecAllocator(n.t.Context(), append(opts, flags...)...)
	n.t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	n.t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 2*patience)
	n.t.Cleanup(cancel)
	return ctx
}

// TestBrowserWebSocket: a page comes over HTTP/2 or HTTP/3, and its WebSocket over the
// HTTP/2 connection of the former, as Chromium has none over HTTP/3; with echo, subprotocol
// and close.
func TestBrowserWebSocket(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			fmt.Fprint(w, `<!doctype html><title>page</title>`)
			return
		}
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"echo"}, CompressionMode: websocket.CompressionContextTakeover})
		if err != nil {
			return
		}
		c.SetReadLimit(2 << 20)
		for {
			kind, message, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if string(message) == "bye" {
				_ = c.Close(4321, "so long")
				return
			}
			_ = c.Write(r.Context(), kind, message)
		}
	}))
	t.Cleanup(up.Close)
	n := startServer(t)
	_, url := n.publish("http", up.Listener.Addr().String(), "--name", "app")
	_, port, _ := net.SplitHostPort(n.https)
	for _, c := range []struct {
		protocol string
		flags    []chromedp.ExecAllocatorOption
	}{
		{"h2", []chromedp.ExecAllocatorOption{chromedp.Flag("disable-quic", true)}},
		{"h3", []chromedp.ExecAllocatorOption{chromedp.Flag("enable-quic", true), chromedp.Flag("origin-to-force-quic-on", "app.localhost:"+port), chromedp.Flag("host-resolver-rules", "MAP app.localhost 127.0.0.1")}},
	} {
		t.Run(c.protocol, func(t *testing.T) {
			ctx := n.browser("app.localhost", c.flags...)
			_, err := chromedp.Run(ctx, chromedp.Navigate(url))
			check(t, err)
			got, err := chromedp.Run(ctx, chromedp.Evaluate[string](`performance.getEntriesByType('navigation')[0].nextHopProtocol`))
			check(t, err)
			if got != c.protocol {
				t.Errorf("the page came over %q, want %q", got, c.protocol)
			}
			_, err = chromedp.Run(ctx, chromedp.Evaluate[bool](`
				var outcome = '';
				var big = 'x'.repeat(1 << 20);
				var s = new WebSocket(location.href.replace('https', 'wss') + 'ws?q=1', ['echo']);
				s.onopen = () => s.send(big);
				s.onmessage = m => { if (m.data === big) s.send('bye'); else s.close(); };
				s.onclose = e => { outcome = [s.protocol, e.code, e.reason, e.wasClean].join(' '); };
				true`))
			check(t, err)
			_, err = chromedp.Run(ctx, chromedp.Poll[bool](`outcome !== ''`))
			check(t, err)
			outcome, err := chromedp.Run(ctx, chromedp.Evaluate[string](`outcome`))
			check(t, err)
			if outcome != "echo 4321 so long true" {
				t.Errorf("the WebSocket ended with %q", outcome)
			}
			if c.protocol == "h2" {
				n.wait(0, "a WebSocket over HTTP/2", func(l logLine) bool {
					return l.str("msg") == "request served" && l.str("proto") == "HTTP/2.0" && l.str("method") == http.MethodConnect
				})
			}
		})
	}
}
