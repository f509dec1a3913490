package edge

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
)

// clientCA certifies visitors.
type clientCA struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  string
}

func newClientCA(t *testing.T, name string) *clientCA {
	t.Helper()
	ca := &clientCA{t: t}
	var err error
	ca.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, ca.key.Public(), ca.key)
	check(t, err)
	ca.cert, err = x509.ParseCertificate(der)
	check(t, err)
	ca.pem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return ca
}

func (ca *clientCA) certify(template *x509.Certificate) *tls.Certificate {
	ca.t.Helper()
	template.SerialNumber = big.NewInt(0xabcd)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	if template.ExtKeyUsage == nil {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, ca.key.Public(), ca.key)
	check(ca.t, err)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: ca.key}
}

func (ca *clientCA) visitor(name string) *tls.Certificate {
	ca.t.Helper()
	return ca.certify(&x509.Certificate{Subject: pkix.Name{CommonName: name}})
}

// versions of HTTP over TLS, as a client for whatever host, with a certificate or none.
var versions = map[string]func(t *testing.T, r *running, cert *tls.Certificate, sessions tls.ClientSessionCache) *http.Client{
	"http/1.1": func(t *testing.T, r *running, cert *tls.Certificate, sessions tls.ClientSessionCache) *http.Client {
		return overTCP(t, r, cert, sessions, false)
	},
	"h2": func(t *testing.T, r *running, cert *tls.Certificate, sessions tls.ClientSessionCache) *http.Client {
		return overTCP(t, r, cert, sessions, true)
	},
	"h3": func(t *testing.T, r *running, cert *tls.Certificate, sessions tls.ClientSessionCache) *http.Client {
		tr := &http3.Transport{
			TLSClientConfig: visitorTLS(cert, sessions),
			Dial: func(ctx context.Context, _ string, cfg *tls.Config, q *quic.Config) (*quic.Conn, error) {
				return quic.DialAddr(ctx, r.secure, cfg, q)
			},
		}
		t.Cleanup(func() { _ = tr.Close() })
		return &http.Client{Transport: tr, Timeout: patience}
	},
}

func visitorTLS(cert *tls.Certificate, sessions tls.ClientSessionCache) *tls.Config {
	cfg := &tls.Config{InsecureSkipVerify: true, ClientSessionCache: sessions}
	if cert != nil {
		// Whatever the server says that it takes.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return cfg
}

func overTCP(t *testing.T, r *running, cert *tls.Certificate, sessions tls.ClientSessionCache, h2 bool) *http.Client {
	t.Helper()
	tr := &http.Transport{
		TLSClientConfig: visitorTLS(cert, sessions), Protocols: new(http.Protocols),
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, r.secure)
		},
	}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetHTTP2(h2)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// enter returns status and body, or what became of the connection.
func enter(t *testing.T, c *http.Client, url, host string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	check(t, err)
	req.Host = host
	for _, forged := range []string{"Client-Cert", "client_cert", "Client-Cert-Chain", "X-Client-Cert-Subject", "X_Client-Cert.Subject", "X-Client-Cert-Fingerprint", "X-Client-Cert-Serial"} {
		req.Header[forged] = []string{"forged"}
	}
	res, err := c.Do(req)
	if err != nil {
		return "no connection"
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	check(t, err)
	if res.StatusCode != http.StatusOK {
		return fmt.Sprint(res.StatusCode, " ", res.Header.Get("Culvert-Error"))
	}
	return string(b)
}

// certified runs an edge with hosts that ask for certificates of different CAs, and one that
// asks for none. What it serves are the headers that tell of a certificate.
func certified(t *testing.T) (r *running, a, b *clientCA) {
	t.Helper()
	r = run(t, Config{})
	a, b = newClientCA(t, "A"), newClientCA(t, "B")
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, values := range r.Header {
			if strings.Contains(strings.ToLower(name), "cert") {
				_, _ = fmt.Fprintf(w, "%s: %s\n", name, strings.Join(values, "|"))
			}
		}
	}))
	t.Cleanup(up.Close)
	for _, spec := range []endpoint.Spec{
		{Host: "a.localhost", ClientCA: a.pem},
		{Host: "b.localhost", ClientCA: b.pem},
		{Host: "open.localhost"},
		{Host: "mixed.localhost"},
		{Host: "mixed.localhost", Path: "/a", ClientCA: a.pem},
		{Host: "mixed.localhost", Path: "/b", ClientCA: b.pem},
	} {
		r.rebind(t, spec, up.Listener.Addr().String())
	}
	return r, a, b
}

