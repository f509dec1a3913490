package e2e

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSeveralPorts: each port of an endpoint leads to the upstream's at its place.
func TestSeveralPorts(t *testing.T) {
	n := startServer(t)
	// Three consecutive ports that are free over TCP and over UDP.
	var first int
	var tcp []net.Listener
	var udp []net.PacketConn
	eventually(t, "three ports in a row", func() bool {
		for i := range tcp {
			_, _ = tcp[i].Close(), udp[i].Close()
		}
		tcp, udp = nil, nil
		for i := range 3 {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+i))
			if err != nil {
				first = 0
				return false
			}
			if i == 0 {
				first = l.Addr().(*net.TCPAddr).Port
			}
			tcp = append(tcp, l)
			u, err := net.ListenPacket("udp", l.Addr().String())
			if err != nil {
				_ = l.Close()
				tcp, first = tcp[:i], 0
				return false
			}
			udp = append(udp, u)
		}
		return true
	})
	for i := range 3 {
		defer tcp[i].Close()
		go func() {
			for {
				c, err := tcp[i].Accept()
				if err != nil {
					return
				}
				_, _ = fmt.Fprint(c, i)
				_ = c.Close()
			}
		}()
		_ = udp[i].Close()
		serveUDP(t, udp[i].LocalAddr().String(), func(string) string { return fmt.Sprint(i) })
	}
	upstream := fmt.Sprintf("127.0.0.1:%d-%d", first, first+2)
	_, tcpURL := n.publish("tcp", upstream)
	at, last, isRange := strings.Cut(tcpURL, "-")
	_, p, _ := net.SplitHostPort(strings.TrimPrefix(at, "tcp://"))
	var public int
	_, err := fmt.Sscan(p, &public)
	check(t, err)
	if !isRange || last != fmt.Sprint(public+2) {
		t.Fatalf("the URL is %s", tcpURL)
	}
	_, udpURL := n.publish("udp", upstream, "--url", fmt.Sprintf("udp://:%d-%d", public, public+2))
	if !strings.HasSuffix(udpURL, fmt.Sprintf(":%d-%d", public, public+2)) {
		t.Errorf("the URL is %s", udpURL)
	}
	for i := range 3 {
		c := dial(t, fmt.Sprintf("127.0.0.1:%d", public+i))
		if b, err := io.ReadAll(c); err != nil || string(b) != fmt.Sprint(i) {
			t.Errorf("tcp port %d led to %q, %v", i, b, err)
		}
		if got := ask(t, udpVisitor(t, fmt.Sprintf("udp://x:%d", public+i)), "?"); got != fmt.Sprint(i) {
			t.Errorf("udp port %d led to %q", i, got)
		}
	}
	for _, bad := range [][]string{{"tcp", upstream, "--url", "tcp://:21000-21001"}, {"tcp", "22", "--url", "tcp://:21000-21001"}, {"tls", upstream}, {"http", upstream}} {
		if code := n.agent(t.TempDir(), bad...).exit(); code != 2 {
			t.Errorf("%v: exit code %d", bad, code)
		}
	}
}

func TestConnectionLimits(t *testing.T) {
	n := startServer(t)
	up := serveTCP(t, func(c *net.TCPConn) {
		_, _ = c.Write([]byte("x"))
		_, _ = io.Copy(c, c)
	})
	greeted := func(c net.Conn) error {
		check(t, c.SetReadDeadline(time.Now().Add(patience)))
		_, err := io.ReadFull(c, make([]byte, 1))
		return err
	}
	t.Run("connections", func(t *testing.T) {
		agent, url := n.publish("tcp", up, "--max-connections", "2")
		first, second := dial(t, tcpAddress(url)), dial(t, tcpAddress(url))
		check(t, errors.Join(greeted(first), greeted(second)))
		if c, err := net.Dial("tcp", tcpAddress(url)); err == nil {
			if err := greeted(c); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the third visitor saw %v", err)
			}
			_ = c.Close()
		}
		check(t, first.Close())
		eventually(t, "room for another", func() bool {
			c, err := net.Dial("tcp", tcpAddress(url))
			if err != nil {
				return false
			}
			defer c.Close()
			return greeted(c) == nil
		})
		agent.signal(syscall.SIGTERM)
	})
	t.Run("bandwidth", func(t *testing.T) {
		_, url := n.publish("tcp", up, "--connection-bandwidth", "1MB", "--bandwidth", "16Mbit")
		c := dial(t, tcpAddress(url))
		check(t, greeted(c))
		sent := bytes.Repeat([]byte("0123456789"), 50_000)
		began := time.Now()
		go func() {
			_, _ = c.Write(sent)
			_ = c.CloseWrite()
		}()
		got, err := io.ReadAll(c)
		// Half a second by the limit; never less, however slow the machine is.
		if d := time.Since(began); err != nil || !bytes.Equal(got, sent) || d < 400*time.Millisecond {
			t.Errorf("%d bytes in %s, %v", len(got), d, err)
		}
	})
	t.Run("idle", func(t *testing.T) {
		_, url := n.publish("tcp", up, "--idle-timeout", "1s", "--keep-alive", "off")
		c := dial(t, tcpAddress(url))
		check(t, greeted(c))
		if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a silent visitor saw %v", err)
		}
	})
}

