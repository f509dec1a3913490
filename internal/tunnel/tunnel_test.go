package tunnel

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

var update = flag.Bool("update", false, "rewrite the golden bytes")

// messages are one of each kind, every field set.
func messages() map[string]proto.Message {
	control := func(m isControl_Message) *Control { return &Control{Message: m} }
	return map[string]proto.Message{
		"hello": &Hello{
			Version: 1, Token: "cvt_id_secret", AgentId: "agent", Generation: 7, Mode: LinkMode_LINK_MODE_RESUME, Features: []string{"x/1"},
			Metadata:  &Metadata{Version: "1.0.0", Os: "linux", Arch: "amd64", Hostname: "h", Labels: map[string]string{"k": "v"}},
			SessionId: []byte{1}, LinkId: []byte{2}, ResumeProof: []byte{3}, Received: 4, Attempt: 5, Seat: 6,
		},
		"welcome": &HelloReply{Reply: &HelloReply_Welcome{Welcome: &Welcome{
			SessionId: []byte{1}, Node: "n", Region: "r", ServerVersion: "1.0.0", HeartbeatMs: 5000, Limits: &Limits{Endpoints: 10, Streams: 20},
			LinkId: []byte{2}, ResumeKey: []byte{3}, Features: []string{"x/1"}, Received: 4, Domain: "example.com", ResumeWindowMs: 30000,
			Servers: []string{"a:443"},
		}}},
		"refusal": &HelloReply{Reply: &HelloReply_Refusal{Refusal: &Refusal{
			Code: "token_invalid", Message: "no", Retryable: true, RetryAfterMs: 1000, Versions: []uint32{1},
		}}},
		"bind": control(&Control_Bind{Bind: &Bind{Request: 1, Spec: &EndpointSpec{
			Kind: "http", Name: "web", Host: "app.example.com", Label: "app", Port: 20022, Redirect: "always", UpstreamProtocol: "h2c", HostHeader: "h", Plain: "only",
			Ports: 11, MaxConnections: 100, ConnectionRate: 10, Bandwidth: 1 << 40, ConnectionBandwidth: 1000, IdleTimeoutMs: 60000, KeepAliveMs: -1,
			UpstreamAlpn: true, Path: "/p", StripPrefix: true, Compress: true, ClientCa: "ca",
			Pool: true, Balance: "round-robin", Sticky: "cookie", Weight: 3,
		}}}),
		"bound":         control(&Control_Bound{Bound: &Bound{Request: 1, EndpointId: "e", Url: "https://a", MoreUrls: []string{"http://a"}, Port: 1}}),
		"refused":       control(&Control_Refused{Refused: &Refused{Request: 1, Code: "name_taken", Message: "no", Retryable: true}}),
		"unbind":        control(&Control_Unbind{Unbind: &Unbind{EndpointId: "e"}}),
		"unbound":       control(&Control_Unbound{Unbound: &Unbound{EndpointId: "e", Code: "superseded", Message: "m"}}),
		"health":        control(&Control_Health{Health: &Health{EndpointId: "e", Down: true}}),
		"drain":         control(&Control_Drain{Drain: &Drain{Reason: "r", DeadlineMs: 1000, Addresses: []string{"a:443"}, Successor: true}}),
		"ping":          control(&Control_Ping{Ping: &Ping{Id: 1, SentUnixNs: 2}}),
		"pong":          control(&Control_Pong{Pong: &Pong{Id: 1, SentUnixNs: 2}}),
		"notice":        control(&Control_Notice{Notice: &Notice{Level: "warn", Code: "c", Message: "m"}}),
		"stream_header": &StreamHeader{EndpointId: "e", Visitor: "192.0.2.1:1", Edge: "192.0.2.2:443", ServerName: "a", Alpn: []string{"h2"}, TraceParent: "tp", TraceState: "ts", VisitorId: "v", UpstreamProtocol: "h2", PortOffset: 3, Datagrams: true},
		"stream_reply":  &StreamReply{Code: "upstream_refused", Message: "m", Alpn: "h2", Datagrams: true},
	}
}

