package endpoint

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestParseHost(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, c := range []struct{ in, want string }{
		{"app.example.com", "app.example.com"},
		{"APP.Example.com.:8443", "app.example.com"},
		{"host:", "host"},
		{"my_app.example.com", "my_app.example.com"},
		{"bücher.example", "xn--bcher-kva.example"},
		{"BÜCHER。example:80", "xn--bcher-kva.example"},
		{long + ".com", long + ".com"},
		{"127.0.0.1:80", "127.0.0.1"},
		{"１２７.0.0.1", "127.0.0.1"},
		{"[2001:DB8:0::1]:443", "2001:db8::1"},
		{"2001:db8::1", "2001:db8::1"},
		{"", ""},
		{".", ""},
		{"a..", ""},
		{"a..b", ""},
		{".a", ""},
		{"-a.com", ""},
		{"a-.com", ""},
		{"a.com-", ""},
		{long + "a.com", ""},
		{strings.Repeat(long+".", 4) + "com", ""},
		{"a b", ""},
		{"a/b", ""},
		{"a@b", ""},
		{"a%00b", ""},
		{"a\x00b", ""},
		{"a\xffb", ""},
		{"*.example.com", ""},
		{"a:http", ""},
		{"a:+80", ""},
		{"a:65536", ""},
		{"1.2.3", ""},
		{"127.1", ""},
		{"0x7f.0x1", ""},
		{"0x7f000001", ""},
		{"01.2.3.4", ""},
		{"[::1", ""},
		{"[::1]x", ""},
		{"[fe80::1%25eth0]", ""},
		{"[127.0.0.1]", ""},
	} {
		got, err := ParseHost(c.in)
		if got != c.want || (err != nil) != (c.want == "") || (err != nil && !errors.Is(err, ErrBadHost)) {
			t.Errorf("ParseHost(%q) = %q, %v; want %q", c.in, got, err, c.want)
		}
	}
}

func TestParseHostAllocations(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { _, _ = ParseHost("app.example.com:443") }); n != 0 {
		t.Errorf("%v allocations for a canonical host", n)
	}
}

func TestPattern(t *testing.T) {
	for _, c := range []struct {
		pattern, host string
		want          bool
	}{
		{"App.example.com", "app.example.com", true},
		{"app.example.com", "b.example.com", false},
		{"*.Example.com", "a.example.com", true},
		{"*.example.com", "example.com", false},
		{"*.example.com", "a.b.example.com", false},
		{"*.example.com", ".example.com", false},
	} {
		p, err := ParsePattern(c.pattern)
		if err != nil || p.Match(c.host) != c.want {
			t.Errorf("%q matches %q: %v, %v", c.pattern, c.host, p.Match(c.host), err)
		}
	}
	for _, bad := range []string{"", "*", "*.", "**.a", "a.*.b", "*.*.a", "*.10.0.0.1", "*.[::1]"} {
		if p, err := ParsePattern(bad); err == nil {
			t.Errorf("%q is taken for pattern %v", bad, p)
		}
	}
}

func FuzzParseHost(f *testing.F) {
	for _, s := range []string{"a.b", "A.b.:80", "[::1]:1", "bücher.de", "xn--bcher-kva", "1.2.3.4", "0x1", "a_b", "::ffff:1.2.3.4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, err := ParseHost(s)
		if err != nil {
			return
		}
		if again, err := ParseHost(host); err != nil || again != host {
			t.Fatalf("%q gives %q, which gives %q, %v", s, host, again, err)
		}
		if _, err := netip.ParseAddr(host); err == nil {
			return
		}
		for label := range strings.SplitSeq(host, ".") {
			if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" ||
				label[0] == '-' || label[len(label)-1] == '-' {
				t.Fatalf("%q gives %q", s, host)
			}
		}
	})
}
