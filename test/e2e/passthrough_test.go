package e2e

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/test/harness"
)

// serveTLS runs an upstream that terminates TLS and says its name and the visitor's
// server name.
func serveTLS(t *testing.T, cert tls.Certificate, name string) string {
	t.Helper()
	cfg := &tls.Config{Certificates: []tls.Certificate{cert}}
	return serveTCP(t, func(c *net.TCPConn) {
		s := tls.Server(c, cfg)
		if s.Handshake() == nil {
			_, _ = io.WriteString(s, name+" "+s.ConnectionState().ServerName)
			_ = s.CloseWrite()
			_, _ = io.Copy(io.Discard, s)
		}
	})
}

// slowly writes a byte at a time.
type slowly struct{ net.Conn }

func (s slowly) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := s.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

func TestPassthroughNames(t *testing.T) {
	n := startServer(t)
	ca := newAuthority(t)
	cert := ca.issue("*.db.example.com", "one.db.example.com")
	n.publish("tls", serveTLS(t, cert, "wild"), "--url", "tls://*.db.example.com")
	n.publish("tls", serveTLS(t, cert, "one"), "--url", "tls://one.db.example.com")
	visit := func(t *testing.T, c net.Conn, cfg *tls.Config) string {
		t.Helper()
		cfg.RootCAs = ca.pool()
		v := tls.Client(c, cfg)
		b, err := io.ReadAll(v)
		check(t, err)
		return string(b)
	}
	for name, want := range map[string]string{"one.db.example.com": "one", "two.db.example.com": "wild", "Three.DB.example.com": "wild"} {
		if got := visit(t, dial(t, n.https), &tls.Config{ServerName: name}); !strings.HasPrefix(got, want+" ") {
			t.Errorf("%s reached %q", name, got)
		}
	}
	t.Run("a byte at a time, with post-quantum shares and many protocols", func(t *testing.T) {
		c := dial(t, n.https)
		check(t, c.SetNoDelay(true))
		var many []string
		for i := range 200 {
			many = append(many, "protocol-"+strconv.Itoa(i)+strings.Repeat("x", 100)) // a hello of two records
		}
		if got := visit(t, slowly{c}, &tls.Config{ServerName: "two.db.example.com", CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519}}); !strings.HasPrefix(got, "wild ") {
			t.Errorf("reached %q", got)
		}
		v := tls.Client(dial(t, n.https), &tls.Config{ServerName: "two.db.example.com", RootCAs: ca.pool(), NextProtos: many})
		if b, err := io.ReadAll(v); err != nil || !strings.HasPrefix(string(b), "wild ") {
			t.Errorf("a large hello reached %q: %v", b, err)
		}
	})
	t.Run("openssl", func(t *testing.T) {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), "openssl", "s_client", "-quiet", "-verify_return_error", "-CAfile", ca.file(dir), "-servername", "one.db.example.com", "-connect", n.https)
		out, _ := cmd.CombinedOutput() // ends by our end of input
		if !strings.Contains(string(out), "one one.db.example.com") {
			t.Errorf("openssl says %s", out)
		}
	})
	t.Run("nobody", func(t *testing.T) {
		for _, name := range []string{"a.b.db.example.com", "db.example.com"} {
			v := tls.Client(dial(t, n.https), &tls.Config{ServerName: name, InsecureSkipVerify: true}) //nolint:gosec // it must fail all the same
			if err := v.Handshake(); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestPostgres: the way PostgreSQL starts TLS, through a tcp endpoint.
func TestPostgres(t *testing.T) {
	bin := postgresBin(t)
	n := startServer(t)
	ca := newAuthority(t)
	dir, err := os.MkdirTemp("", "culvert-pg-") //nolint:usetesting // a socket's path must be short
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	certFile, keyFile := ca.files(dir, ca.issue("localhost"))
	port := harness.FreePort(t)
	as := nobody(t, dir, certFile, keyFile)
	command := func(name string, args ...string) *exec.Cmd {
		return as(exec.CommandContext(t.Context(), filepath.Join(bin, name), args...))
	}
	data := filepath.Join(dir, "data")
	if out, err := command("initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	srv := command("postgres", "-D", data, "-p", port, "-k", dir, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
		"-c", "ssl=on", "-c", "ssl_cert_file="+certFile, "-c", "ssl_key_file="+keyFile)
	check(t, srv.Start())
	t.Cleanup(func() {
		_ = srv.Process.Signal(syscall.SIGINT)
		_ = srv.Wait()
	})
	_, url := n.publish("tcp", "127.0.0.1:"+port)
	_, public, _ := net.SplitHostPort(tcpAddress(url))
	psql := func(mode string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "psql", "-X", "-A", "-t", "-d",
			"host=localhost hostaddr=127.0.0.1 port="+public+" user=postgres dbname=postgres sslmode="+mode+" sslrootcert="+ca.file(dir)+" connect_timeout=10",
			"-c", "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()")
		cmd.WaitDelay = time.Second
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	eventually(t, "PostgreSQL to answer", func() bool {
		_, err := psql("require")
		return err == nil
	})
	for _, mode := range []string{"require", "verify-full"} {
		if out, err := psql(mode); err != nil || out != "t|TLSv1.3" {
			t.Errorf("sslmode=%s: %s, %v", mode, out, err)
		}
	}
}

// nobody gives the files to whom a database server runs as, since none runs as root, and
// returns what makes a command run as him, in the first of them.
func nobody(t *testing.T, files ...string) func(*exec.Cmd) *exec.Cmd {
	t.Helper()
	var as *syscall.Credential
	if os.Getuid() == 0 {
		u, err := user.Lookup("nobody")
		check(t, err)
		uid, err := strconv.Atoi(u.Uid)
		check(t, err)
		gid, err := strconv.Atoi(u.Gid)
		check(t, err)
		as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		for _, f := range files {
			check(t, os.Chown(f, uid, gid))
		}
	}
	return func(cmd *exec.Cmd) *exec.Cmd {
		cmd.Dir, cmd.Env = files[0], []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "HOME=" + files[0]}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
		return cmd
	}
}

// TestMySQL: MySQL's way of starting TLS, in which the server speaks first, goes through a
// tcp endpoint; the client verifies the server's own certificate.
func TestMySQL(t *testing.T) {
	server, err := exec.LookPath("mariadbd")
	if err != nil {
		server, err = exec.LookPath("/usr/sbin/mariadbd")
	}
	check(t, err)
	n := startServer(t)
	ca, impostor := newAuthority(t), newAuthority(t)
	dir, err := os.MkdirTemp("", "culvert-my-") //nolint:usetesting // a socket's path must be short
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	certFile, keyFile := ca.files(dir, ca.issue("localhost"))
	data := filepath.Join(dir, "data")
	check(t, os.Mkdir(data, 0o700))
	as := nobody(t, dir, certFile, keyFile, data)
	if out, err := as(exec.CommandContext(t.Context(), "mariadb-install-db", "--no-defaults", "--datadir="+data, "--auth-root-authentication-method=normal", "--skip-test-db")).CombinedOutput(); err != nil {
		t.Fatalf("mariadb-install-db: %v\n%s", err, out)
	}
	port := harness.FreePort(t)
	srv := as(exec.CommandContext(t.Context(), server, "--no-defaults", "--datadir="+data, "--port="+port, "--bind-address=127.0.0.1", "--socket="+filepath.Join(dir, "s"),
		"--ssl-cert="+certFile, "--ssl-key="+keyFile, "--require-secure-transport=on", "--pid-file="+filepath.Join(dir, "pid"),
		"--init-file="+sqlFile(t, dir, "create user visitor@'%' identified by 'secret' require ssl;")))
	check(t, srv.Start())
	t.Cleanup(func() {
		_ = srv.Process.Signal(syscall.SIGTERM)
		_ = srv.Wait()
	})
	_, url := n.publish("tcp", "127.0.0.1:"+port)
	_, public, _ := net.SplitHostPort(tcpAddress(url))
	trusted, other := ca.file(t.TempDir()), impostor.file(t.TempDir())
	client := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "mariadb", append([]string{
			"--no-defaults", "--protocol=tcp", "--host=localhost", "--port=" + public, "--user=visitor", "--password=secret", "--connect-timeout=10",
			"--batch", "--skip-column-names", "--execute=show session status like 'Ssl_version'",
		}, args...)...)
		cmd.WaitDelay = time.Second
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	verify := []string{"--ssl", "--ssl-verify-server-cert"}
	eventually(t, "the database to answer", func() bool {
		_, err := client(append(verify, "--ssl-ca="+trusted)...)
		return err == nil
	})
	if out, err := client(append(verify, "--ssl-ca="+trusted)...); err != nil || out != "Ssl_version\tTLSv1.3" {
		t.Errorf("got %q, %v", out, err)
	}
	if out, err := client(append(verify, "--ssl-ca="+other)...); err == nil || !strings.Contains(strings.ToLower(out), "certificate") {
		t.Errorf("another CA: %q, %v", out, err)
	}
	if out, err := client("--skip-ssl"); err == nil {
		t.Errorf("in the clear: %q", out)
	}
}

func sqlFile(t *testing.T, dir, sql string) string {
	t.Helper()
	path := filepath.Join(dir, "init.sql")
	check(t, os.WriteFile(path, []byte(sql), 0o644)) //nolint:gosec // for the server to read, which is another user
	return path
}

// postgresBin finds the folder of PostgreSQL's programs, which Debian keeps off the
// path.
func postgresBin(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	check(t, err)
	if len(found) > 0 {
		return filepath.Dir(found[len(found)-1])
	}
	path, err := exec.LookPath("initdb")
	check(t, err)
	return filepath.Dir(path)
}
