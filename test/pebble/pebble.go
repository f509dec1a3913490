// Package pebble runs Pebble, Let's Encrypt's ACME server for tests, as a process of
// its own and as unpleasant as it can be: it refuses nonces that are good, and takes
// its time to validate.
package pebble

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/test/harness"
)

// Config of a CA.
type Config struct {
	HTTPPort, TLSPort int           // where it validates
	DNS               string        // host:port of the DNS server it asks; default: one that resolves all to 127.0.0.1
	Validity          time.Duration // of its certificates; default 90 days
	EAB               [2]string     // key id and key of the only external account it takes; empty: none is needed
	Listen            string        // host:port; default: a free one of 127.0.0.1
	OCSP              string        // URL that its certificates name for OCSP
}

// CA is a running Pebble.
type CA struct {
	Directory string // URL
	APIRoot   string // file with the root of the API's certificate
	Listen    string // host:port of the API

	management string
	client     *http.Client
	command    []string
	stop       func()

	mu  sync.Mutex
	log bytes.Buffer
}

// Start runs a CA until the end of the test or Stop.
func Start(t *testing.T, cfg Config) *CA {
	t.Helper()
	dir := t.TempDir()
	build(t, dir)
	c := &CA{Listen: cfg.Listen, management: harness.FreeAddress(t), APIRoot: filepath.Join(dir, "api.pem")}
	if c.Listen == "" {
		c.Listen = harness.FreeAddress(t)
	}
	c.Directory = "https://" + c.Listen + "/dir"
	makeCertificate(t, c.APIRoot, filepath.Join(dir, "api-key.pem"))
	if cfg.DNS == "" {
		cfg.DNS = harness.FreeAddress(t)
		c.run(t, exec.Command(filepath.Join(dir, "pebble-challtestsrv"), "-dnsserver", cfg.DNS,
			"-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-management", harness.FreeAddress(t)))
	}
	if cfg.Validity == 0 {
		cfg.Validity = 90 * 24 * time.Hour
	}
	settings := map[string]any{
		"listenAddress": c.Listen, "managementListenAddress": c.management,
		"certificate": c.APIRoot, "privateKey": filepath.Join(dir, "api-key.pem"),
		"httpPort": cfg.HTTPPort, "tlsPort": cfg.TLSPort, "keyAlgorithm": "rsa", "ocspResponderURL": cfg.OCSP,
		"retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles":   map[string]any{"default": map[string]any{"description": "the only one", "validityPeriod": int(cfg.Validity.Seconds())}},
	}
	if cfg.EAB[0] != "" {
		settings["externalAccountBindingRequired"] = true
		settings["externalAccountMACKeys"] = map[string]string{cfg.EAB[0]: cfg.EAB[1]}
	}
	b, err := json.Marshal(map[string]any{"pebble": settings})
	check(t, err)
	file := filepath.Join(dir, "pebble.json")
	check(t, os.WriteFile(file, b, 0o600))
	c.command = []string{filepath.Join(dir, "pebble"), "-config", file, "-dnsserver", cfg.DNS}
	roots := x509.NewCertPool()
	api, err := os.ReadFile(c.APIRoot)
	check(t, err)
	roots.AppendCertsFromPEM(api)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}
	c.client = &http.Client{Transport: transport, Timeout: 10 * time.Second}
	c.Restart(t)
	return c
}

// Restart runs the CA again after Stop. It has a new root, and knows nobody.
func (c *CA) Restart(t *testing.T) {
	t.Helper()
	cmd := exec.Command(c.command[0], c.command[1:]...)
	cmd.Env = append(os.Environ(), "PEBBLE_WFE_NONCEREJECT=20", "PEBBLE_VA_SLEEPTIME=3", "PEBBLE_WFE_AUTHZREUSE=0")
	c.stop = c.run(t, cmd)
	for range 200 {
		if res, err := c.client.Get(c.Directory); err == nil {
			_ = res.Body.Close()
			return
		}
		time.Sleep(50 * time.Millisecond) //nolint:forbidigo // a process that tells nobody when it is ready
	}
	t.Fatalf("Pebble does not answer:\n%s", c.Log())
}

// build builds the programs from tools/go.mod.
func build(t *testing.T, dir string) {
	t.Helper()
	module, err := exec.Command("go", "env", "GOMOD").Output()
	check(t, err)
	const path = "github.com/letsencrypt/pebble/v2/cmd/"
	cmd := exec.Command("go", "build", "-mod=mod", "-o", dir+"/", path+"pebble", path+"pebble-challtestsrv")
	cmd.Dir = filepath.Join(filepath.Dir(strings.TrimSpace(string(module))), "tools")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build Pebble: %v\n%s", err, out)
	}
}

// run starts a process, and returns what ends it.
func (c *CA) run(t *testing.T, cmd *exec.Cmd) func() {
	t.Helper()
	cmd.Stdout, cmd.Stderr = c, c
	check(t, cmd.Start())
	stop := sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("%v\n%s", cmd.Args, c.Log())
		}
	})
	return stop
}

// Write implements io.Writer, for what the processes log.
func (c *CA) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.Write(p)
}

// Log is what the CA has logged.
func (c *CA) Log() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.String()
}

// Orders is how many orders have been begun.
func (c *CA) Orders() int { return strings.Count(c.Log(), "Added order ") }

// Stop ends the CA.
func (c *CA) Stop() { c.stop() }

// Root returns the root of the certificates it gives (PEM).
func (c *CA) Root(t *testing.T) []byte {
	t.Helper()
	return c.manage(t, "/roots/0", nil)
}

// Intermediate returns the certificate, or the key, that signs (PEM).
func (c *CA) Intermediate(t *testing.T, key bool) []byte {
	t.Helper()
	if key {
		return c.manage(t, "/intermediate-keys/0", nil)
	}
	return c.manage(t, "/intermediates/0", nil)
}

// RenewNow has the CA ask for the renewal of a certificate (RFC 9773).
func (c *CA) RenewNow(t *testing.T, leaf *x509.Certificate) {
	t.Helper()
	window := fmt.Sprintf(`{"suggestedWindow":{"start":%q,"end":%q}}`,
		time.Now().Add(-2*time.Hour).UTC().Format(time.RFC3339), time.Now().Add(-time.Hour).UTC().Format(time.RFC3339))
	body, err := json.Marshal(map[string]string{
		"Certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})), "ARIResponse": window,
	})
	check(t, err)
	c.manage(t, "/set-renewal-info/", body)
}

func (c *CA) manage(t *testing.T, path string, body []byte) []byte {
	t.Helper()
	method := http.MethodGet
	if body != nil {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(context.Background(), method, "https://"+c.management+path, bytes.NewReader(body))
	check(t, err)
	res, err := c.client.Do(req)
	check(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	check(t, err)
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %s", path, res.Status, b)
	}
	return b
}

// makeCertificate writes a certificate for loopback that vouches for itself.
func makeCertificate(t *testing.T, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	check(t, err)
	check(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	check(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
}

// Port is the port of an address.
func Port(address string) int {
	_, port, _ := net.SplitHostPort(address)
	n, _ := strconv.Atoi(port)
	return n
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
