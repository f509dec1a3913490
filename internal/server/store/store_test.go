package store_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/server/store/storetest"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
	"github.com/culvert-tunnel/culvert/test/harness"
)

const writerDir = "CULVERT_TEST_STORE_WRITER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		write(dir)
	}
	os.Exit(m.Run())
}

func TestEmbedded(t *testing.T) {
	s := storetest.Embedded(t)
	storetest.Run(t, same(s), same(s))
}

func same(s *store.Store) storetest.Opener {
	return func(*testing.T) *store.Store { return s }
}

// TestLongDirectory: a unix socket's path has a hundred bytes at most, a directory's more.
func TestLongDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("a long name, with commas = and spaces ", 5))
	s := storetest.Open(t, store.Config{Dir: dir})
	if _, err := s.FirstToken(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{"etcd": 0o700, "etcd/client.sock": 0o600} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
}

// TestNothingIsLeft: a closed store has no goroutines, listens nowhere, and opens again.
func TestNothingIsLeft(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := t.TempDir()
	var token tunnel.Token
	for i := range 3 {
		s, err := store.Open(t.Context(), store.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if token, err = s.FirstToken(t.Context(), ""); err != nil {
				t.Error(err)
			}
		}
		if _, err := s.VerifyToken(token); err != nil {
			t.Errorf("opened for the %d. time: %v", i+1, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// write makes tokens as fast as it can and says each that was acknowledged.
func write(dir string) {
	s, err := store.Open(context.Background(), store.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	for {
		token, err := s.CreateToken(context.Background(), "", store.Rights{})
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Println(token.Reveal())
	}
}

// TestKill: what was acknowledged is there after kill -9 at any moment.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	var made []tunnel.Token
	for range 3 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), writerDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			token, err := tunnel.ParseToken(lines.Text())
			if err != nil {
				t.Fatalf("%q: %v", lines.Text(), err)
			}
			made = append(made, token)
			if n == 100 {
				_ = cmd.Process.Kill() // and reads what was said before it died
			}
		}
		_ = cmd.Wait()
	}
	s := storetest.Open(t, store.Config{Dir: dir})
	for _, token := range made {
		if _, err := s.VerifyToken(token); err != nil {
			t.Fatalf("one of %d tokens is lost: %v", len(made), err)
		}
	}
}

// TestDamaged: files that can't be read are an error, and are left as they are.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	s, err := store.Open(t.Context(), store.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	db := filepath.Join(dir, "etcd", "member", "snap", "db")
	if err := os.WriteFile(db, []byte(strings.Repeat("damaged", 10_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := store.Open(t.Context(), store.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)}); !errors.Is(err, store.ErrDamaged) {
			t.Errorf("opened: %v", err)
		}
	}
	if b, err := os.ReadFile(db); err != nil || !strings.HasPrefix(string(b), "damaged") {
		t.Errorf("became %.20q, %v", b, err)
	}
}

// TestFull: a full store says so, keeps what it has, and can be read.
func TestFull(t *testing.T) {
	s := storetest.Open(t, store.Config{Dir: t.TempDir(), Quota: 4 << 20})
	files, block := s.Certs(), make([]byte, 1<<20)
	var err error
	for i := 0; i < 500 && err == nil; i++ { // etcd looks at the size after each of its batches
		err = files.Write(t.Context(), fmt.Sprint(i), block)
	}
	if !errors.Is(err, store.ErrFull) {
		t.Fatalf("written without end: %v", err)
	}
	if st, err := s.Health(t.Context()); err != nil || len(st.Alarms) != 1 || st.Alarms[0] != "NOSPACE" {
		t.Errorf("%+v, %v", st, err)
	}
	if _, _, err := files.Read(t.Context(), "0"); err != nil {
		t.Errorf("can't be read: %v", err)
	}
}

