package auth

import (
	"errors"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/server/store/storetest"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

func TestAuthenticate(t *testing.T) {
	tokens, ctx := storetest.Embedded(t), t.Context()
	make := func(rights store.Rights) tunnel.Token {
		t.Helper()
		token, err := tokens.CreateToken(ctx, "", rights)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	all := make(store.Rights{})
	few := make(store.Rights{Allow: []string{"https://*.a.example.com", "https://b.example.com/api/", "tls://db.example.com", "tcp:20000-20009"}, MaxSessions: 3})
	for name, want := range map[endpoint.Name]bool{
		{Kind: endpoint.HTTP, Host: "x.a.example.com"}:               true,
		{Kind: endpoint.HTTP, Host: "x.y.a.example.com"}:             false,
		{Kind: endpoint.HTTP, Host: "a.example.com"}:                 false,
		{Kind: endpoint.HTTP, Host: "x.a.example.com", Path: "/y"}:   true,
		{Kind: endpoint.HTTP, Host: "b.example.com", Path: "/api"}:   true,
		{Kind: endpoint.HTTP, Host: "b.example.com", Path: "/api/v"}: true,
		{Kind: endpoint.HTTP, Host: "b.example.com", Path: "/apis"}:  false,
		{Kind: endpoint.HTTP, Host: "b.example.com"}:                 false,
		{Kind: endpoint.TLS, Host: "db.example.com"}:                 true,
		{Kind: endpoint.HTTP, Host: "db.example.com"}:                false,
		{Kind: endpoint.TCP, Port: 20009}:                            true,
		{Kind: endpoint.TCP, Port: 20010}:                            false,
	} {
		g, err := Authenticate(tokens, few.Credential())
		if err != nil || g.MayBind(name) != want {
			t.Errorf("%v: %v, %v", name, !want, err)
		}
		if g, err = Authenticate(tokens, all.Credential()); err != nil || !g.MayBind(name) {
			t.Errorf("%v: a token without rules may not: %v", name, err)
		}
	}
	if g, err := Authenticate(tokens, few.Credential()); err != nil || g.MaxSessions != 3 || g.TokenID != few.ID {
		t.Errorf("%+v, %v", g, err)
	}
	old, boss := make(store.Rights{Expires: time.Now()}), make(store.Rights{Admin: true})
	if _, err := Authenticate(tokens, old.Credential()); !errors.Is(err, ErrExpired) {
		t.Errorf("expired: %v", err)
	}
	if _, err := Authenticate(tokens, boss.Credential()); !errors.Is(err, ErrWrongUse) {
		t.Errorf("an agent with an admin's token: %v", err)
	}
	if err := Admin(tokens, all.Credential()); !errors.Is(err, ErrWrongUse) {
		t.Errorf("an admin with an agent's token: %v", err)
	}
	if err := Admin(tokens, boss.Credential()); err != nil {
		t.Errorf("an admin: %v", err)
	}
	wrong := all
	wrong.Secret = few.Secret
	if err := tokens.RevokeToken(ctx, few.ID); err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{"", "cvt_x", wrong.Credential(), few.Credential()} {
		if _, err := Authenticate(tokens, c); !errors.Is(err, ErrDenied) {
			t.Errorf("%.10q: %v", c, err)
		}
	}
}

func TestRules(t *testing.T) {
	for rule, ok := range map[string]bool{
		"https://app.example.com": true, "https://app.example.com/a": true, "https://*.example.com/a/b": true, "https://a.example.com/..": false, "tls://a.example.com/b": false, "http://*": true, "tcp:*": true, "tcp://:20000": true, "tls:*.example.com": true,
		"": false, "https": false, "https://": false, "ftp://x": false, "tcp:5-1": false, "tcp:0": false, "https://a b": false, "https://*.*.x": false,
	} {
		if err := CheckRule(rule); (err == nil) != ok {
			t.Errorf("%q: %v", rule, err)
		}
	}
}
