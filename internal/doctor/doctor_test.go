package doctor_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/doctor"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/server"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
	"github.com/culvert-tunnel/culvert/test/harness"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// resolver is one whose server knows these names and no other. A name that begins
// with *. stands for all below.
func resolver(t *testing.T, names map[string]string) *net.Resolver {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	check(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			name := strings.TrimSuffix(q.Name.String(), ".")
			ip, ok := names[name]
			if _, below, _ := strings.Cut(name, "."); !ok {
				ip, ok = names["*."+below]
			}
			reply := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true}, Questions: m.Questions}
			if !ok {
				reply.RCode = dnsmessage.RCodeNameError
			} else if q.Type == dnsmessage.TypeA {
				reply.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
					Body:   &dnsmessage.AResource{A: [4]byte(net.ParseIP(ip).To4())},
				}}
			}
			if b, err := reply.Pack(); err == nil {
				_, _ = c.WriteTo(b, from)
			}
		}
	}()
	t.Cleanup(func() {
		_ = c.Close()
		<-done
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", c.LocalAddr().String())
	}}
}

// findings runs an examination and returns a line for each finding.
func findings(t *testing.T, run func(context.Context, *doctor.Report)) (string, bool) {
	t.Helper()
	var lines strings.Builder
	r := &doctor.Report{Tell: func(f doctor.Finding) {
		if (f.Advice == "") != (f.Status == doctor.OK || f.Status == doctor.Skip) {
			t.Errorf("advice is for what is wrong, and for nothing else: %+v", f)
		}
		lines.WriteString(string(f.Status) + " " + f.Check + ": " + f.Detail + "\n")
	}}
	run(t.Context(), r)
	return lines.String(), r.OK()
}

// expect fails for each of want that no line has.
func expect(t *testing.T, lines string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(lines, w) {
			t.Errorf("no %q in\n%s", w, lines)
		}
	}
}

// node is a server with a domain, and a token for it.
func node(t *testing.T) (address string, token tunnel.Token, dir string) {
	t.Helper()
	dir = t.TempDir()
	ready := make(chan server.Ready, 1)
	s, err := server.New(server.Config{
		Domain: "tunnel.example.com", HTTPS: "127.0.0.1:0", DataDir: dir, Drain: time.Second,
		Logger: slog.New(slog.DiscardHandler), Ready: func(r server.Ready) { ready <- r },
	})
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		check(t, <-ended)
	})
	r := <-ready
	return r.HTTPS.String(), *r.Token, dir
}

// made is a certificate that was made for a test.
type made struct {
	leaf *x509.Certificate
	key  *ecdsa.PrivateKey
	der  []byte
}

// make makes a certificate, signed by ca or by itself.
func certificate(t *testing.T, ca *made, until time.Time, names ...string) *made {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "made"}, DNSNames: names,
		NotBefore: until.Add(-90 * 24 * time.Hour), NotAfter: until,
		IsCA: ca == nil, BasicConstraintsValid: true,
	}
	parent, signer := template, key
	if ca != nil {
		parent, signer = ca.leaf, ca.key
		template.Subject.CommonName = "leaf"
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	check(t, err)
	leaf, err := x509.ParseCertificate(der)
	check(t, err)
	return &made{leaf: leaf, key: key, der: der}
}

// impostor answers TLS with a certificate as if it were a node.
func impostor(t *testing.T, m *made, protocols ...string) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{m.der}, PrivateKey: m.key}}, NextProtos: protocols, MinVersion: tls.VersionTLS12,
	})
	check(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).HandshakeContext(context.Background())
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

// through is the way through an HTTP proxy.
func through(proxy string) agent.Proxy {
	return func(string) (*url.URL, error) { return &url.URL{Scheme: "http", Host: proxy}, nil }
}

// ingress ends TLS in front of a node, and speaks HTTP/1.1 with it.
func ingress(t *testing.T, address string) string {
	t.Helper()
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		},
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	front := httptest.NewTLSServer(&httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "https", Host: "tunnel.example.com"})
	}})
	t.Cleanup(func() {
		front.Close()
		transport.CloseIdleConnections()
	})
	return front.Listener.Addr().String()
}

