package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/culvert-tunnel/culvert/internal/server/certs"
	"github.com/culvert-tunnel/culvert/internal/server/store"
)

// backup writes what is to be kept of the cluster's state: with it goes the CA that agents
// trust, since no other does in its place.
func (s *Server) backup(ctx context.Context, w io.Writer) error {
	ca, err := certs.ReadCA(s.cfg.DataDir)
	if err != nil {
		return fmt.Errorf("read the CA: %w", err)
	}
	return s.store.Backup(ctx, w, map[string][]byte{certs.CABundle: ca})
}

// CheckBackup reports whether what is read is a whole backup.
func CheckBackup(r io.Reader) error { return store.ReadBackup(r, nil, nil) }

// Restore makes the data directory of cfg, and the etcd that it names if it does, what they
// were when the backup was made. Both are empty before, or stay as they are.
func Restore(ctx context.Context, cfg Config, backup io.ReadSeeker) (err error) {
	var ca []byte
	err = store.ReadBackup(backup, nil, func(name string, content []byte) error {
		if name == certs.CABundle {
			ca = bytes.Clone(content)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := backup.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := makeDataDir(cfg.DataDir); err != nil {
		return err
	}
	lock, err := lockDir(cfg.DataDir)
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // done
	if store.Exists(cfg.DataDir) {
		return store.ErrNotEmpty
	}
	if ca != nil {
		if err := certs.AdoptCA(cfg.DataDir, ca); err != nil {
			return err
		}
	}
	st, err := store.Open(ctx, store.Config{Dir: cfg.DataDir, External: cfg.Etcd, Logger: cfg.Logger})
	if err != nil {
		return err
	}
	err = errors.Join(st.Restore(ctx, backup), st.Close())
	if err != nil && len(cfg.Etcd.URLs) == 0 {
		err = errors.Join(err, os.RemoveAll(filepath.Join(cfg.DataDir, "etcd"))) // made just now
	}
	return err
}
