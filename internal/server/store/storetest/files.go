package storetest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/culvert-tunnel/culvert/internal/server/store"
)

func files(t *testing.T, one, two *store.Store) {
	ctx, dir := t.Context(), uuid.NewString()
	f, g := one.Certs(), two.Certs()
	if _, _, err := g.Read(ctx, dir+"/a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("nothing there: %v", err)
	}
	content := []byte(strings.Repeat("x", 1<<20))
	again(t, func() error { return f.Write(ctx, dir+"/a", content) })
	again(t, func() error { return f.Write(ctx, dir+"/b/c", nil) })
	if err := f.Write(ctx, dir+"/a", append(content, 'x')); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("over 1 MiB: %v", err)
	}
	var b []byte
	var info store.File
	again(t, func() (err error) { b, info, err = g.Read(ctx, dir+"/a"); return err })
	if string(b) != string(content) || info.Size != 1<<20 || time.Since(info.Modified) > time.Minute {
		t.Errorf("%d bytes, %+v", len(b), info)
	}
	list, err := g.List(ctx, dir)
	if err != nil || !slices.Equal(list, []string{dir + "/a", dir + "/b/c"}) {
		t.Errorf("%v, %v", list, err)
	}
	check(t, g.Remove(ctx, dir))
	if err := f.Remove(ctx, dir); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
}

func locks(t *testing.T, one, two *store.Store) {
	ctx, name := t.Context(), uuid.NewString()
	f, g := one.Certs(), two.Certs()
	if err := f.Unlock(ctx, name); !errors.Is(err, store.ErrNotLocked) {
		t.Errorf("unlocked what is not locked: %v", err)
	}
	check(t, f.Lock(ctx, name))
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := g.Lock(short, name); err == nil {
		t.Error("two have the lock")
	}
	got := make(chan error, 1)
	go func() { got <- g.Lock(ctx, name) }()
	check(t, f.Unlock(ctx, name))
	select {
	case err := <-got:
		check(t, err)
	case <-time.After(patience):
		t.Fatal("who waited did not get the lock")
	}
	check(t, g.Unlock(ctx, name))
	// A counter that only the lock protects.
	n := 0
	var tasks sync.WaitGroup
	for _, x := range []*store.Files{f, g, f, g} {
		tasks.Go(func() {
			for range 5 {
				if err := x.Lock(ctx, name); err != nil {
					t.Error(err)
					return
				}
				was := n
				_, _, _ = x.Read(ctx, name)
				n = was + 1
				if err := x.Unlock(ctx, name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	tasks.Wait()
	if n != 20 {
		t.Errorf("%d of 20", n)
	}
}
