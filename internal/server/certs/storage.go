package certs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/caddyserver/certmagic"

	"github.com/culvert-tunnel/culvert/internal/server/store"
)

// Shared is certmagic.Storage on the cluster's state: an account, its orders and what they
// bring belong to all nodes, and of all nodes one at a time orders a name. Files is asked
// at each use, because the state is opened after the certificates are configured.
type Shared struct {
	Files func() *store.Files
}

var _ certmagic.Storage = Shared{}

// notFound says it in the words that CertMagic asks for.
func notFound(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}

// Lock implements certmagic.Locker.
func (s Shared) Lock(ctx context.Context, name string) error { return s.Files().Lock(ctx, name) }

// Unlock implements certmagic.Locker.
func (s Shared) Unlock(ctx context.Context, name string) error { return s.Files().Unlock(ctx, name) }

// Store implements certmagic.Storage.
func (s Shared) Store(ctx context.Context, key string, value []byte) error {
	return s.Files().Write(ctx, key, value)
}

// Load implements certmagic.Storage.
func (s Shared) Load(ctx context.Context, key string) ([]byte, error) {
	b, _, err := s.Files().Read(ctx, key)
	return b, notFound(err)
}

// Delete implements certmagic.Storage: of a file, or of a directory with all in it.
func (s Shared) Delete(ctx context.Context, key string) error {
	return notFound(s.Files().Remove(ctx, key))
}

// Exists implements certmagic.Storage.
func (s Shared) Exists(ctx context.Context, key string) bool {
	_, err := s.Stat(ctx, key)
	return err == nil
}

// List implements certmagic.Storage.
func (s Shared) List(ctx context.Context, dir string, recursive bool) ([]string, error) {
	paths, err := s.Files().List(ctx, dir)
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("list %s: %w", dir, fs.ErrNotExist)
	}
	if recursive {
		return paths, nil
	}
	below := strings.TrimSuffix(dir, "/")
	var list []string
	for _, p := range paths { // sorted: what has the same first part stands together
		first, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(p, below), "/"), "/")
		if entry := path.Join(below, first); len(list) == 0 || list[len(list)-1] != entry {
			list = append(list, entry)
		}
	}
	return list, nil
}

// Stat implements certmagic.Storage.
func (s Shared) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	_, file, err := s.Files().Read(ctx, key)
	if err == nil {
		return certmagic.KeyInfo{Key: key, Modified: file.Modified, Size: file.Size, IsTerminal: true}, nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		return certmagic.KeyInfo{}, err
	}
	below, err := s.Files().List(ctx, key)
	if err == nil && len(below) == 0 {
		err = fmt.Errorf("stat %s: %w", key, fs.ErrNotExist)
	}
	return certmagic.KeyInfo{Key: key}, err
}
