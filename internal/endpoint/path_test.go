package endpoint

import (
	"slices"
	"strings"
	"testing"
)

func TestParsePath(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "/": "", "/api": "/api", "/api/": "/api", "/a/b-c.d~e": "/a/b-c.d~e", "/A/a@b": "/A/a@b",
		"/" + strings.Repeat("a", 255): "/" + strings.Repeat("a", 255),
	} {
		if got, err := ParsePath(in); got != want || err != nil {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, bad := range []string{
		"api", "//", "//api", "/a//b", "/.", "/..", "/a/../b", "/a/./b", "/%61", "/a;b", "/a\\b", "/ü", "/a b", "/a?b", "/a#b", "/a\x00",
		"/" + strings.Repeat("a", 256), strings.Repeat("/a", 17),
	} {
		if got, err := ParsePath(bad); err == nil {
			t.Errorf("%q is taken for %q", bad, got)
		}
	}
}

func TestPrefixes(t *testing.T) {
	for path, want := range map[string]string{
		"/a/b/c": "/a/b/c /a/b /a ", "/a/": "/a/ /a ", "/": "/ ", "": "", "*": "* ",
		"/api/" + strings.Repeat("x", 300): "/api/ /api ",
		"/" + strings.Repeat("x", 300):     "/ ",
		strings.Repeat("x", 300):           "",
	} {
		var got []string
		Prefixes(path, func(p string) bool { got = append(got, p); return false })
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}

func TestReadings(t *testing.T) {
	for target, want := range map[string][]string{
		"/api/x?y=/../%2e":     {"/api/x"},
		"/%61pi/x":             {"/api/x", "/api/x", "/api/x"},
		"/api/%2e%2e/x":        {"/api/../x", "/x", "/x"},
		"/api/../x":            {"/api/../x", "/x"},
		"/api%2Fx":             {"/api%2Fx", "/api/x", "/api/x"},
		"/a/..%5cb":            {"/a/..%5cb", "/b", "/b"},
		"/a\\..\\b":            {"/a\\..\\b", "/b"},
		"/api/..;/x":           {"/api/..;/x", "/x"},
		"/a;v=1/b":             {"/a;v=1/b", "/a/b"},
		"//api":                {"//api", "/api"},
		"/api/%252e%252e/x":    {"/api/%2e%2e/x", "/api/%2e%2e/x", "/x", "/x"},
		"/%zz%":                {"/%zz%", "/%zz%"},
		"/.well-known/a":       {"/.well-known/a", "/.well-known/a"},
		"/%2525252525252e/../": {"/%25252525252e/../", "/", "/", "/"},
	} {
		var got []string
		Readings(target, func(p string) bool { got = append(got, p); return true })
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", target, got, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { Readings("/a/b?c=%20", func(string) bool { return true }) }); n != 0 {
		t.Errorf("%v allocations for a plain path", n)
	}
}

func TestStripPrefix(t *testing.T) {
	for _, c := range []struct{ target, prefix, want string }{
		{"/api/x?y", "/api", "/x?y"},
		{"/api", "/api", "/"},
		{"/api?y", "/api", "/?y"},
		{"/api/", "/api", "/"},
		{"/%61p%69/x", "/api", "/x"},
		{"/api//evil.example", "/api", "/evil.example"},
		{"/api/\\evil.example", "/api", "/evil.example"},
		{"/x", "", "/x"},
	} {
		if got := StripPrefix(c.target, c.prefix); got != c.want {
			t.Errorf("%q without %q: %q, want %q", c.target, c.prefix, got, c.want)
		}
	}
}

func FuzzReadings(f *testing.F) {
	for _, s := range []string{"/api/x", "/%2e%2e/%252e", "/a;b\\c//d", "*", "", "/api/..%2f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		n := 0
		Readings(target, func(path string) bool {
			n++
			if len(path) > len(target)+1 {
				t.Fatalf("%q is read as the longer %q", target, path)
			}
			Prefixes(path, func(prefix string) bool { return len(prefix) > maxPrefix+1 })
			return true
		})
		if n < 1 || n > maxDecodings+1 {
			t.Fatalf("%q has %d readings", target, n)
		}
		if s := StripPrefix(target, "/api"); !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") {
			t.Fatalf("%q is stripped to %q", target, s)
		}
	})
}
