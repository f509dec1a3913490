package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/culvert-tunnel/culvert/test/harness"
	"github.com/culvert-tunnel/culvert/test/pebble"
)

// TestACME: a server gets certificates of a CA that is not ours, by each challenge on
// the ports of visitors, and curl, which trusts that CA alone, visits.
func TestACME(t *testing.T) {
	for _, challenge := range []string{"http-01", "tls-alpn-01"} {
		t.Run(challenge, func(t *testing.T) { testACME(t, challenge) })
	}
}

func testACME(t *testing.T, challenge string) {
	plain, secure := harness.FreeAddress(t), harness.FreeAddress(t)
	ca := pebble.Start(t, pebble.Config{HTTPPort: pebble.Port(plain), TLSPort: pebble.Port(secure)})
	root := filepath.Join(t.TempDir(), "root.pem")
	check(t, os.WriteFile(root, ca.Root(t), 0o600))
	n := startServerIn(t, []string{"SSL_CERT_FILE=" + root},
		"--domain", "tunnel.example.com", "--http", plain, "--https", secure,
		"--acme-email", "ops@example.com", "--acme-ca", ca.Directory, "--acme-ca-root", ca.APIRoot, "--acme-challenges", challenge)
	_, port, _ := net.SplitHostPort(secure)
	_, plainPort, _ := net.SplitHostPort(plain)
	curl := func(args ...string) (string, error) {
		args = append([]string{
			"-sS", "--max-time", "60", "--cacert", root,
			"--connect-to", "::127.0.0.1:",
		}, args...)
		out, err := exec.CommandContext(t.Context(), "curl", args...).CombinedOutput()
		return string(out), err
	}

	// The agent's token pins the server's own CA: it needs nobody's certificate. Its
	// endpoint redirects before there is one, but not the CA.
	up := newUpstream(t).URL
	_, url := n.publish("http", up, "--url", "https://app.example.org", "--redirect")
	hello := url + "/hello"
	for _, u := range []string{hello, "https://tunnel.example.com:" + port} {
		out, err := curl("-o", "/dev/null", "-w", "%{http_code} %{ssl_verify_result}", u)
		if want := map[bool]string{true: "200 0", false: "404 0"}[u == hello]; err != nil || out != want {
			t.Errorf("%s: %s, %v", u, out, err)
		}
	}
	if out, err := curl("-o", "/dev/null", "-w", "%{redirect_url}", "http://app.example.org:"+plainPort+"/x"); out != "https://app.example.org:"+port+"/x" || err != nil {
		t.Errorf("redirected to %s, %v", out, err)
	}

	// Agents that pin nothing trust it as every other client does.
	linked := openssl(t, "s_client", "-connect", secure, "-servername", "tunnel.example.com", "-alpn", "culvert/1",
		"-CAfile", root, "-verify_hostname", "tunnel.example.com", "-verify_return_error")
	if !strings.Contains(linked, "ALPN protocol: culvert/1") {
		t.Errorf("no link: %s", linked)
	}

	// A name that is reserved has a certificate as soon as somebody asks for it.
	id, _, _ := strings.Cut(strings.TrimPrefix(n.token, "cvt_"), "_")
	n.cli("name", "reserve", "https://kept.example.org", "--token", id, "--data", n.data)
	out, err := curl("-o", "/dev/null", "-w", "%{http_code} %{ssl_verify_result}", "https://kept.example.org:"+port)
	if err != nil || out != "404 0" {
		t.Errorf("a reserved name: %s, %v", out, err)
	}

	orders := ca.Orders()
	if orders != 3 {
		t.Errorf("%d orders for three names", orders)
	}
	for _, host := range []string{"stranger.example.org", "nobody.tunnel.example.com"} {
		if out, err := curl("https://" + host + ":" + port); err == nil || !strings.Contains(out, "unrecognized name") {
			t.Errorf("%s: %s, %v", host, out, err)
		}
		for _, path := range []string{"/.well-known/acme-challenge/x", "/.well-known/acme-challenge/../../x"} {
			if out, err := curl("-o", "/dev/null", "-w", "%{http_code}", "--path-as-is", "http://"+host+":"+plainPort+path); err != nil || out != "404" {
				t.Errorf("%s%s: %s, %v", host, path, out, err)
			}
		}
	}
	if n := ca.Orders(); n != orders {
		t.Errorf("names of nobody cost %d orders", n-orders)
	}

	out = n.cli("cert", "list", "--data", n.data)
	for _, host := range []string{"tunnel.example.com", "app.example.org", "kept.example.org"} {
		if !regexp.MustCompile(`(?m)^` + host + ` +acme +ready +20\d\d-[^ ]+ +Pebble `).MatchString(out) {
			t.Errorf("no %s in\n%s", host, out)
		}
	}

	// Without the CA all goes on that needs no order; who needs one is told why not.
	ca.Stop()
	n.signal(syscall.SIGTERM)
	if code := n.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	n.restart()
	b := n.agent(t.TempDir(), "http", up, "--url", "https://late.example.org")
	b.wait(0, "endpoint online", msg("endpoint online"))
	notice, _ := b.wait(0, "the notice", msg("notice from the server"))
	if text := notice.str("message"); notice.str("code") != "no_certificate" || !strings.Contains(text, "late.example.org") || !strings.Contains(text, "can't be reached") {
		t.Errorf("notice: %v", notice)
	}
	if out := n.cli("cert", "list", "--data", n.data); !regexp.MustCompile(`(?m)^late\.example\.org +acme +failed +- +`).MatchString(out) {
		t.Errorf("no late.example.org in\n%s", out)
	}
	if out, err := curl(hello); err != nil || !strings.HasPrefix(out, "hello GET app.example.org") {
		t.Errorf("after a restart without the CA: %s, %v", out, err)
	}
	b.signal(syscall.SIGTERM)
	if code := b.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestACMETwoNodes: two servers on one etcd order each name once. The CA comes to the ports of
// the one that has begun none of it.
func TestACMETwoNodes(t *testing.T) {
	for _, challenge := range []string{"http-01", "tls-alpn-01"} {
		t.Run(challenge, func(t *testing.T) { testACMETwoNodes(t, challenge) })
	}
}

func testACMETwoNodes(t *testing.T, challenge string) {
	plain, secure := harness.FreeAddress(t), harness.FreeAddress(t)
	ca := pebble.Start(t, pebble.Config{HTTPPort: pebble.Port(plain), TLSPort: pebble.Port(secure)})
	common := []string{
		"--domain", "tunnel.example.com", "--etcd", harness.StartEtcd(t, harness.EtcdConfig{}).URLs[0], "--peer", "127.0.0.1:0",
		"--acme-email", "ops@example.com", "--acme-ca", ca.Directory, "--acme-ca-root", ca.APIRoot, "--acme-challenges", challenge,
	}
	// The second is there before anybody wants a name but its own.
	two := startServer(t, append(common, "--node", "two", "--http", plain, "--https", secure)...)
	one := &node{home: t.TempDir(), token: two.token, args: slices.Clone(two.args)}
	one.data = filepath.Join(one.home, "data")
	check(t, os.Mkdir(one.data, 0o700))
	for _, name := range []string{"ca-key.pem", "ca.pem"} { // as docs/operations.md has it
		b, err := os.ReadFile(filepath.Join(two.data, name))
		check(t, err)
		check(t, os.WriteFile(filepath.Join(one.data, name), b, 0o600))
	}
	for k, a := range one.args {
		switch a {
		case "--data":
			one.args[k+1] = one.data
		case "--node":
			one.args[k+1] = "one"
		case "--http", "--https":
			one.args[k+1] = "127.0.0.1:0"
		}
	}
	one.process = start(t, one.home, nil, one.args...)
	one.ready()

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Root(t))
	visit := func(n *node, host string) {
		d := &tls.Dialer{Config: &tls.Config{ServerName: host, RootCAs: roots}}
		for attempt := 1; ; attempt++ { // while the order is under way, the own CA's may be shown
			c, err := d.DialContext(t.Context(), "tcp", n.https)
			if err == nil {
				_ = c.Close()
				return
			}
			if attempt == 10 {
				t.Errorf("%s at %s: %v", host, n.https, err)
				return
			}
		}
	}
	up := newUpstream(t).URL
	_, _ = one.publish("http", up, "--url", "https://app.example.org")
	visit(one, "app.example.org") // of which the other has not been asked
	_, _ = one.publish("http", up, "--url", "https://both.example.org")
	var visits sync.WaitGroup
	for range 3 {
		for _, n := range []*node{one, two} {
			for _, host := range []string{"app.example.org", "both.example.org", "tunnel.example.com"} {
				visits.Go(func() { visit(n, host) })
			}
		}
	}
	visits.Wait()
	if n := ca.Orders(); n != 3 {
		t.Errorf("%d orders for three names", n)
	}
}