// TestDualStack: ports of tcp endpoints are open over IPv4 and IPv6.
func TestDualStack(t *testing.T) {
	if l, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		t.Logf("this machine has no IPv6: %v", err)
		return
	} else {
		_ = l.Close()
	}
	n := startServer(t, "--tcp-host", "")
	_, url := n.publish("tcp", serveTCP(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) }))
	_, port, _ := net.SplitHostPort(tcpAddress(url))
	for _, host := range []string{"127.0.0.1", "::1"} {
		c := dial(t, net.JoinHostPort(host, port))
		_, err := io.WriteString(c, host)
		check(t, err)
		check(t, c.CloseWrite())
		if b, err := io.ReadAll(c); err != nil || string(b) != host {
			t.Errorf("%s: %q, %v", host, b, err)
		}
	}
}

// TestUnixSockets: every kind of endpoint reaches an upstream on a unix socket.
func TestUnixSockets(t *testing.T) {
	n := startServer(t)
	dir, err := os.MkdirTemp("", "culvert-sock-") //nolint:usetesting // a socket's path must be short
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	stream, packet := filepath.Join(dir, "stream"), filepath.Join(dir, "packet")
	l, err := net.Listen("unix", stream)
	check(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	pc, err := net.ListenPacket("unixgram", packet)
	check(t, err)
	t.Cleanup(func() { _ = pc.Close() })
	go func() {
		buf := make([]byte, 1000)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(buf[:n], from)
		}
	}()
	_, url := n.publish("tcp", "unix:"+stream)
	c := dial(t, tcpAddress(url))
	_, err = io.WriteString(c, "tcp")
	check(t, err)
	check(t, c.CloseWrite())
	if b, err := io.ReadAll(c); err != nil || string(b) != "tcp" {
		t.Errorf("tcp: %q, %v", b, err)
	}
	_, url = n.publish("udp", "unix:"+packet)
	if got := ask(t, udpVisitor(t, url), "udp"); got != "udp" {
		t.Errorf("udp: %q", got)
	}
}

// TestFiles serves a directory, and gets it with curl.
func TestFiles(t *testing.T) {
	n := startServer(t)
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "hello.txt"), []byte("hello, file"), 0o644))
	check(t, os.WriteFile(filepath.Join(dir, ".secret"), []byte("secret"), 0o644))
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	check(t, os.WriteFile(filepath.Join(dir, "big.bin"), big, 0o644))
	_, url := n.publish("file", dir, "--upload", "--name", "files")
	if got := n.curl(url + "/hello.txt"); got != "hello, file" {
		t.Errorf("got %q", got)
	}
	if got := n.curl("-r", "7-10", url+"/hello.txt"); got != "file" {
		t.Errorf("a range is %q", got)
	}
	if got := n.curl("-o", "/dev/null", "-w", "%{http_code}", url+"/.secret"); got != "404" {
		t.Errorf("a hidden file: %s", got)
	}
	if got := n.curl(url + "/"); !strings.Contains(got, `href="./hello.txt"`) || strings.Contains(got, ".secret") {
		t.Errorf("the listing is\n%s", got)
	}
	if got := n.curl(url + "/big.bin"); got != string(big) {
		t.Errorf("%d bytes of the large file", len(got))
	}
	if got := n.curl("-T", filepath.Join(dir, "big.bin"), "-o", "/dev/null", "-w", "%{http_code}", url+"/copy.bin"); got != "201" {
		t.Errorf("an upload: %s", got)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "copy.bin")); err != nil || !bytes.Equal(b, big) {
		t.Errorf("%d bytes were uploaded: %v", len(b), err)
	}
	if code := n.agent(t.TempDir(), "file", filepath.Join(dir, "none")).exit(); code != 2 {
		t.Errorf("no such directory: exit code %d", code)
	}
}

