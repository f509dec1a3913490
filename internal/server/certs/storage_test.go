package certs

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/server/store/storetest"
)

// TestStorage holds the storage in the cluster's state, and CertMagic's own in files, to
// the same promises.
func TestStorage(t *testing.T) {
	files := storetest.Embedded(t).Certs()
	for name, s := range map[string]certmagic.Storage{
		"shared": Shared{Files: func() *store.Files { return files }},
		"files":  &certmagic.FileStorage{Path: t.TempDir()},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			for _, key := range []string{"a/b/c.crt", "a/b/c.key", "a/d/e.crt", "ab/x"} {
				if err := s.Store(ctx, key, []byte(key)); err != nil {
					t.Fatal(err)
				}
			}
			if b, err := s.Load(ctx, "a/b/c.key"); err != nil || string(b) != "a/b/c.key" {
				t.Errorf("%q, %v", b, err)
			}
			for _, missing := range []string{"a/b", "a/b/c", "nothing"} {
				if _, err := s.Load(ctx, missing); err == nil || missing != "a/b" && !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v", missing, err)
				}
			}
			for key, want := range map[string]bool{"a/b/c.crt": true, "a/b": true, "a": true, "a/b/c": false, "b": false} {
				if s.Exists(ctx, key) != want {
					t.Errorf("%s: not %v", key, want)
				}
			}
			info, err := s.Stat(ctx, "a/b/c.crt")
			if err != nil || !info.IsTerminal || info.Size != 9 || time.Since(info.Modified) > time.Minute {
				t.Errorf("%+v, %v", info, err)
			}
			if info, err := s.Stat(ctx, "a/b"); err != nil || info.IsTerminal {
				t.Errorf("%+v, %v", info, err)
			}
			if _, err := s.Stat(ctx, "nothing"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v", err)
			}
			list, err := s.List(ctx, "a", false)
			if slices.Sort(list); err != nil || !slices.Equal(list, []string{"a/b", "a/d"}) {
				t.Errorf("%v, %v", list, err)
			}
			list, err = s.List(ctx, "a", true)
			for _, want := range []string{"a/b/c.crt", "a/b/c.key", "a/d/e.crt"} {
				if err != nil || !slices.Contains(list, want) {
					t.Errorf("%v, %v", list, err)
				}
			}
			if _, err := s.List(ctx, "nothing", true); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v", err)
			}
			if err := s.Delete(ctx, "a"); err != nil || s.Exists(ctx, "a/d/e.crt") || !s.Exists(ctx, "ab/x") {
				t.Errorf("deleted: %v", err)
			}
			if err := s.Lock(ctx, "l"); err != nil {
				t.Fatal(err)
			}
			short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			defer cancel()
			if err := s.Lock(short, "l"); err == nil {
				t.Error("locked twice")
			}
			if err := s.Unlock(ctx, "l"); err != nil {
				t.Error(err)
			}
		})
	}
}