func TestGoldenBytes(t *testing.T) {
	for name, m := range messages() {
		b, err := Append(nil, m, MaxHandshake)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name+".golden")
		if *update {
			if err := os.WriteFile(path, []byte(hex.EncodeToString(b)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, want) {
			t.Errorf("%s is %x, golden bytes are %x", name, b, want)
		}
		back := m.ProtoReflect().New().Interface()
		r := bytes.NewReader(append(want, "rest"...))
		if err := Read(r, back, MaxHandshake); err != nil || !proto.Equal(back, m) || r.Len() != 4 {
			t.Errorf("%s comes back as %v (%v), %d bytes left", name, back, err, r.Len())
		}
		for cut := range want {
			err := Read(bytes.NewReader(want[:cut]), back, MaxHandshake)
			if cut == 0 && err != io.EOF || cut > 0 && !errors.Is(err, io.ErrUnexpectedEOF) { //nolint:errorlint // documented bare
				t.Errorf("%s cut at %d: %v", name, cut, err)
			}
		}
	}
}

func TestLimits(t *testing.T) {
	long := &StreamReply{Message: strings.Repeat("x", MaxHeader)}
	if _, err := Append(nil, long, MaxHeader); !errors.Is(err, ErrTooLarge) {
		t.Errorf("an overlong message was encoded: %v", err)
	}
	b, err := Append(nil, long, MaxControl)
	if err != nil {
		t.Fatal(err)
	}
	if err := Read(bytes.NewReader(b), &StreamReply{}, MaxHeader); !errors.Is(err, ErrTooLarge) {
		t.Errorf("an overlong message was read: %v", err)
	}
	for _, in := range [][]byte{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {0x80, 0x00}, {3, 0xff, 0xff, 0xff}} {
		err := Read(bytes.NewReader(in), &StreamReply{}, MaxHeader)
		if !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrMalformed) {
			t.Errorf("%x: %v", in, err)
		}
	}
}

