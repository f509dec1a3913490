package config

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzImport: whatever stands in a foreign file, it is read or refused, and what is
// read can be written.
func FuzzImport(f *testing.F) {
	for _, seed := range []string{
		"version: '3'\nendpoints: [{name: a, url: https://a.ngrok.app, upstream: {url: 1}}]\n", "tunnels: {a: {proto: tcp, addr: 22}, b: 1, c: [x]}\n",
		"serverAddr = 'a'\n[[proxies]]\nname = 'a'\ntype = 'http'\ncustomDomains = ['a']\nplugin = 3\n", "proxies: [1, {type: https, subdomain: a, locations: [/]}]\n",
	} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, text string, isTOML bool) {
		name := "f.yml"
		if isTOML {
			name = "f.toml"
		}
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		in, err := Import(path)
		if err != nil {
			return
		}
		if _, err := Write(in.Agent); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	})
}
