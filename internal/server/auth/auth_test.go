package auth

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/store"
)

func TestAuthenticate(t *testing.T) {
	dir := t.TempDir()
	tokens, err := store.OpenTokens(dir)
	if err != nil {
		t.Fatal(err)
	}
	all, err := tokens.Create("", "all", nil)
	if err != nil {
		t.Fatal(err)
	}
	few, err := tokens.Create("", "few", []string{"https://*.a.example.com", "tls://db.example.com", "tcp:20000-20009"})
	if err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile(filepath.Join(dir, "tokens.json"))
	if err != nil || strings.Contains(string(kept), all.Secret) {
		t.Errorf("kept as it is: %v", err)
	}
	if tokens, err = store.OpenTokens(dir); err != nil { // as after a restart
		t.Fatal(err)
	}
	for name, want := range map[endpoint.Name]bool{
		{Kind: endpoint.HTTP, Host: "x.a.example.com"}:   true,
		{Kind: endpoint.HTTP, Host: "x.y.a.example.com"}: false,
		{Kind: endpoint.HTTP, Host: "a.example.com"}:     false,
		{Kind: endpoint.TLS, Host: "db.example.com"}:     true,
		{Kind: endpoint.HTTP, Host: "db.example.com"}:    false,
		{Kind: endpoint.TCP, Port: 20009}:                true,
		{Kind: endpoint.TCP, Port: 20010}:                false,
	} {
		g, err := Authenticate(tokens, few.Credential())
		if err != nil || g.MayBind(name) != want {
			t.Errorf("%v: %v, %v", name, !want, err)
		}
		if g, err = Authenticate(tokens, all.Credential()); err != nil || !g.MayBind(name) {
			t.Errorf("%v: a token without rules may not: %v", name, err)
		}
	}
	wrong := all
	wrong.Secret = few.Secret
	if err := tokens.Revoke(few.ID); err != nil {
		t.Fatal(err)
	}
	if err := tokens.Revoke(few.ID); !errors.Is(err, store.ErrNoToken) {
		t.Errorf("revoked twice: %v", err)
	}
	for _, c := range []string{"", "cvt_x", wrong.Credential(), few.Credential()} {
		if _, err := Authenticate(tokens, c); !errors.Is(err, ErrDenied) {
			t.Errorf("%.10q: %v", c, err)
		}
	}
	if list := tokens.List(); len(list) != 1 || list[0].ID != all.ID {
		t.Errorf("left: %v", list)
	}
}

func TestRules(t *testing.T) {
	for rule, ok := range map[string]bool{
		"https://app.example.com": true, "http://*": true, "tcp:*": true, "tcp://:20000": true, "tls:*.example.com": true,
		"": false, "https": false, "https://": false, "ftp://x": false, "tcp:5-1": false, "tcp:0": false, "https://a b": false, "https://*.*.x": false,
	} {
		if err := CheckRule(rule); (err == nil) != ok {
			t.Errorf("%q: %v", rule, err)
		}
	}
}
