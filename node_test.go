package culvert_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-tunnel/culvert/internal/server"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
)

// node is a server in this process.
type node struct {
	dir         string
	http, https string
	token       string
	cancel      context.CancelFunc
	ended       chan error
}

// start runs the node, at the addresses it had before if there are any.
func (n *node) start() error {
	cfg := server.Config{
		Domain: "localhost", HTTP: "127.0.0.1:0", HTTPS: "127.0.0.1:0", TCPHost: "127.0.0.1",
		TCPPorts: registry.PortRange{First: 18100, Last: 18199}, DataDir: n.dir, Drain: time.Second,
		Logger: slog.New(slog.DiscardHandler),
	}
	if n.http != "" {
		cfg.HTTP, cfg.HTTPS = n.http, n.https
	}
	ready := make(chan server.Ready, 1)
	cfg.Ready = func(r server.Ready) { ready <- r }
	s, err := server.New(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.ended = cancel, make(chan error, 1)
	go func() { n.ended <- s.Run(ctx) }()
	select {
	case r := <-ready:
		n.http, n.https = r.HTTP.String(), r.HTTPS.String()
		if r.Token != nil {
			n.token = r.Token.Reveal()
		}
		return nil
	case err := <-n.ended:
		return fmt.Errorf("server ended: %w", err)
	}
}

func (n *node) stop() error {
	n.cancel()
	return <-n.ended
}

// startNode runs a node of a test's own.
func startNode(t *testing.T) *node {
	t.Helper()
	n := &node{dir: t.TempDir()}
	check(t, n.start())
	t.Cleanup(func() { check(t, n.stop()) })
	return n
}

// roots trust the node's CA.
func (n *node) roots() *x509.CertPool {
	pem, err := os.ReadFile(filepath.Join(n.dir, "ca.pem"))
	if err != nil {
		panic(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool
}

// client is a visitor, for whom all names lead to the node.
func (n *node) client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", n.https)
		},
		TLSClientConfig:   &tls.Config{RootCAs: n.roots(), MinVersion: tls.VersionTLS12},
		DisableKeepAlives: true,
	}}
}

func (n *node) get(url string) string {
	res, err := n.client().Get(url)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// here is the node that the examples find in the environment.
var here node

// get visits a URL of an example.
func get(url string) string { return here.get(url) }

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "culvert-sdk-")
	if err == nil {
		here.dir = filepath.Join(dir, "server")
		err = here.start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = os.Setenv("HOME", dir) // no login of whoever runs the tests
	_ = os.Setenv("CULVERT_SERVER", here.https)
	_ = os.Setenv("CULVERT_TOKEN", here.token)
	code := m.Run()
	if err := here.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}
