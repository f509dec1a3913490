package clienthello

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"
)

// record returns the ClientHello that crypto/tls sends.
func record(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	cfg.InsecureSkipVerify = cfg.ServerName == ""
	go func() {
		_ = tls.Client(client, cfg).Handshake()
		_ = client.Close()
	}()
	h, err := Read(server)
	if err != nil {
		t.Fatal(err)
	}
	return h.Raw
}

// fragment puts the handshake message of hello into records of n bytes.
func fragment(hello []byte, n int) []byte {
	var out []byte
	for body := range slices.Chunk(hello[recordHeader:], n) {
		out = append(out, recordHandshake, 3, 1)
		out = binary.BigEndian.AppendUint16(out, uint16(len(body)))
		out = append(out, body...)
	}
	return out
}

func TestRead(t *testing.T) {
	hello := record(t, &tls.Config{ServerName: "DB.example.com", NextProtos: []string{"h2", "http/1.1"}})
	if len(hello) < 1300 {
		t.Fatalf("a hello of %d bytes has no post-quantum key share", len(hello))
	}
	expect := func(what string, in []byte, r io.Reader) {
		t.Helper()
		h, err := Read(r)
		if err != nil || h.ServerName != "db.example.com" || !h.Offers("h2") || !h.Offers("http/1.1") || h.Offers("h3") || !bytes.Equal(h.Raw, in) {
			t.Errorf("%s: %q %q %v", what, h.ServerName, h.ALPN, err)
		}
	}
	expect("whole", hello, bytes.NewReader(hello))
	expect("a byte at a time", hello, iotest.OneByteReader(bytes.NewReader(hello)))
	for _, n := range []int{1, 2, 3, 4, 5, 100, 1000} {
		in := fragment(hello, n)
		if len(in) > MaxSize {
			continue
		}
		expect("fragmented", in, bytes.NewReader(append(slices.Clip(in), "later bytes"...)))
	}
	for cut := range hello {
		if h, err := Read(bytes.NewReader(hello[:cut])); err == nil || len(h.Raw) != cut {
			t.Fatalf("cut at %d: %v, %d bytes kept", cut, err, len(h.Raw))
		}
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]string{"192.0.2.1": "", "": "", "app.localhost": "app.localhost"} {
		h, err := Read(bytes.NewReader(record(t, &tls.Config{ServerName: name})))
		if err != nil || h.ServerName != want {
			t.Errorf("%q: %q %v", name, h.ServerName, err)
		}
	}
}

// build makes a ClientHello with these extensions.
func build(extensions ...[]byte) []byte {
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0, 2, 0x13, 1, 1, 0)
	all := bytes.Join(extensions, nil)
	body = binary.BigEndian.AppendUint16(body, uint16(len(all)))
	body = append(body, all...)
	message := append([]byte{typeClientHello, 0}, binary.BigEndian.AppendUint16(nil, uint16(len(body)))...)
	message = append(message, body...)
	return append(binary.BigEndian.AppendUint16([]byte{recordHandshake, 3, 1}, uint16(len(message))), message...)
}

func extension(kind uint16, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, kind)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
}

func serverName(names ...string) []byte {
	var list []byte
	for _, n := range names {
		list = append(list, 0)
		list = binary.BigEndian.AppendUint16(list, uint16(len(n)))
		list = append(list, n...)
	}
	return extension(extServerName, append(binary.BigEndian.AppendUint16(nil, uint16(len(list))), list...))
}

