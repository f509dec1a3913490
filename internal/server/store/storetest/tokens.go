package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/internal/server/store"
)

func tokens(t *testing.T, one, two *store.Store) {
	ctx := t.Context()
	rights := store.Rights{Label: "l", Allow: []string{"tcp:*"}, MaxEndpoints: 3, Expires: time.Now().Add(time.Hour).UTC()}
	heard := make(chan string, 100)
	two.TokensChanged(func(was, is *store.Token) {
		if was != nil && is == nil {
			heard <- was.ID
		}
	})
	token, err := one.CreateToken(ctx, "", rights)
	check(t, err)
	kept, err := one.VerifyToken(token)
	if err != nil || kept.Label != "l" || kept.MaxEndpoints != 3 || !kept.Expires.Equal(rights.Expires) || kept.Expired(time.Now()) || !kept.Expired(rights.Expires) {
		t.Errorf("read after write: %+v, %v", kept, err)
	}
	if strings.Contains(fmt.Sprintf("%+v", kept), token.Secret) {
		t.Error("the secret is kept")
	}
	eventually(t, "the token at the other", func() bool { _, err := two.VerifyToken(token); return err == nil })
	wrong := token
	wrong.Secret = strings.Repeat("a", len(token.Secret))
	if _, err := two.VerifyToken(wrong); !errors.Is(err, store.ErrNoToken) {
		t.Errorf("a wrong secret: %v", err)
	}
	check(t, one.RevokeToken(ctx, token.ID))
	if _, err := one.VerifyToken(token); !errors.Is(err, store.ErrNoToken) {
		t.Errorf("revoked: %v", err)
	}
	for id := range heard {
		if id == token.ID {
			break
		}
	}
	if err := two.RevokeToken(ctx, token.ID); !errors.Is(err, store.ErrNoToken) {
		t.Errorf("revoked twice: %v", err)
	}
	if slices.ContainsFunc(two.Tokens(), func(k store.Token) bool { return k.ID == token.ID }) {
		t.Error("still listed")
	}
}

func firstToken(t *testing.T, one, two *store.Store) {
	made := 0
	for _, s := range []*store.Store{one, two, one} {
		token, err := s.FirstToken(t.Context(), "")
		switch {
		case err == nil:
			made++
			check(t, s.RevokeToken(t.Context(), token.ID)) // it is not made again
		case !errors.Is(err, store.ErrExists):
			t.Fatal(err)
		}
	}
	if made > 1 {
		t.Errorf("%d first tokens", made)
	}
}
