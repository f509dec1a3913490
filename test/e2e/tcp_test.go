package e2e

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/test/harness"
)

func TestTCPSemantics(t *testing.T) {
	n := startServer(t)
	publish := func(t *testing.T, handle func(*net.TCPConn)) string {
		t.Helper()
		up := serveTCP(t, handle)
		_, url := n.publish("tcp", up)
		return tcpAddress(url)
	}
	t.Run("the visitor ends first", func(t *testing.T) {
		c := dial(t, publish(t, func(c *net.TCPConn) {
			b, _ := io.ReadAll(c)
			_, _ = c.Write(append([]byte("got "), b...))
		}))
		_, err := c.Write([]byte("all"))
		check(t, err)
		check(t, c.CloseWrite())
		b, err := io.ReadAll(c)
		check(t, err)
		if string(b) != "got all" {
			t.Errorf("got %q", b)
		}
	})
	t.Run("the upstream ends first, having spoken first", func(t *testing.T) {
		got := make(chan string, 1)
		c := dial(t, publish(t, func(c *net.TCPConn) {
			_, _ = c.Write([]byte("banner"))
			_ = c.CloseWrite()
			b, _ := io.ReadAll(c)
			got <- string(b)
		}))
		b, err := io.ReadAll(c)
		check(t, err)
		_, err = c.Write([]byte("still heard"))
		check(t, err)
		check(t, c.CloseWrite())
		if heard := <-got; string(b) != "banner" || heard != "still heard" {
			t.Errorf("got %q and %q", b, heard)
		}
	})
	t.Run("the upstream's reset", func(t *testing.T) {
		c := dial(t, publish(t, func(c *net.TCPConn) {
			_, _ = io.ReadFull(c, make([]byte, 1))
			_ = c.SetLinger(0)
		}))
		_, _ = c.Write([]byte("x"))
		if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the visitor saw %v", err)
		}
	})
	t.Run("the upstream's last words before its reset", func(t *testing.T) {
		address := publish(t, func(c *net.TCPConn) {
			_, _ = io.ReadFull(c, make([]byte, 10))
			_, _ = c.Write([]byte("too many connections")) // and closes with input unread: a reset
		})
		for range 10 {
			c := dial(t, address)
			go func() { _, _ = c.Write(make([]byte, 1<<20)) }()
			got := make([]byte, 20)
			if _, err := io.ReadFull(c, got); err != nil || string(got) != "too many connections" {
				t.Fatalf("got %q, %v", got, err)
			}
		}
	})
	t.Run("the visitor's reset", func(t *testing.T) {
		saw := make(chan error, 1)
		c := dial(t, publish(t, func(c *net.TCPConn) {
			_, _ = c.Write([]byte("x"))
			_, err := io.ReadAll(c)
			saw <- err
		}))
		_, err := io.ReadFull(c, make([]byte, 1))
		check(t, err)
		check(t, c.SetLinger(0))
		check(t, c.Close())
		if err := <-saw; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the upstream saw %v", err)
		}
	})
	t.Run("an upstream that is down resets, and is said once", func(t *testing.T) {
		at := harness.FreeAddress(t)
		agent, url := n.publish("tcp", at)
		down := func(l logLine) bool { return strings.HasPrefix(l.str("msg"), "upstream is down") }
		visit := func() error {
			c, err := net.DialTimeout("tcp", tcpAddress(url), patience)
			if err != nil {
				return err // the reset may be there before connect has returned
			}
			defer c.Close()
			check(t, c.SetDeadline(time.Now().Add(2*time.Minute)))
			_, err = io.ReadAll(c)
			return err
		}
		for range 3 {
			if err := visit(); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the visitor saw %v", err)
			}
		}
		l, err := net.Listen("tcp", at)
		check(t, err)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte("up"))
				_ = c.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}
		}()
		for range 2 {
			c := dial(t, tcpAddress(url))
			b, err := io.ReadAll(c)
			if string(b) != "up" || err != nil {
				t.Errorf("got %q, %v", b, err)
			}
			check(t, c.Close())
		}
		check(t, l.Close())
		if err := visit(); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the visitor saw %v", err)
		}
		back := msg("upstream is back")
		_, first := agent.wait(0, "down", down)
		_, then := agent.wait(first, "back", back)
		agent.wait(then, "down again", down)
		if agent.count(back) != 1 || agent.count(down) != 2 {
			t.Errorf("back said %d times, down %d times", agent.count(back), agent.count(down))
		}
	})
	t.Run("a reader that pauses its sender and nobody else", func(t *testing.T) { testBackPressure(t, publish) })
	t.Run("500 at once", func(t *testing.T) { testMany(t, publish) })
	if os.Getenv(transportVariable) == "" {
		t.Run("1 GiB each way", func(t *testing.T) { testGibibyte(t, publish) })
	}
}

