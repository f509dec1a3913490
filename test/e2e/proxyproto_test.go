package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/test/harness"
)

// daemon runs a program until the end of the test, or until what it returns is called, and
// waits until its port is open.
func daemon(t *testing.T, port, name string, args ...string) (end func()) {
	t.Helper()
	cmd := exec.Command(name, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	check(t, cmd.Start())
	end = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(func() {
		end()
		if t.Failed() {
			t.Logf("%s: %s", name, out.String())
		}
	})
	eventually(t, name+" to listen", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return end
}

// haproxy runs HAProxy with this configuration.
func haproxy(t *testing.T, port, config string) (end func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	check(t, os.WriteFile(path, []byte("defaults\n  timeout connect 10s\n  timeout client 60s\n  timeout server 60s\n"+config), 0o600))
	return daemon(t, port, "haproxy", "-db", "-f", path)
}

// fetch gets a page from address and returns it with the visitor's own address.
func fetch(t *testing.T, address string, cfg *tls.Config) (body, from string) {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: cfg, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err == nil {
			from = c.LocalAddr().String()
		}
		return c, err
	}}
	defer tr.CloseIdleConnections()
	scheme, host := "http", address
	if cfg != nil {
		scheme, host = "https", cfg.ServerName
	}
	resp, err := (&http.Client{Transport: tr, Timeout: time.Minute}).Get(scheme + "://" + host + "/")
	check(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	check(t, err)
	return strings.TrimSpace(string(b)), from
}

// TestProxyProtocolToUpstreams: HAProxy and nginx understand what they are told.
func TestProxyProtocolToUpstreams(t *testing.T) {
	n := startServer(t)
	ca := newAuthority(t)
	certFile, keyFile := ca.files(t.TempDir(), ca.issue("db.example.com"))
	pem := filepath.Join(t.TempDir(), "both.pem")
	b, err := os.ReadFile(certFile)
	check(t, err)
	k, err := os.ReadFile(keyFile)
	check(t, err)
	check(t, os.WriteFile(pem, append(b, k...), 0o600))

	plain, secure := harness.FreePort(t), harness.FreePort(t)
	haproxy(t, plain, fmt.Sprintf(`
frontend f
  mode http
  bind 127.0.0.1:%s accept-proxy
  bind 127.0.0.1:%s accept-proxy ssl crt %s
  http-request return status 200 content-type text/plain lf-string "%%[src]:%%[src_port] %%[dst]:%%[dst_port] %%[fc_pp_authority]"
`, plain, secure, pem))
	web := harness.FreePort(t)
	dir := t.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	check(t, os.WriteFile(conf, fmt.Appendf(nil, `
daemon off; master_process off; pid %[1]s/pid; error_log stderr;
events {}
http {
  access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  server { listen 127.0.0.1:%[2]s proxy_protocol; location / { default_type text/plain; return 200 "$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_addr:$proxy_protocol_server_port"; } }
}`, dir, web), 0o600))
	daemon(t, web, "nginx", "-p", dir, "-e", "stderr", "-c", conf)

	for _, version := range []string{"v1", "v2"} {
		for name, port := range map[string]string{"haproxy": plain, "nginx": web} {
			_, url := n.publish("tcp", "127.0.0.1:"+port, "--proxy-protocol", version)
			got, from := fetch(t, tcpAddress(url), nil)
			if want := from + " " + tcpAddress(url); got != want {
				t.Errorf("%s, %s: says %q, want %q", name, version, got, want)
			}
		}
		agent, _ := n.publish("tls", "127.0.0.1:"+secure, "--url", "tls://db.example.com", "--proxy-protocol", version)
		got, from := fetch(t, n.https, &tls.Config{ServerName: "db.example.com", RootCAs: ca.pool()})
		want := from + " " + n.https
		if version == "v2" {
			want += " db.example.com"
		}
		if got != want {
			t.Errorf("tls, %s: haproxy says %q, want %q", version, got, want)
		}
		agent.signal(syscall.SIGTERM)
		agent.exit()
	}
}

// TestProxyProtocolFromHAProxy: HAProxy in front of all of a server's ports says who
// its visitors are, and the agent, who comes without a header from elsewhere, is let in.
func TestProxyProtocolFromHAProxy(t *testing.T) {
	n := startServer(t, "--proxy-protocol-from", "127.0.0.2/32")
	up := newUpstream(t)
	n.publish("http", up.port(), "--name", "app")
	said := make(chan string, 1)
	_, raw := n.publish("tcp", serveTCP(t, func(c *net.TCPConn) {
		line, _ := bufio.NewReader(c).ReadString('\n')
		said <- line
	}), "--proxy-protocol", "v1")
	plain, secure, tcp := harness.FreePort(t), harness.FreePort(t), harness.FreePort(t)
	config := ""
	for port, to := range map[string]string{plain: n.http + " send-proxy", secure: n.https + " send-proxy-v2", tcp: tcpAddress(raw) + " send-proxy-v2"} {
		config += fmt.Sprintf("listen l%[1]s\n  mode tcp\n  bind 127.0.0.1:%[1]s\n  server s %[2]s source 127.0.0.2\n", port, to)
	}
	haproxy(t, tcp, config)
	<-said // of the connection that showed HAProxy to be up
	c, err := net.Dial("tcp", "127.0.0.1:"+tcp)
	check(t, err)
	defer c.Close()
	from, to := c.LocalAddr().(*net.TCPAddr), c.RemoteAddr().(*net.TCPAddr)
	if got, want := <-said, fmt.Sprintf("PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\n", from.Port, to.Port); got != want {
		t.Errorf("the upstream of tcp heard %q, want %q", got, want)
	}
	for scheme, front := range map[string]string{"http": plain, "https": secure} {
		url := scheme + "://app.localhost:" + front + "/headers"
		out := n.curl("--interface", "127.0.0.9", "--resolve", "app.localhost:"+front+":127.0.0.1", "-L", url)
		if !strings.Contains(out, `"X-Forwarded-For":["127.0.0.9"]`) {
			t.Errorf("%s: the upstream was told\n%s", url, out)
		}
	}
	// Who is no proxy can't say who he is.
	if out := n.curl("--haproxy-protocol", "-o", "/dev/null", "-w", "%{http_code}", "http://"+n.http+"/"); out != "400" {
		t.Errorf("a stranger's PROXY header was answered with %s", out)
	}
}

// TestProxyProtocolFromNginx: likewise nginx, which speaks version 1.
func TestProxyProtocolFromNginx(t *testing.T) {
	const module = "/usr/lib/nginx/modules/ngx_stream_module.so"
	if _, err := os.Stat(module); err != nil {
		t.Skipf("nginx has no streams here: %v", err)
	}
	n := startServer(t, "--proxy-protocol-from", "127.0.0.2/32")
	up := newUpstream(t)
	n.publish("http", up.port(), "--name", "app")
	secure := harness.FreePort(t)
	dir := t.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	check(t, os.WriteFile(conf, fmt.Appendf(nil, `
load_module %[4]s;
daemon off; master_process off; pid %[1]s/pid; error_log stderr;
events {}
stream { server { listen 127.0.0.1:%[2]s; proxy_pass %[3]s; proxy_protocol on; proxy_bind 127.0.0.2; } }`, dir, secure, n.https, module), 0o600))
	daemon(t, secure, "nginx", "-p", dir, "-e", "stderr", "-c", conf)
	for _, version := range []string{"--http1.1", "--http2"} {
		out := n.curl(version, "--interface", "127.0.0.9", "--resolve", "app.localhost:"+secure+":127.0.0.1", "https://app.localhost:"+secure+"/headers")
		if !strings.Contains(out, `"X-Forwarded-For":["127.0.0.9"]`) {
			t.Errorf("%s: the upstream was told\n%s", version, out)
		}
	}
}
