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
	t.Run("an upstream that is down resets", func(t *testing.T) {
		_, url := n.publish("tcp", dead(t))
		c := dial(t, tcpAddress(url))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the visitor saw %v", err)
		}
	})
	t.Run("a reader that pauses its sender and nobody else", func(t *testing.T) { testBackPressure(t, publish) })
	t.Run("500 at once", func(t *testing.T) { testMany(t, publish) })
	t.Run("1 GiB each way", func(t *testing.T) { testGibibyte(t, publish) })
}

func testBackPressure(t *testing.T, publish func(*testing.T, func(*net.TCPConn)) string) {
	address := publish(t, func(c *net.TCPConn) {
		mode := make([]byte, 1)
		_, _ = io.ReadFull(c, mode)
		if mode[0] == 'e' {
			_, _ = io.Copy(c, c)
			return
		}
		_, _ = io.Copy(io.Discard, c)
	})
	// The sink's visitor sends and the visitor of another upstream that never reads
	// must come to a stop.
	stop := make(chan struct{})
	lazy := publish(t, func(c *net.TCPConn) { <-stop })
	defer close(stop)
	c := dial(t, lazy)
	sent := 0
	for {
		check(t, c.SetWriteDeadline(time.Now().Add(time.Second)))
		n, err := c.Write(make([]byte, 64<<10))
		sent += n
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		check(t, err)
		if sent > 256<<20 {
			t.Fatalf("%d MiB were taken for a reader that does not read", sent>>20)
		}
	}
	echo := dial(t, address)
	_, err := echo.Write([]byte("e"))
	check(t, err)
	for range 100 {
		_, err := echo.Write([]byte("ping"))
		check(t, err)
		_, err = io.ReadFull(echo, make([]byte, 4))
		check(t, err)
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