// testBackPressure: all of its visitors share one endpoint, and so one link.
func testBackPressure(t *testing.T, publish func(*testing.T, func(*net.TCPConn)) string) {
	stop, stuck := make(chan struct{}), make(chan int, 1)
	address := publish(t, func(c *net.TCPConn) {
		mode := make([]byte, 1)
		_, _ = io.ReadFull(c, mode)
		switch mode[0] {
		case 'l': // never reads
			<-stop
		case 's': // sends to a visitor who never reads
			stuck <- fill(t, c)
			<-stop
		default:
			_, _ = c.Write(mode)
			_, _ = io.Copy(c, c)
		}
	})
	defer close(stop)
	visit := func(mode string) *net.TCPConn {
		c := dial(t, address)
		_, err := c.Write([]byte(mode))
		check(t, err)
		return c
	}
	// The stream's window of at most 16 MiB, and what four sockets buffer.
	const enough = 40 << 20
	if sent := fill(t, visit("l")); sent > enough {
		t.Errorf("%d MiB were taken for an upstream that does not read", sent>>20)
	}
	visit("s")
	if sent := <-stuck; sent > enough {
		t.Errorf("%d MiB were taken for a visitor who does not read", sent>>20)
	}
	echo := visit("e")
	_, err := io.ReadFull(echo, make([]byte, 1))
	check(t, err)
	for range 100 {
		_, err := echo.Write([]byte("ping"))
		check(t, err)
		_, err = io.ReadFull(echo, make([]byte, 4))
		check(t, err)
	}
}

// fill writes until nothing has been taken for a second, and returns how much was.
func fill(t *testing.T, c *net.TCPConn) int {
	for sent := 0; ; {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := c.Write(make([]byte, 64<<10))
		sent += n
		if err != nil || sent > 256<<20 {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the sender was not paused: %v", err)
			}
			return sent
		}
	}
}