// rebind binds what a spec asks for, again if need be.
func (r *running) rebind(t *testing.T, spec endpoint.Spec, address string) {
	t.Helper()
	spec.Kind = endpoint.HTTP
	check(t, spec.Validate())
	now := uint64(time.Now().UnixNano())
	_, err := r.registry.Bind(t.Context(), registry.Request{
		Spec: spec, Owner: registry.Owner{AgentID: "a", SessionID: fmt.Sprint(now), Generation: now}, Open: dialling(address),
	})
	check(t, err)
}

func told(c *tls.Certificate, subject string) []string {
	return []string{
		"Client-Cert: :" + base64.StdEncoding.EncodeToString(c.Certificate[0]) + ":\n",
		"X-Client-Cert-Subject: " + subject + "\n", "X-Client-Cert-Serial: abcd\n",
		fmt.Sprintf("X-Client-Cert-Fingerprint: %x\n", sha256.Sum256(c.Certificate[0])),
	}
}

// TestClientCertificates: who has a certificate of an endpoint's CA gets in, by every version
// of HTTP, and the upstream is told of it, by the edge alone; nobody else gets in.
func TestClientCertificates(t *testing.T) {
	r, a, b := certified(t)
	alice, bob := a.visitor("alice"), b.visitor("bob")
	expired := a.certify(&x509.Certificate{NotAfter: time.Now().Add(-time.Minute)})
	server := a.certify(&x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	huge := a.certify(&x509.Certificate{Subject: pkix.Name{CommonName: strings.Repeat("x", maxClientCert)}})
	odd := a.certify(&x509.Certificate{Subject: pkix.Name{CommonName: "a, \"b\"\r\nX-Evil: é", Organization: []string{"Ö"}}})
	const none, refused = "no connection", "403 certificate_required"
	for version, client := range versions {
		for _, c := range []struct {
			who  string
			cert *tls.Certificate
			url  string
			want string // empty: the headers that tell of cert
		}{
			{"alice", alice, "https://a.localhost/", ""},
			{"bob", bob, "https://b.localhost/", ""},
			{"nobody", nil, "https://a.localhost/", none},
			{"bob at a", bob, "https://a.localhost/", none},
			{"of the past", expired, "https://a.localhost/", none},
			{"a server", server, "https://a.localhost/", none},
			{"too large", huge, "https://a.localhost/", none},
			{"nobody where nobody is asked", nil, "https://open.localhost/", "-"},
			{"alice where nobody is asked", alice, "https://open.localhost/", "-"},
			{"nobody at the open part", nil, "https://mixed.localhost/", "-"},
			{"alice at the open part", alice, "https://mixed.localhost/", "-"},
			{"alice at hers", alice, "https://mixed.localhost/a/x", ""},
			{"bob at his", bob, "https://mixed.localhost/b", ""},
			{"alice at his", alice, "https://mixed.localhost/b", refused},
			{"nobody at hers", nil, "https://mixed.localhost/a", refused},
		} {
			got := enter(t, client(t, r, c.cert, nil), c.url, "")
			switch {
			case c.want == "-" && got == "", c.want == got && got != "":
			case c.want == "":
				name := map[string]string{"alice": "CN=alice", "alice at hers": "CN=alice"}[c.who]
				if name == "" {
					name = "CN=bob"
				}
				for _, line := range told(c.cert, name) {
					got = strings.Replace(got, line, "", 1)
				}
				if got != "" {
					t.Errorf("%s: %s: %q is left of what the upstream gets", version, c.who, got)
				}
			default:
				t.Errorf("%s: %s: %q, want %q", version, c.who, got, c.want)
			}
		}
		got := enter(t, client(t, r, odd, nil), "https://a.localhost/", "")
		if want := `X-Client-Cert-Subject: CN=a\, \"b\"\0D\0AX-Evil: \C3\A9,O=\C3\96` + "\n"; !strings.Contains(got, want) || strings.Contains(got, "\nX-Evil") {
			t.Errorf("%s: an odd subject: %q", version, got)
		}
	}
}

// TestClientCertificateIsOfItsHost: what a connection has shown for one host counts for no
// other, nor does a session that it left behind.
func TestClientCertificateIsOfItsHost(t *testing.T) {
	r, a, b := certified(t)
	alice := a.visitor("alice")
	for version, client := range versions {
		// As a browser does that finds both names in one certificate.
		for url, hosts := range map[string][]string{
			"https://a.localhost/": {"b.localhost", "open.localhost"}, "https://open.localhost/": {"a.localhost"},
		} {
			for _, host := range hosts {
				if got := enter(t, client(t, r, alice, nil), url, host); got != "421 misdirected" {
					t.Errorf("%s: %s on a connection for %s: %q", version, host, url, got)
				}
			}
		}
	}
	// Sessions by the wrong name, as a visitor with a purpose keeps them.
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, c := range []struct {
			from string
			cert *tls.Certificate
			then string
			want bool
		}{
			{"open.localhost", nil, "open.localhost", true}, // the cache does resume
			{"a.localhost", alice, "a.localhost", false},
			{"a.localhost", alice, "b.localhost", false},
			{"a.localhost", alice, "open.localhost", false},
			{"open.localhost", nil, "a.localhost", false},
			{"mixed.localhost", alice, "b.localhost", false},
			{"mixed.localhost", nil, "a.localhost", false},
		} {
			sessions := oneSession{tls.NewLRUClientSessionCache(1)}
			connect := func(name string, cert *tls.Certificate) (resumed bool) {
				cfg := visitorTLS(cert, sessions)
				cfg.ServerName, cfg.MaxVersion = name, version
				c := tls.Client(dial(t, r.secure), cfg)
				defer c.Close()
				if c.Handshake() != nil {
					return false
				}
				// Tickets of TLS 1.3 come behind the handshake.
				_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+name+"\r\nConnection: close\r\n\r\n")
				_, _ = io.ReadAll(c)
				return c.ConnectionState().DidResume
			}
			connect(c.from, c.cert)
			if resumed := connect(c.then, b.visitor("bob")); resumed != c.want {
				t.Errorf("%x: a session of %s at %s: resumed %v", version, c.from, c.then, resumed)
			}
		}
	}
}

