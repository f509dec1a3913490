package config

import (
	"errors"
	"net/url"
	"testing"
)

func TestProxies(t *testing.T) {
	for name, tc := range map[string]struct {
		env      map[string]string
		explicit string
		address  string
		want     string
	}{
		"none":             {address: "node.example.com:443"},
		"environment":      {env: map[string]string{"HTTPS_PROXY": "http://u:p@proxy:3128"}, address: "node.example.com:443", want: "http://u:p@proxy:3128"},
		"lower case":       {env: map[string]string{"https_proxy": "http://proxy"}, address: "node.example.com:443", want: "http://proxy"},
		"all":              {env: map[string]string{"ALL_PROXY": "socks5://proxy"}, address: "node.example.com:443", want: "socks5://proxy"},
		"of two":           {env: map[string]string{"ALL_PROXY": "socks5://proxy", "HTTPS_PROXY": "http://other"}, address: "node.example.com:443", want: "http://other"},
		"not http":         {env: map[string]string{"HTTP_PROXY": "http://proxy"}, address: "node.example.com:443"},
		"excepted":         {env: map[string]string{"HTTPS_PROXY": "http://proxy", "NO_PROXY": "example.org,.example.com"}, address: "node.example.com:443"},
		"excepted network": {env: map[string]string{"HTTPS_PROXY": "http://proxy", "NO_PROXY": "10.0.0.0/8"}, address: "10.1.2.3:443"},
		"this machine":     {env: map[string]string{"HTTPS_PROXY": "http://proxy"}, address: "127.0.0.1:443"},
		"explicit":         {env: map[string]string{"HTTPS_PROXY": "http://proxy", "NO_PROXY": "*"}, explicit: "http://other", address: "127.0.0.1:443", want: "http://other"},
		"off":              {env: map[string]string{"HTTPS_PROXY": "http://proxy"}, explicit: "off", address: "node.example.com:443"},
	} {
		choose, err := Proxies(func(name string) (string, bool) { v, ok := tc.env[name]; return v, ok }, tc.explicit, url.Parse)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := ""
		if choose != nil {
			if u, err := choose(tc.address); err != nil {
				t.Errorf("%s: %v", name, err)
			} else if u != nil {
				got = u.String()
			}
		}
		if got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	bad := errors.New("bad")
	if _, err := Proxies(func(string) (string, bool) { return "x", true }, "", func(string) (*url.URL, error) { return nil, bad }); !errors.Is(err, bad) {
		t.Error(err)
	}
}
