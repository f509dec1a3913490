package storetest

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/culvert-tunnel/culvert/internal/server/store"
)

// backup: what is durable goes into another store, what is live does not; half a backup
// goes nowhere.
func backup(t *testing.T, one, two *store.Store) {
	ctx, name, dir := t.Context(), fresh(), uuid.NewString()
	token, err := one.CreateToken(ctx, "", store.Rights{Label: "kept"})
	check(t, err)
	check(t, one.Reserve(ctx, name, token.ID))
	key := []byte(strings.Repeat("\x00\xff", 1<<19))
	again(t, func() error { return one.Certs().Write(ctx, dir+"/key", key) })
	p := join(t, one)
	_, err = p.Claim(ctx, route(fresh(), "x", 1))
	check(t, err)
	defer p.Leave(ctx) //nolint:errcheck // the lease ends it, too
	var b bytes.Buffer
	again(t, func() error { b.Reset(); return two.Backup(ctx, &b, map[string][]byte{"file": key}) })
	if strings.Contains(b.String(), token.Secret) {
		t.Error("a token's secret is in it")
	}
	files := 0
	check(t, store.ReadBackup(bytes.NewReader(b.Bytes()), nil, func(name string, content []byte) error {
		if files++; name != "file" || !bytes.Equal(content, key) {
			t.Errorf("%s: %d bytes", name, len(content))
		}
		return nil
	}))
	if files != 1 {
		t.Errorf("%d files", files)
	}
	for what, damaged := range map[string]string{
		"nothing": "", "something else": "{}\n", "half": b.String()[:b.Len()/2], "no end": b.String()[:strings.LastIndex(b.String(), "{")],
		"changed": strings.Replace(b.String(), token.ID, "aaaaaaaaaa", 1), "more": b.String() + "{}\n",
		"another version": strings.Replace(b.String(), `"version":1`, `"version":2`, 1),
	} {
		if err := store.ReadBackup(strings.NewReader(damaged), nil, nil); !errors.Is(err, store.ErrNotBackup) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := one.Restore(ctx, bytes.NewReader(b.Bytes())); !errors.Is(err, store.ErrNotEmpty) {
		t.Errorf("restored over what was there: %v", err)
	}
	other := Embedded(t)
	check(t, other.Restore(ctx, bytes.NewReader(b.Bytes())))
	eventually(t, "the token", func() bool { kept, err := other.VerifyToken(token); return err == nil && kept.Label == "kept" })
	eventually(t, "the name", func() bool { r, ok := other.Reserved(name); return ok && r.Token == token.ID })
	var content []byte
	again(t, func() (err error) { content, _, err = other.Certs().Read(ctx, dir+"/key"); return err })
	if !bytes.Equal(content, key) {
		t.Errorf("%d bytes", len(content))
	}
	if routes, err := other.Routes(ctx); err != nil || len(routes) > 0 || len(other.Nodes()) > 0 {
		t.Errorf("what was live is there: %v, %v", routes, err)
	}
}
