package e2e

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"
)

func TestDemo(t *testing.T) {
	// The usual ports are taken, if not by this test then by somebody else.
	for _, address := range []string{"127.0.0.1:8080", "[::1]:8443"} {
		if l, err := net.Listen("tcp", address); err == nil {
			t.Cleanup(func() { _ = l.Close() })
		}
	}
	tmp := filepath.Join(t.TempDir(), "tm p")
	check(t, os.Mkdir(tmp, 0o700))
	p := start(t, t.TempDir(), []string{"TMPDIR=" + tmp}, "demo")
	p.waitOut("Ctrl-C stops the demo.")
	page := ""
	curls := 0
	for l := range strings.Lines(p.out()) {
		f := strings.Fields(l)
		if len(f) == 2 && f[0] == "http" {
			page = f[1]
		}
		if len(f) == 0 || f[0] != "curl" {
			continue
		}
		curls++
		out, err := exec.CommandContext(t.Context(), "sh", "-c", strings.TrimSpace(l)+" -sS").CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), "Hello from behind the tunnel.") {
			t.Errorf("%s: %v\n%s", l, err, out)
		}
	}
	if curls != 4 {
		t.Errorf("%d curl lines:\n%s", curls, p.out())
	}
	t.Run("browser", func(t *testing.T) { testBrowser(t, page) })
	p.signal(syscall.SIGINT)
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// testBrowser opens the demo's page in Chromium and waits for an event of its
// stream.
func testBrowser(t *testing.T, page string) {
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("chromium is needed: make test installs it")
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.Flag("disable-quic", true))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), opts...)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx)
	defer cancel()
	ctx, stop := context.WithTimeout(ctx, 2*patience)
	defer stop()
	if _, err := chromedp.Run(ctx, chromedp.Navigate(page)); err != nil {
		t.Fatal(err)
	}
	heading, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.querySelector('h1').textContent`))
	check(t, err)
	_, err = chromedp.Run(ctx, chromedp.Poll[bool](`document.getElementById('event').textContent.startsWith('event')`))
	check(t, err)
	event, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.getElementById('event').textContent`))
	check(t, err)
	if heading != "Hello from behind the tunnel" || !strings.HasPrefix(event, "event ") {
		t.Errorf("heading %q, event %q", heading, event)
	}
}