// oneSession is a cache that gives its session to all names.
type oneSession struct{ tls.ClientSessionCache }

func (s oneSession) Get(string) (*tls.ClientSessionState, bool) { return s.ClientSessionCache.Get("") }
func (s oneSession) Put(_ string, cs *tls.ClientSessionState)   { s.ClientSessionCache.Put("", cs) }

// TestClientCertificateOfNow: an endpoint's CAs hold for connections that were made before
// it had them, and the plain port serves nobody.
func TestClientCertificateOfNow(t *testing.T) {
	r, a, b := certified(t)
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "in") }))
	t.Cleanup(up.Close)
	address := up.Listener.Addr().String()
	for version, client := range versions {
		host := strings.ReplaceAll(strings.ReplaceAll(version, "/", ""), ".", "") + ".localhost"
		url := "https://" + host + "/"
		r.rebind(t, endpoint.Spec{Host: host}, address)
		c := client(t, r, a.visitor("alice"), nil)
		if got := enter(t, c, url, ""); got != "in" {
			t.Fatalf("%s: %q", version, got)
		}
		r.rebind(t, endpoint.Spec{Host: host, ClientCA: a.pem}, address)
		if got := enter(t, c, url, ""); got != "403 certificate_required" {
			t.Errorf("%s: on a connection from before: %q", version, got)
		}
		if version == "h3" {
			c = client(t, r, a.visitor("alice"), nil) // there is no GOAWAY of its own
		}
		eventually(t, version+": another connection", func() bool { return enter(t, c, url, "") == "in" })
		r.rebind(t, endpoint.Spec{Host: host, ClientCA: b.pem}, address)
		if got := enter(t, c, url, ""); got != "403 certificate_required" {
			t.Errorf("%s: on a connection by another CA: %q", version, got)
		}
	}
	// The agent comes back with a CA while a request is on its way to it.
	lost := func(context.Context, string, endpoint.Visitor, []byte) (net.Conn, error) {
		r.rebind(t, endpoint.Spec{Host: "late.localhost", ClientCA: a.pem}, address)
		return nil, registry.ErrSessionGone
	}
	_, err := r.registry.Bind(t.Context(), registry.Request{
		Spec: endpoint.Spec{Kind: endpoint.HTTP, Host: "late.localhost"}, Owner: registry.Owner{AgentID: "a"}, Open: lost,
	})
	check(t, err)
	if got := enter(t, overTCP(t, r, nil, nil, false), "https://late.localhost/", ""); got != "503 endpoint_offline" {
		t.Errorf("let in before, led to who asks for a certificate: %q", got)
	}
	for _, host := range []string{"a.localhost", "open.localhost"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.plain+"/x?y", nil)
		check(t, err)
		req.Host = host
		res, err := http.DefaultTransport.RoundTrip(req)
		want := map[string]int{"a.localhost": http.StatusPermanentRedirect, "open.localhost": http.StatusOK}[host]
		if read(t, res, err); res.StatusCode != want || (want != http.StatusOK && res.Header.Get("Location") != "https://a.localhost/x?y") {
			t.Errorf("the plain port of %s: %d to %q", host, res.StatusCode, res.Header.Get("Location"))
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}