func TestHostile(t *testing.T) {
	grease := extension(0x0a0a, nil)
	if h, err := Read(bytes.NewReader(build(grease, serverName("a.example"), extension(0xfe0d, []byte("ech"))))); err != nil || h.ServerName != "a.example" {
		t.Errorf("GREASE and ECH: %q %v", h.ServerName, err)
	}
	for what, c := range map[string]struct {
		in   []byte
		want error
	}{
		"HTTP":             {[]byte("GET / HTTP/1.1\r\n\r\n"), ErrNotTLS},
		"SSLv2":            {[]byte{0x80, 0x2e, 1, 3, 1, 0, 0}, ErrNotTLS},
		"one other byte":   {[]byte("x"), ErrNotTLS},
		"server hello":     {[]byte{22, 3, 3, 0, 4, 2, 0, 0, 0}, ErrNotTLS},
		"empty record":     {[]byte{22, 3, 3, 0, 0}, ErrMalformed},
		"huge message":     {[]byte{22, 3, 3, 0, 4, 1, 1, 0, 0}, ErrTooLarge},
		"two names":        {build(serverName("a.example", "b.example")), ErrMalformed},
		"double extension": {build(grease, grease), ErrMalformed},
		"double name":      {build(serverName("a.example"), serverName("b.example")), ErrMalformed},
		"trailing bytes":   {append(build()[:3], append(binary.BigEndian.AppendUint16(nil, uint16(len(build())-4)), append(build()[5:], 0)...)...), ErrMalformed},
	} {
		if _, err := Read(bytes.NewReader(c.in)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// A hello in records of one byte each ends at the limit.
	if _, err := Read(bytes.NewReader(bytes.Repeat([]byte{22, 3, 3, 0, 1, 1}, 20_000))); err == nil {
		t.Error("an endless hello was taken")
	}
}

// TestReadAllocations: what a visitor can make the edge allocate before it knows him.
func TestReadAllocations(t *testing.T) {
	protocols := bytes.Repeat([]byte{1, 'a'}, 8000)
	alpn := extension(extALPN, append(binary.BigEndian.AppendUint16(nil, uint16(len(protocols))), protocols...))
	for what, c := range map[string]struct {
		in   []byte
		most uint64
	}{
		"a record announced":      {[]byte{recordHandshake, 3, 1, 0x40, 0}, 24 << 10},
		"a message announced":     {[]byte{recordHandshake, 3, 1, 0, 4, typeClientHello, 0, 0xff, 0xff}, 4 << 10},
		"8,000 protocols":         {build(alpn), 320 << 10},
		"as much as may be":       {bytes.Repeat(append([]byte{recordHandshake, 3, 1, 0x40, 0, typeClientHello, 0, 0xff, 0xff}, make([]byte, maxRecord-4)...), 5), 400 << 10},
		"as slowly as it can get": {bytes.Repeat([]byte{recordHandshake, 3, 1, 0, 1, typeClientHello}, 20_000), 400 << 10},
	} {
		const times = 10
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range times {
			_, _ = Read(bytes.NewReader(c.in))
		}
		runtime.ReadMemStats(&after)
		if got := (after.TotalAlloc - before.TotalAlloc) / times; got > c.most {
			t.Errorf("%s: %d bytes, want at most %d", what, got, c.most)
		}
	}
}

// FuzzRead holds the parser against crypto/tls: what both accept they read alike.
func FuzzRead(f *testing.F) {
	f.Add(record(f, &tls.Config{ServerName: "a.example", NextProtos: []string{"h2"}}))
	f.Add(record(f, &tls.Config{ServerName: "", MaxVersion: tls.VersionTLS12}))
	f.Add(build(serverName("a.example", "b.example")))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := Read(bytes.NewReader(b))
		if cap(h.Raw) > 2*MaxSize {
			t.Fatalf("%d bytes held", cap(h.Raw))
		}
		if !bytes.HasPrefix(b, h.Raw) {
			t.Fatal("Raw is not what was read")
		}
		if err != nil {
			return
		}
		var theirs *tls.ClientHelloInfo
		client, server := net.Pipe()
		go func() {
			_, _ = client.Write(h.Raw)
			_, _ = io.Copy(io.Discard, client)
		}()
		_ = tls.Server(server, &tls.Config{GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
			theirs = i
			return nil, errors.New("seen enough")
		}}).HandshakeContext(context.Background())
		_ = server.Close()
		_ = client.Close()
		if theirs == nil {
			return
		}
		if h.ServerName != "" && !bytes.EqualFold([]byte(h.ServerName), []byte(theirs.ServerName)) {
			t.Errorf("server name %q, crypto/tls reads %q", h.ServerName, theirs.ServerName)
		}
		if !slices.Equal(h.ALPN, theirs.SupportedProtos) {
			t.Errorf("ALPN %q, crypto/tls reads %q", h.ALPN, theirs.SupportedProtos)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	hello := record(b, &tls.Config{ServerName: "db.example.com", NextProtos: []string{"h2", "http/1.1"}})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Read(bytes.NewReader(hello)); err != nil {
			b.Fatal(err)
		}
	}
}
