package e2e

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestClientCertificates: the server asks visitors of an http endpoint for a certificate, at
// every server of a cluster, and tells the upstream of it as openssl would.
func TestClientCertificates(t *testing.T) {
	nodes := startCluster(t)
	up := newUpstream(t)
	clients, others := newAuthority(t), newAuthority(t)
	_, url := nodes[0].publish("http", up.port(), "--name", "app", "--client-ca", clients.file(t.TempDir()))
	cert, key := clients.files(t.TempDir(), clients.issue("alice"))
	strangerCert, strangerKey := others.files(t.TempDir(), others.issue("mallory"))
	openssl := func(args ...string) string {
		out, err := exec.CommandContext(t.Context(), "openssl", append([]string{"x509", "-in", cert, "-noout"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("openssl: %v\n%s", err, out)
		}
		_, value, _ := strings.Cut(strings.TrimSpace(string(out)), "=")
		return value
	}
	want := []string{
		`"X-Client-Cert-Subject":["` + openssl("-subject", "-nameopt", "RFC2253") + `"]`,
		`"X-Client-Cert-Fingerprint":["` + strings.ToLower(strings.ReplaceAll(openssl("-fingerprint", "-sha256"), ":", "")) + `"]`,
		`"X-Client-Cert-Serial":["` + strings.ToLower(openssl("-serial")) + `"]`,
	}
	for i, n := range nodes {
		curl := func(args ...string) (string, error) {
			_, port, _ := net.SplitHostPort(n.https)
			out, err := exec.CommandContext(t.Context(), "curl", append([]string{
				"-sS", "--max-time", "20", "--cacert", filepath.Join(n.data, "ca.pem"),
				"--connect-to", "::" + n.https, "https://app.localhost:" + port + "/headers",
			}, args...)...).CombinedOutput()
			return string(out), err
		}
		eventually(t, "the name is known", func() bool {
			out, err := curl("--cert", cert, "--key", key)
			return err == nil && strings.Contains(out, "X-Client-Cert")
		})
		for _, version := range []string{"--http1.1", "--http2"} {
			out, err := curl(version, "--cert", cert, "--key", key, "-H", "X-Client-Cert-Subject: CN=root", "-H", "client_cert: root")
			for _, part := range want {
				if !strings.Contains(out, part) || err != nil {
					t.Errorf("server %d, %s: no %s in %q, %v", i, version, part, out, err)
				}
			}
			if strings.Contains(out, "root") || strings.Contains(strings.ToLower(out), "client_cert") {
				t.Errorf("server %d, %s: a visitor's word for himself: %s", i, version, out)
			}
			for who, args := range map[string][]string{"nobody": nil, "a stranger": {"--cert", strangerCert, "--key", strangerKey}} {
				if out, err := curl(append(args, version)...); err == nil || !strings.Contains(out, "alert") {
					t.Errorf("server %d, %s: %s: %q, %v", i, version, who, out, err)
				}
			}
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+n.http+"/headers", nil)
		check(t, err)
		req.Host = "app.localhost"
		res, err := http.DefaultTransport.RoundTrip(req)
		check(t, err)
		_ = res.Body.Close()
		if location := res.Header.Get("Location"); res.StatusCode != http.StatusPermanentRedirect || !strings.HasPrefix(location, "https://app.localhost") {
			t.Errorf("server %d: the plain port says %d, %q", i, res.StatusCode, location)
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	if !strings.HasPrefix(url, "https://app.localhost") {
		t.Errorf("the URL is %s", url)
	}

	both := filepath.Join(t.TempDir(), "both.pem")
	b, err := os.ReadFile(cert)
	check(t, err)
	k, err := os.ReadFile(key)
	check(t, err)
	check(t, os.WriteFile(both, append(b, k...), 0o600))
	refused := nodes[0].agent(t.TempDir(), "http", up.port(), "--client-ca", both)
	if code := refused.exit(); code != 2 || !strings.Contains(refused.errors(), "private key") {
		t.Errorf("a file with a key: exit code %d, %s", code, refused.errors())
	}
}
