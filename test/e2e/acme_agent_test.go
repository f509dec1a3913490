package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/culvert-tunnel/culvert/test/harness"
	"github.com/culvert-tunnel/culvert/test/pebble"
)

// TestACMEAtTheAgent: an agent gets a certificate for its endpoint through that
// endpoint itself; the server has no part in it but to pass bytes.
func TestACMEAtTheAgent(t *testing.T) {
	secure := harness.FreeAddress(t)
	ca := pebble.Start(t, pebble.Config{HTTPPort: pebble.Port(harness.FreeAddress(t)), TLSPort: pebble.Port(secure)})
	n := startServer(t, "--https", secure)
	up := newUpstream(t)
	home := t.TempDir()
	args := []string{"http", up.port(), "--url", "https://app.example.org", "--e2e", "--acme-ca", ca.Directory, "--acme-ca-root", ca.APIRoot, "--acme-email", "me@example.org", "--api", "127.0.0.1:0"}
	agent := n.agent(home, args...)
	// The agent's API says what it shows, before it has shown it to anybody.
	fingerprint := func() string {
		page, _ := agent.wait(0, "the API", msg("local API ready"))
		res, err := http.Get(page.str("url") + "api/endpoints")
		check(t, err)
		defer res.Body.Close()
		var status struct {
			Endpoints []struct {
				SHA256 string `json:"certificate_sha256"`
			}
		}
		check(t, json.NewDecoder(res.Body).Decode(&status))
		return status.Endpoints[0].SHA256
	}
	agent.wait(0, "the certificate", msg("certificate obtained"))
	eventually(t, "the certificate's fingerprint", func() bool { return fingerprint() != "" })
	told := fingerprint()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Root(t))
	serial := func() string {
		t.Helper()
		c, err := tls.Dial("tcp", n.https, &tls.Config{ServerName: "app.example.org", RootCAs: roots, NextProtos: []string{"http/1.1"}})
		check(t, err)
		defer c.Close()
		_, err = io.WriteString(c, "GET /hello HTTP/1.1\r\nHost: app.example.org\r\nConnection: close\r\n\r\n")
		check(t, err)
		b, err := io.ReadAll(c)
		if err != nil || !strings.Contains(string(b), "hello GET app.example.org") {
			t.Errorf("got %q, %v", b, err)
		}
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	eventually(t, "the certificate to be in use", func() bool {
		c, err := tls.Dial("tcp", n.https, &tls.Config{ServerName: "app.example.org", RootCAs: roots})
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	first := serial()
	agent.signal(syscall.SIGTERM)
	if code := agent.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}

	// It keeps key and certificate, and orders no other one.
	orders := ca.Orders()
	agent = n.agent(home, args...)
	agent.wait(0, "endpoint online", msg("endpoint online"))
	eventually(t, "the fingerprint again", func() bool { return fingerprint() == told })
	eventually(t, "the same certificate again", func() bool {
		c, err := tls.Dial("tcp", n.https, &tls.Config{ServerName: "app.example.org", RootCAs: roots})
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	if again := serial(); again != first || ca.Orders() != orders {
		t.Errorf("another certificate was got: %s, then %s", first, again)
	}
	// What the agent's API says it shows is what openssl sees at the public address.
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "openssl s_client -connect "+n.https+" -servername app.example.org </dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha256")
	out, err := cmd.Output()
	check(t, err)
	_, print, _ := strings.Cut(strings.TrimSpace(string(out)), "=")
	if print = strings.ToLower(strings.ReplaceAll(print, ":", "")); len(print) != 64 || print != told {
		t.Errorf("openssl sees %q, the API says %s", print, told)
	}
	// The key is the agent's alone.
	found := 0
	check(t, filepath.WalkDir(home, func(path string, d os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "app.example.org.key") {
			found++
			if info, err := d.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s: %v, %v", path, info.Mode(), err)
			}
		}
		return err
	}))
	check(t, filepath.WalkDir(n.data, func(path string, _ os.DirEntry, err error) error {
		if strings.Contains(path, "app.example.org") {
			t.Errorf("the server has %s", path)
		}
		return err
	}))
	if found != 1 {
		t.Errorf("%d keys are kept", found)
	}
}