// TestTLSAtTheAgent: the agent ends visitors' TLS with the user's certificate, which
// may change, and asks for theirs.
func TestTLSAtTheAgent(t *testing.T) {
	n := startServer(t)
	up := newUpstream(t)
	ca, clients := newAuthority(t), newAuthority(t)
	dir := t.TempDir()
	cert, key := ca.files(dir, ca.issue("app.example.com"))
	agent, _ := n.publish("tls", up.port(), "--url", "tls://app.example.com", "--tls-cert", cert, "--tls-key", key)
	_, port, _ := net.SplitHostPort(n.https)
	caFile := ca.file(t.TempDir())
	curl := func(extra ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), "curl", append([]string{
			"-sS", "--max-time", "20", "--cacert", caFile,
			"--resolve", "app.example.com:" + port + ":127.0.0.1", "https://app.example.com:" + port + "/hello",
		}, extra...)...).CombinedOutput()
		return string(out), err
	}
	if out, err := curl(); err != nil || !strings.HasPrefix(out, "hello GET") {
		t.Errorf("got %q, %v", out, err)
	}
	served := func() string {
		c, err := tls.Dial("tcp", n.https, &tls.Config{ServerName: "app.example.com", RootCAs: ca.pool()})
		check(t, err)
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := served()
	ca.files(dir, ca.issue("app.example.com"))
	eventually(t, "the new certificate", func() bool { return served() != before })
	check(t, os.WriteFile(cert, []byte("broken"), 0o600))
	eventually(t, "the fault to be said", func() bool {
		_ = served()
		return agent.count(func(l logLine) bool { return strings.HasPrefix(l.str("msg"), "certificate not read again") }) > 0
	})
	if out, err := curl(); err != nil {
		t.Errorf("with a broken file: %q, %v", out, err)
	}

	cert, key = ca.files(t.TempDir(), ca.issue("app.example.com"))
	agent.signal(syscall.SIGTERM)
	agent.exit()
	clientCert, clientKey := clients.files(t.TempDir(), clients.issue("alice"))
	strangerCert, strangerKey := ca.files(t.TempDir(), ca.issue("mallory"))
	n.publish("tls", up.port(), "--url", "tls://app.example.com", "--tls-cert", cert, "--tls-key", key, "--client-ca", clients.file(t.TempDir()))
	if out, err := curl("--cert", clientCert, "--key", clientKey); err != nil || !strings.HasPrefix(out, "hello GET") {
		t.Errorf("with a certificate: %q, %v", out, err)
	}
	for name, extra := range map[string][]string{"none": nil, "of another CA": {"--cert", strangerCert, "--key", strangerKey}} {
		if out, err := curl(extra...); err == nil || !strings.Contains(out, "alert") {
			t.Errorf("with a certificate %s: %q, %v", name, out, err)
		}
	}
}

// TestHTTPEndToEnd: HTTP whose TLS ends at the agent, in both versions, with the
// headers that are the agent's, for visitors with a certificate.
func TestHTTPEndToEnd(t *testing.T) {
	n := startServer(t)
	up := newUpstream(t)
	ca, clients := newAuthority(t), newAuthority(t)
	cert, key := ca.files(t.TempDir(), ca.issue("app.example.com"))
	agent, url := n.publish("http", up.port(), "--url", "https://app.example.com", "--e2e", "--tls-cert", cert, "--tls-key", key, "--client-ca", clients.file(t.TempDir()))
	_, port, _ := net.SplitHostPort(n.https)
	if want := "tls://app.example.com:" + port; url != want {
		t.Errorf("the URL is %s, want %s", url, want)
	}
	alice := clients.issue("alice")
	clientCert, clientKey := clients.files(t.TempDir(), alice)
	caFile := ca.file(t.TempDir())
	curl := func(extra ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "curl", append([]string{
			"-sS", "--max-time", "20", "--cacert", caFile, "--cert", clientCert, "--key", clientKey,
			"--resolve", "app.example.com:" + port + ":127.0.0.1",
		}, extra...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("curl %v: %v\n%s", extra, err, out)
		}
		return string(out)
	}
	base := "https://app.example.com:" + port
	for _, version := range []string{"--http1.1", "--http2"} {
		want := map[string]string{"--http1.1": "1.1", "--http2": "2"}[version]
		if out := curl(version, "-w", " %{http_version}", base+"/hello"); !strings.HasPrefix(out, "hello GET app.example.com") || !strings.HasSuffix(out, " "+want) {
			t.Errorf("%s: %q", version, out)
		}
		out := curl(version, "-H", "X-Client-Cert-Subject: CN=root", "-H", "x_client_cert_serial: 1", "-H", "X-Forwarded-For: 1.2.3.4", base+"/headers")
		for _, part := range []string{`"X-Client-Cert-Subject":["CN=alice"]`, `"X-Forwarded-For":["127.0.0.1"]`, `"X-Real-Ip":["127.0.0.1"]`, `"X-Forwarded-Proto":["https"]`, `"X-Client-Cert-Fingerprint"`} {
			if !strings.Contains(out, part) {
				t.Errorf("%s: no %s in %s", version, part, out)
			}
		}
		if strings.Contains(out, "root") || strings.Contains(out, "1.2.3.4") || strings.Contains(strings.ToLower(out), "x_client") {
			t.Errorf("%s: a visitor's word for himself: %s", version, out)
		}
	}
	if out := curl("-o", "/dev/null", "-w", "%{http_code}", "-T", cert, base+"/sum"); out != "200" {
		t.Errorf("an upload: %s", out)
	}
	// Of those who are connected and wait for nothing, a stopping agent waits for none.
	c, err := tls.Dial("tcp", n.https, &tls.Config{ServerName: "app.example.com", RootCAs: ca.pool(), Certificates: []tls.Certificate{alice}, NextProtos: []string{"http/1.1"}})
	check(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "GET /hello HTTP/1.1\r\nHost: app.example.com\r\n\r\n")
	check(t, err)
	_, err = io.ReadFull(c, make([]byte, 15))
	check(t, err)
	agent.signal(syscall.SIGTERM)
	if code := agent.exit(); code != 0 || agent.count(func(l logLine) bool { return strings.HasPrefix(l.str("msg"), "connections cut off") }) > 0 {
		t.Errorf("exit code %d, or visitors were cut off", code)
	}
}
