package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestCertificateFiles: several certificates by server name, shown to curl, which
// trusts their CA alone; one is replaced while the server runs.
func TestCertificateFiles(t *testing.T) {
	ca := newAuthority(t)
	one, two, root := t.TempDir(), t.TempDir(), ca.file(t.TempDir())
	certOne, keyOne := ca.files(one, ca.issue("app.example.org"))
	certTwo, keyTwo := ca.files(two, ca.issue("*.wild.example.org"))
	n := startServerIn(t, []string{"SSL_CERT_FILE=" + root}, "--cert", certOne, "--key", keyOne, "--cert", certTwo, "--key", keyTwo)
	up := newUpstream(t).URL
	visit := func(url string) string {
		return n.curl("-v", "--cacert", root, "--connect-to", "::127.0.0.1:", url+"/hello")
	}
	var first string
	for _, host := range []string{"app.example.org", "a.wild.example.org"} {
		_, url := n.publish("http", up, "--url", "https://"+host)
		out := visit(url)
		if !strings.Contains(out, "hello GET "+host) {
			t.Errorf("%s: %s", host, out)
		}
		if first == "" {
			first = url
		}
	}
	// The system's roots vouch for it: the plain port redirects by itself.
	if out := n.curl("-o", "/dev/null", "-w", "%{http_code}", "--connect-to", "::127.0.0.1:", n.plainURL(first)); out != "308" {
		t.Errorf("the plain port answers %s", out)
	}

	ca.files(one, ca.issue("app.example.org", "new.example.org"))
	eventually(t, "the new certificate", func() bool {
		return strings.Contains(n.cli("cert", "list", "--data", n.data), "new.example.org")
	})
	if out := visit(first); !strings.Contains(out, "hello GET app.example.org") {
		t.Errorf("after the change: %s", out)
	}
	check(t, os.WriteFile(filepath.Join(one, "key.pem"), []byte("broken"), 0o600))
	n.wait(0, "a warning", func(l logLine) bool { return strings.Contains(l.str("msg"), "can't be used") })
	if out := visit(first); !strings.Contains(out, "hello GET app.example.org") {
		t.Errorf("with a broken file: %s", out)
	}
	n.signal(syscall.SIGTERM)
	if code := n.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