func TestAgent(t *testing.T) {
	address, token, _ := node(t)
	_, port, _ := net.SplitHostPort(address)
	named := net.JoinHostPort("tunnel.example.com", port)
	all := resolver(t, map[string]string{"tunnel.example.com": "127.0.0.1", "*.tunnel.example.com": "127.0.0.1"})
	open := httptest.NewServer(http.NotFoundHandler())
	defer open.Close()
	up, err := agent.ParseUpstream(open.URL, agent.UpstreamTLS{})
	check(t, err)
	down, err := agent.ParseUpstream(harness.FreeAddress(t), agent.UpstreamTLS{})
	check(t, err)
	other := tunnel.NewToken(token.Fingerprint)
	wrong := tunnel.NewToken(strings.Repeat("a", len(token.Fingerprint)))
	wrong.Fingerprint = tunnel.Fingerprint(certificate(t, nil, time.Now().Add(time.Hour)).leaf)
	expired := certificate(t, nil, time.Now().Add(-time.Hour), "tunnel.example.com")
	roots := x509.NewCertPool()
	roots.AddCert(expired.leaf)
	noFingerprint := token
	noFingerprint.Fingerprint = ""
	shifted := func(d time.Duration) func() time.Time { return func() time.Time { return time.Now().Add(d) } }
	at := func(address string) string { _, p, _ := net.SplitHostPort(address); return "tunnel.example.com:" + p }

	for name, tc := range map[string]struct {
		agent doctor.Agent
		ok    bool
		want  []string
		not   string
	}{
		"well": {
			agent: doctor.Agent{Server: named, Token: token, Resolver: all, Upstreams: []agent.Upstream{up}}, ok: true,
			want: []string{
				"ok upstream: http://127.0.0.1", "ok name: tunnel.example.com is 127.0.0.1", "ok port: 127.0.0.1:", "ok mtu: ", "ok tls: TLS 1.3, signed by the CA in the token",
				"ok tls: the server's certificate is good until ", "ok quic: ", "ok websocket: ", "ok session: the server accepts the token and gave the name https://", "ok latency: ",
				"ok clock: this machine and the server agree", "ok visit: a visitor's request comes through", "ok throughput: ", "ok public name: ",
			},
		},
		"upstream down": {agent: doctor.Agent{Server: named, Token: token, Resolver: all, Upstreams: []agent.Upstream{down}}, want: []string{"fail upstream: ", "connection refused", "ok visit"}},
		"no such name":  {agent: doctor.Agent{Server: named, Token: token, Resolver: resolver(t, nil)}, want: []string{"fail name: tunnel.example.com: no such name"}, not: "port"},
		"no wildcard": {
			agent: doctor.Agent{Server: named, Token: token, Resolver: resolver(t, map[string]string{"tunnel.example.com": "127.0.0.1"})}, ok: true,
			want: []string{"ok visit", "warn public name: "},
		},
		"closed port": {agent: doctor.Agent{Server: at(harness.FreeAddress(t)), Token: token, Resolver: all}, want: []string{"fail port: 127.0.0.1:", "connection refused"}, not: "tls"},
		"by WebSocket": {
			agent: doctor.Agent{Server: ingress(t, address), Token: token, Resolver: all}, ok: true,
			want: []string{"skip quic: ", "ok websocket: links get through by WebSocket", "warn tls: not by TLS over TCP alone: ", "ok session: ", "skip visit: "},
		},
		"by QUIC":       {agent: doctor.Agent{Server: named, Token: token, Resolver: all, Transport: link.QUIC}, ok: true, want: []string{"ok quic: links get through by QUIC", "ok session: ", "ok visit: "}, not: "port"},
		"no QUIC":       {agent: doctor.Agent{Server: open.Listener.Addr().String(), Token: token, Transport: link.QUIC}, want: []string{"fail quic: links don't get through by QUIC"}, not: "session"},
		"no WebSocket":  {agent: doctor.Agent{Server: open.Listener.Addr().String(), Token: token, Transport: link.WebSocket}, want: []string{"fail websocket: links don't get through by WebSocket"}, not: "session"},
		"no such proxy": {agent: doctor.Agent{Server: named, Token: token, Proxy: through(harness.FreeAddress(t))}, want: []string{"fail proxy: 127.0.0.1:", "connection refused"}, not: "tls"},
		"proxy refuses": {agent: doctor.Agent{Server: named, Token: token, Proxy: through(open.Listener.Addr().String())}, want: []string{"fail proxy: 127.0.0.1:", "404 Not Found"}, not: "tls"},
		"no node":       {agent: doctor.Agent{Server: open.Listener.Addr().String(), Token: token}, want: []string{"fail tls: what answers there is no Culvert server; it shows nothing"}, not: "session"},
		"web server":    {agent: doctor.Agent{Server: impostor(t, expired, "http/1.1"), Token: noFingerprint, Roots: roots}, want: []string{"fail tls: what answers there is no Culvert server"}, not: "session"},
		"wrong CA":      {agent: doctor.Agent{Server: named, Token: wrong, Resolver: all}, want: []string{"fail tls: the server's certificate is not signed by the CA in the token; it shows a certificate for", `from "Culvert CA`}, not: "session"},
		"untrusted CA":  {agent: doctor.Agent{Server: named, Token: noFingerprint, Resolver: all, Roots: x509.NewCertPool()}, want: []string{"fail tls: this machine does not trust the server's certificate; it shows a certificate"}, not: "session"},
		"expired":       {agent: doctor.Agent{Server: at(impostor(t, expired, tunnel.ALPN)), Token: noFingerprint, Roots: roots, Resolver: all}, want: []string{"fail tls: the server's certificate has expired on "}, not: "session"},
		"token":         {agent: doctor.Agent{Server: named, Token: other, Resolver: all}, want: []string{"fail session: server refused this agent", "token_invalid"}, not: "visit"},
		"clock ahead":   {agent: doctor.Agent{Server: named, Token: token, Resolver: all, Now: shifted(10 * time.Minute)}, want: []string{"fail clock: this machine's clock is 10m", "ahead of the server's", "ok throughput"}},
		"clock behind":  {agent: doctor.Agent{Server: named, Token: token, Resolver: all, Now: shifted(-30 * time.Second)}, ok: true, want: []string{"warn clock: this machine's clock is ", "behind the server's"}},
	} {
		t.Run(name, func(t *testing.T) {
			lines, ok := findings(t, tc.agent.Run)
			expect(t, lines, tc.want...)
			if ok != tc.ok || tc.not != "" && strings.Contains(lines, " "+tc.not+":") {
				t.Errorf("ok %v\n%s", ok, lines)
			}
		})
	}
}

