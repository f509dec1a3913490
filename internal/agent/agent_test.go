package agent

import (
	"errors"
	"sync"
	"testing"
)

func TestParseUpstream(t *testing.T) {
	for in, want := range map[string]Upstream{
		"3000":               {Network: "tcp", Address: "localhost:3000"},
		":3000":              {Network: "tcp", Address: "localhost:3000"},
		"db.lan:5432":        {Network: "tcp", Address: "db.lan:5432"},
		"[::1]:80":           {Network: "tcp", Address: "[::1]:80"},
		"http://a":           {Network: "tcp", Address: "a:80"},
		"http://[::1]/":      {Network: "tcp", Address: "[::1]:80"},
		"h2c://a:50051":      {Network: "tcp", Address: "a:50051", Protocol: "h2c"},
		"unix:/run/a.sock":   {Network: "unix", Address: "/run/a.sock"},
		"unix:///run/a.sock": {Network: "unix", Address: "/run/a.sock"},
	} {
		want.text = in
		if got, err := ParseUpstream(in, UpstreamTLS{}); err != nil || got != want {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	if u, err := ParseUpstream("https://a", UpstreamTLS{}); err != nil || u.TLS == nil || u.TLS.ServerName != "a" || u.TLS.InsecureSkipVerify || u.Address != "a:443" {
		t.Errorf("https: %+v, %v", u, err)
	}
	for _, bad := range []string{"", "0", "65536", "a:b", "ftp://a", "http://a/path", "http://u:p@a", "http://a?q", "unix:", "a b:80:90"} {
		if u, err := ParseUpstream(bad, UpstreamTLS{}); !errors.Is(err, ErrBadUpstream) {
			t.Errorf("%q: %+v, %v", bad, u, err)
		}
	}
}

func TestIdentityGrows(t *testing.T) {
	dir := t.TempDir()
	const n = 20
	ids := make(chan Identity, n)
	var tasks sync.WaitGroup
	for range n {
		tasks.Go(func() {
			id, err := NextIdentity(dir)
			if err != nil {
				t.Error(err)
			}
			ids <- id
		})
	}
	tasks.Wait()
	close(ids)
	seen := make(map[uint64]bool)
	first := ""
	for id := range ids {
		if first == "" {
			first = id.ID
		}
		if id.ID != first || seen[id.Generation] {
			t.Errorf("%+v after %d others", id, len(seen))
		}
		seen[id.Generation] = true
	}
}