func testMany(t *testing.T, publish func(*testing.T, func(*net.TCPConn)) string) {
	address := publish(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	conns := make([]*net.TCPConn, 500)
	for i := range conns {
		conns[i] = dial(t, address)
	}
	var tasks sync.WaitGroup
	errs := make(chan error, len(conns))
	for i, c := range conns {
		tasks.Go(func() {
			want := make([]byte, 20_000)
			_, _ = (&blob{n: uint64(i)}).Read(want)
			go func() {
				_, _ = c.Write(want)
				_ = c.CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if err == nil && !bytes.Equal(got, want) {
				err = errors.New("bytes came changed")
			}
			errs <- err
		})
	}
	tasks.Wait()
	close(errs)
	for err := range errs {
		check(t, err)
	}
}

func testGibibyte(t *testing.T, publish func(*testing.T, func(*net.TCPConn)) string) {
	want := blobSum(gib)
	got := make(chan string, 1)
	c := dial(t, publish(t, func(c *net.TCPConn) {
		var sending sync.WaitGroup
		defer sending.Wait()
		sending.Go(func() {
			_, _ = io.CopyN(c, &blob{}, gib)
			_ = c.CloseWrite()
		})
		h := sha256.New()
		_, _ = io.Copy(h, c)
		got <- hex.EncodeToString(h.Sum(nil))
	}))
	go func() {
		_, _ = io.CopyN(c, &blob{}, gib)
		_ = c.CloseWrite()
	}()
	h := sha256.New()
	_, err := io.Copy(h, c)
	check(t, err)
	if down, up := hex.EncodeToString(h.Sum(nil)), <-got; down != want || up != want {
		t.Errorf("sums: down %s, up %s, want %s", down, up, want)
	}
}

func TestTLSPassthrough(t *testing.T) {
	n := startServer(t)
	dir := t.TempDir()
	openssl(t, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=secure.localhost",
		"-addext", "subjectAltName=DNS:secure.localhost", "-keyout", filepath.Join(dir, "key.pem"), "-out", filepath.Join(dir, "cert.pem"))
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	check(t, err)
	up := serveTCP(t, func(c *net.TCPConn) {
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
		_, _ = s.Write([]byte("from the upstream\n"))
		_ = s.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	})
	_, url := n.publish("tls", up, "--url", "tls://secure.localhost")
	if !strings.HasPrefix(url, "tls://secure.localhost:") {
		t.Fatalf("bound as %s", url)
	}
	t.Run("openssl", func(t *testing.T) {
		out := openssl(t, "s_client", "-connect", n.https, "-servername", "secure.localhost", "-CAfile", filepath.Join(dir, "cert.pem"), "-verify_return_error", "-ign_eof")
		if !strings.Contains(out, "from the upstream") || !strings.Contains(out, "Verify return code: 0") {
			t.Errorf("got %s", out)
		}
	})
	t.Run("openssl, long hello in small records", func(t *testing.T) {
		alpn := make([]string, 0, 40)
		for i := range 40 {
			alpn = append(alpn, strings.Repeat(string(rune('a'+i%26)), 60))
		}
		out := openssl(t, "s_client", "-connect", n.https, "-servername", "secure.localhost", "-max_send_frag", "512", "-alpn", strings.Join(alpn, ","), "-ign_eof")
		if !strings.Contains(out, "from the upstream") {
			t.Errorf("got %s", out)
		}
	})
	t.Run("a byte at a time", func(t *testing.T) {
		c := tls.Client(dripping{dial(t, n.https)}, &tls.Config{ServerName: "secure.localhost", InsecureSkipVerify: true})
		b, err := io.ReadAll(c)
		check(t, err)
		if string(b) != "from the upstream\n" {
			t.Errorf("got %q", b)
		}
	})
	t.Run("beside an https endpoint", func(t *testing.T) {
		web := newUpstream(t)
		_, webURL := n.publish("http", web.port(), "--name", "open")
		if got := n.curl(webURL + "/hello"); !strings.HasPrefix(got, "hello GET open.localhost") {
			t.Errorf("got %q", got)
		}
		p := n.agent(t.TempDir(), "http", web.port(), "--name", "secure")
		if code := p.exit(); code != 4 || !strings.Contains(p.errors(), "name_taken") {
			t.Errorf("the same name as https: exit code %d\n%s", code, p.errors())
		}
	})
	t.Run("what is no TLS", func(t *testing.T) {
		if got := n.curlPlain("http://" + n.https + "/"); !strings.Contains(got, "use https://") {
			t.Errorf("plain HTTP: %q", got)
		}
		record := append([]byte{22, 3, 1, 0x40, 0}, make([]byte, 0x4000)...)
		for what, sent := range map[string][]byte{
			"garbage":         bytes.Repeat([]byte{0xff, 1, 2}, 1000),
			"malformed hello": {22, 3, 1, 0, 8, 1, 0, 0, 4, 'a', 'b', 'c', 'd'},
			"endless hello":   append([]byte{22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff}, append(make([]byte, 0x4000-4), bytes.Repeat(record, 4)...)...),
		} {
			c := dial(t, n.https)
			_, _ = c.Write(sent)
			got, err := io.ReadAll(c)
			if alert := []byte{21, 3, 3, 0, 2, 2, 50}; what == "garbage" && len(got) != 0 || what != "garbage" && (err != nil || !bytes.Equal(got, alert)) {
				t.Errorf("%s: %x, %v", what, got, err)
			}
		}
	})
	t.Run("without a name", func(t *testing.T) {
		cmd := exec.CommandContext(t.Context(), "openssl", "s_client", "-connect", n.https, "-noservername")
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "unrecognized name") {
			t.Errorf("got %v\n%s", err, out)
		}
	})
}

// dripping writes a byte per call.
type dripping struct{ *net.TCPConn }

func (d dripping) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := d.TCPConn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

func openssl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "openssl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func TestOpenSSH(t *testing.T) {
	sshd, err := exec.LookPath("/usr/sbin/sshd")
	if err != nil {
		t.Fatal("sshd is needed: make test installs it")
	}
	dir := t.TempDir()
	for _, key := range []string{"host", "user"} {
		out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput()
		if err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	config := "HostKey " + filepath.Join(dir, "host") + "\nAuthorizedKeysFile " + filepath.Join(dir, "user.pub") + "\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\nPermitRootLogin yes\n"
	check(t, os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600))
	_ = os.MkdirAll("/run/sshd", 0o755) // where sshd of some systems wants to change to
	up := serveTCP(t, func(c *net.TCPConn) {
		// sshd -i serves the one connection on its standard input.
		f, err := c.File()
		if err != nil {
			return
		}
		defer f.Close()
		cmd := exec.Command(sshd, "-i", "-e", "-f", filepath.Join(dir, "config"))
		cmd.Stdin, cmd.Stdout = f, f
		_ = cmd.Run()
	})
	n := startServer(t)
	_, url := n.publish("tcp", up)
	_, port, err := net.SplitHostPort(tcpAddress(url))
	check(t, err)
	me, err := user.Current()
	check(t, err)
	ssh := exec.CommandContext(t.Context(), "ssh", "-F", "none", "-p", port, "-i", filepath.Join(dir, "user"), "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes", me.Username+"@127.0.0.1", "sha256sum")
	ssh.Stdin = io.LimitReader(&blob{}, 32<<20)
	out, err := ssh.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), blobSum(32<<20)) {
		t.Fatalf("ssh: %v\n%s", err, out)
	}
}