func TestServer(t *testing.T) {
	address, _, dir := node(t)
	soon := time.Now().Add(5 * 24 * time.Hour)
	later := time.Now().Add(60 * 24 * time.Hour)
	ca := certificate(t, nil, later)
	files := func(m *made) doctor.Pair {
		d := t.TempDir()
		der, err := x509.MarshalECPrivateKey(m.key)
		check(t, err)
		cert, key := filepath.Join(d, "cert.pem"), filepath.Join(d, "key.pem")
		check(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.der}), 0o600))
		check(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600))
		return doctor.Pair{Cert: cert, Key: key}
	}
	names := []string{"tunnel.example.com", "*.tunnel.example.com"}
	file := filepath.Join(t.TempDir(), "file")
	check(t, os.WriteFile(file, nil, 0o600))
	busy := httptest.NewServer(nil)
	defer busy.Close()
	port := uint16(busy.Listener.Addr().(*net.TCPAddr).Port)
	here := resolver(t, map[string]string{"tunnel.example.com": "127.0.0.1", "*.tunnel.example.com": "127.0.0.1"})

	for name, tc := range map[string]struct {
		edit func(*doctor.Server)
		ok   bool
		want []string
	}{
		"well, running": {
			edit: func(s *doctor.Server) {
				s.HTTPS, s.DataDir, s.Socket, s.CAFile = address, dir, filepath.Join(dir, "admin.sock"), filepath.Join(dir, "ca.pem")
			}, ok: true,
			want: []string{
				"ok domain: tunnel.example.com is 127.0.0.1, which this machine has", "ok wildcard: names below tunnel.example.com are 127.0.0.1", "ok server: it runs",
				"ok port: " + address + " answers", "ok ca: the own CA's certificate is good until ", "ok certificate: what the server shows for tunnel.example.com is good until",
				"ok data: " + dir, " disk: ", " open files: at most ",
			},
		},
		"well, not running": {ok: true, want: []string{"skip server: it does not run", "ok port: 127.0.0.1:", "is free to listen on"}},
		"no names":          {edit: func(s *doctor.Server) { s.Resolver = resolver(t, nil) }, want: []string{"fail domain: tunnel.example.com: no such name", "fail wildcard: doctor-"}},
		"no wildcard": {
			edit: func(s *doctor.Server) { s.Resolver = resolver(t, map[string]string{"tunnel.example.com": "127.0.0.1"}) },
			want: []string{"ok domain", "fail wildcard: doctor-"},
		},
		"leads elsewhere": {
			edit: func(s *doctor.Server) {
				s.Resolver = resolver(t, map[string]string{"tunnel.example.com": "192.0.2.1", "*.tunnel.example.com": "192.0.2.2"})
			}, ok: true,
			want: []string{"warn domain: tunnel.example.com is 192.0.2.1, of which this machine does not have 192.0.2.1", "warn wildcard: names below the domain are 192.0.2.2, the domain is 192.0.2.1"},
		},
		"localhost": {edit: func(s *doctor.Server) { s.Domain = "localhost" }, ok: true, want: []string{"warn domain: the domain is localhost"}},
		"busy port": {
			edit: func(s *doctor.Server) { s.HTTPS = busy.Listener.Addr().String() },
			want: []string{"fail port: 127.0.0.1:", "can't be listened on: bind: address already in use"},
		},
		"not our address": {edit: func(s *doctor.Server) { s.HTTP = "192.0.2.1:80" }, want: []string{"fail port: 192.0.2.1:80 can't be listened on"}},
		"busy tcp ports":  {edit: func(s *doctor.Server) { s.TCPHost, s.TCPFirst, s.TCPEnd = "127.0.0.1", port, port }, want: []string{"fail tcp ports: none of"}},
		"good certificate": {
			edit: func(s *doctor.Server) { s.Given = []doctor.Pair{files(certificate(t, nil, later, names...))} }, ok: true,
			want: []string{"ok certificate: "},
		},
		"expired certificate": {
			edit: func(s *doctor.Server) {
				s.Given = []doctor.Pair{files(certificate(t, nil, time.Now().Add(-time.Hour), names...))}
			},
			want: []string{"fail certificate: ", "has expired on"},
		},
		"old certificate, one name, no chain": {
			edit: func(s *doctor.Server) {
				s.Given = []doctor.Pair{files(certificate(t, ca, soon, "tunnel.example.com"))}
			}, ok: true,
			want: []string{"expires in 4 days", "is not for doctor.tunnel.example.com", "holds no chain"},
		},
		"wrong key": {
			edit: func(s *doctor.Server) {
				s.Given = []doctor.Pair{{Cert: files(ca).Cert, Key: files(certificate(t, nil, later)).Key}}
			},
			want: []string{"fail certificate: ", "private key does not match"},
		},
		"damaged ca":     {edit: func(s *doctor.Server) { s.CAFile = file }, want: []string{"fail ca: ", "no certificate (PEM)"}},
		"bad data":       {edit: func(s *doctor.Server) { s.DataDir = file }, want: []string{"fail data: ", "can't be written"}},
		"no data so far": {edit: func(s *doctor.Server) { s.DataDir = filepath.Join(filepath.Dir(file), "a", "b") }, ok: true, want: []string{"skip data: ", " disk: "}},
	} {
		t.Run(name, func(t *testing.T) {
			s := doctor.Server{
				Domain: "tunnel.example.com", HTTPS: harness.FreeAddress(t), DataDir: filepath.Dir(file), CAFile: "/nonexistent", Socket: "/nonexistent", Resolver: here,
			}
			if tc.edit != nil {
				tc.edit(&s)
			}
			lines, ok := findings(t, s.Run)
			expect(t, lines, tc.want...)
			if ok != tc.ok {
				t.Errorf("ok %v\n%s", ok, lines)
			}
		})
	}
}