func TestExternal(t *testing.T) {
	etcd := harness.StartEtcd(t, harness.EtcdConfig{})
	open := func(prefix string) storetest.Opener {
		return func(t *testing.T) *store.Store {
			return storetest.Open(t, store.Config{External: store.External{URLs: etcd.URLs, Prefix: prefix}})
		}
	}
	storetest.Run(t, open(""), open(""))
	// Another installation in the same etcd is another world.
	token, err := open("")(t).CreateToken(t.Context(), "", store.Rights{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open("other/")(t).VerifyToken(token); !errors.Is(err, store.ErrNoToken) {
		t.Errorf("prefixes mix: %v", err)
	}
}

// TestExternalSecured: TLS, a client certificate, and then a user with a password.
func TestExternalSecured(t *testing.T) {
	dir := t.TempDir()
	certificate(t, dir)
	file := func(name string) string { return filepath.Join(dir, name) }
	etcd := harness.StartEtcd(t, harness.EtcdConfig{Scheme: "https", Args: []string{
		"--cert-file", file("cert.pem"), "--key-file", file("key.pem"), "--client-cert-auth", "--trusted-ca-file", file("cert.pem"),
	}})
	with := store.External{URLs: etcd.URLs, CAFile: file("cert.pem"), CertFile: file("cert.pem"), KeyFile: file("key.pem")}
	s := storetest.Open(t, store.Config{External: with})
	if _, err := s.FirstToken(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	ctl := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "etcdctl", append([]string{
			"--endpoints", etcd.URLs[0], "--cacert", file("cert.pem"), "--cert", file("cert.pem"), "--key", file("key.pem"),
		}, args...)...)
		cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("etcdctl %v: %v\n%s", args, err, out)
		}
	}
	ctl("user", "add", "root:secret")
	ctl("user", "grant-role", "root", "root")
	ctl("role", "add", "culvert")
	ctl("role", "grant-permission", "culvert", "--prefix=true", "readwrite", "culvert/")
	ctl("user", "add", "culvert:pass word")
	ctl("user", "grant-role", "culvert", "culvert")
	ctl("auth", "enable")
	if err := os.WriteFile(file("password"), []byte("pass word\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	with.User, with.PasswordFile = "culvert", file("password")
	s = storetest.Open(t, store.Config{External: with})
	storetest.Run(t, same(s), same(s))
	if err := os.WriteFile(file("password"), []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := store.Open(t.Context(), store.Config{External: with, Logger: slog.New(slog.DiscardHandler)})
	if err == nil || strings.Contains(err.Error(), "wrong\"") {
		t.Errorf("a wrong password: %v", err)
	}
}

// certificate makes one that is its own CA, for 127.0.0.1, client and server.
func certificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "etcd"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestExternalMisdescribed(t *testing.T) {
	dir := t.TempDir()
	for name, e := range map[string]store.External{
		"no scheme":                   {URLs: []string{"localhost:2379"}},
		"another scheme":              {URLs: []string{"ftp://localhost"}},
		"password in the URL":         {URLs: []string{"https://u:p@localhost"}},
		"both schemes":                {URLs: []string{"https://a", "http://b"}},
		"prefix":                      {URLs: []string{"https://a"}, Prefix: "x"},
		"user without a password":     {URLs: []string{"https://a"}, User: "u"},
		"password file missing":       {URLs: []string{"https://a"}, User: "u", PasswordFile: filepath.Join(dir, "missing")},
		"CA missing":                  {URLs: []string{"https://a"}, CAFile: filepath.Join(dir, "missing")},
		"certificate without its key": {URLs: []string{"https://a"}, CertFile: filepath.Join(dir, "missing")},
		"certificate without TLS":     {URLs: []string{"http://a"}, CertFile: "c", KeyFile: "k"},
	} {
		if _, err := store.Open(t.Context(), store.Config{External: e, Logger: slog.New(slog.DiscardHandler)}); !errors.Is(err, store.ErrExternal) || strings.Contains(err.Error(), "u:p") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOutage: while the engine is away, reading goes on from memory, writes say soon that
// they can't be made, and afterwards all is as before.
func TestOutage(t *testing.T) {
	etcd := harness.StartEtcd(t, harness.EtcdConfig{})
	s := storetest.Open(t, store.Config{External: store.External{URLs: etcd.URLs}})
	token, err := s.CreateToken(t.Context(), "", store.Rights{})
	if err != nil {
		t.Fatal(err)
	}
	etcd.Signal(0, syscall.SIGSTOP)
	if _, err := s.VerifyToken(token); err != nil {
		t.Errorf("from memory: %v", err)
	}
	if _, err := s.CreateToken(t.Context(), "", store.Rights{}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a write: %v", err)
	}
	etcd.Signal(0, syscall.SIGCONT)
	deadline := time.Now().Add(10 * time.Second)
	for err = store.ErrUnavailable; err != nil && time.Now().Before(deadline); {
		_, err = s.CreateToken(t.Context(), "", store.Rights{})
	}
	if err != nil {
		t.Errorf("after the outage: %v", err)
	}
}