// TestClientCAOnTheWire: an endpoint that asks visitors for a certificate is of a kind that a
// node which doesn't know of that refuses, and neither goes without the other.
func TestClientCAOnTheWire(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	spec := endpoint.Spec{Kind: endpoint.HTTP, Name: "web", ClientCA: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
	m := SpecToWire(spec)
	if back, err := SpecFromWire(m); m.GetKind() != "https" || err != nil || back != spec {
		t.Errorf("%v comes back as %+v, %v", m, back, err)
	}
	for _, bad := range []*EndpointSpec{{Kind: "http", ClientCa: spec.ClientCA}, {Kind: "https"}, {Kind: "https", ClientCa: "x"}, {Kind: "tls", ClientCa: spec.ClientCA}} {
		if got, err := SpecFromWire(bad); err == nil {
			t.Errorf("%v is read as %+v", bad, got)
		}
	}
}

func TestToken(t *testing.T) {
	token := NewToken(strings.Repeat("a", 51) + "q")
	back, err := ParseToken(" " + token.Reveal() + "\n")
	if err != nil || back != token {
		t.Fatalf("%v came back as %v: %v", token, back, err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "token", token)
	within := struct{ Token Token }{token}
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "cfg", within, "list", []Token{token})
	if shown := fmt.Sprintf("%v %s %+v %#v %+v %#v", token, token, token, token, within, within) + log.String(); strings.Contains(shown, token.Secret) {
		t.Errorf("the secret shows: %s", shown)
	}
	for _, bad := range []string{"", "cvt", "cvt_a_b", token.Reveal() + "_x", strings.ToUpper(token.Reveal()), token.Credential() + "_short", "xvt" + token.Reveal()[3:]} {
		if _, err := ParseToken(bad); !errors.Is(err, ErrTokenForm) || strings.Contains(err.Error(), token.Secret) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestClean(t *testing.T) {
	if got := Clean("a\x1b[31mb\nc"); got != "a [31mb c" {
		t.Errorf("got %q", got)
	}
	if got := Clean(strings.Repeat("é", 1000)); len(got) > 510 {
		t.Errorf("%d bytes left", len(got))
	}
}

// fuzz reads a message from arbitrary bytes: no panic, no more memory than the
// limit allows, and what was read can be written.
func fuzz(f *testing.F, limit int, seeds []string, fresh func() proto.Message) {
	for _, s := range seeds {
		b, err := Append(nil, messages()[s], limit)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := fresh()
		if err := Read(bytes.NewReader(b), m, limit); err != nil {
			return
		}
		if _, err := Append(nil, m, 2*limit); err != nil {
			t.Errorf("read but can't be written: %v", err)
		}
		if h, ok := m.(*StreamHeader); ok {
			if _, err := Append(nil, HeaderFor(h.GetEndpointId(), VisitorFrom(h)), 2*limit); err != nil {
				t.Error(err)
			}
		}
		if c, ok := m.(*Control); ok && c.GetBind() != nil {
			if spec, err := SpecFromWire(c.GetBind().GetSpec()); err == nil {
				again, err := SpecFromWire(SpecToWire(spec))
				if err != nil || again != spec {
					t.Errorf("%+v came back as %+v: %v", spec, again, err)
				}
			}
		}
	})
}

// TestReadAllocations: an announced length alone costs nothing, whatever the limit, and
// the costliest message of a length costs a bounded multiple of it.
func TestReadAllocations(t *testing.T) {
	allocated := func(b []byte, limit int, fresh func() proto.Message) uint64 {
		const times = 10
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range times {
			_ = Read(bytes.NewReader(b), fresh(), limit)
		}
		runtime.ReadMemStats(&after)
		return (after.TotalAlloc - before.TotalAlloc) / times
	}
	for name, c := range map[string]struct {
		in    []byte
		limit int
		fresh func() proto.Message
		most  uint64
	}{
		"hello announced":          {protowire.AppendVarint(nil, MaxHandshake), MaxHandshake, func() proto.Message { return &Hello{} }, 4 << 10},
		"control announced":        {protowire.AppendVarint(nil, MaxControl), MaxControl, func() proto.Message { return &Control{} }, 4 << 10},
		"header announced":         {protowire.AppendVarint(nil, MaxHeader), MaxHeader, func() proto.Message { return &StreamHeader{} }, 4 << 10},
		"announced over the limit": {protowire.AppendVarint(nil, 1<<27), MaxHeader, func() proto.Message { return &StreamHeader{} }, 4 << 10},
		// Empty strings in a slice: 2 bytes on the wire, 16 in memory, and the slice grows.
		"header of empty protocols": {append(protowire.AppendVarint(nil, MaxHeader), bytes.Repeat([]byte{5<<3 | 2, 0}, MaxHeader/2)...), MaxHeader, func() proto.Message { return &StreamHeader{} }, 64 * MaxHeader},
		"hello of empty features":   {append(protowire.AppendVarint(nil, MaxHandshake), bytes.Repeat([]byte{6<<3 | 2, 0}, MaxHandshake/2)...), MaxHandshake, func() proto.Message { return &Hello{} }, 64 * MaxHandshake},
	} {
		if got := allocated(c.in, c.limit, c.fresh); got > c.most {
			t.Errorf("%s: %d bytes, want at most %d", name, got, c.most)
		}
	}
}

func FuzzHello(f *testing.F) {
	fuzz(f, MaxHandshake, []string{"hello"}, func() proto.Message { return &Hello{} })
}

func FuzzHelloReply(f *testing.F) {
	fuzz(f, MaxHandshake, []string{"welcome", "refusal"}, func() proto.Message { return &HelloReply{} })
}

func FuzzControl(f *testing.F) {
	fuzz(f, MaxControl, []string{"bind", "bound", "refused", "unbind", "unbound", "drain", "ping", "notice"}, func() proto.Message { return &Control{} })
}

func FuzzStreamHeader(f *testing.F) {
	fuzz(f, MaxHeader, []string{"stream_header"}, func() proto.Message { return &StreamHeader{} })
}

func FuzzStreamReply(f *testing.F) {
	fuzz(f, MaxHeader, []string{"stream_reply"}, func() proto.Message { return &StreamReply{} })
}
