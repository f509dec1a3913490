package server

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/culvert-tunnel/culvert/internal/server/certs"
)

func open(dir string) (*Server, error) {
	return New(Config{DataDir: dir, Logger: slog.New(slog.DiscardHandler)})
}

func TestDataDirIsOneServers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := open(dir); !errors.Is(err, ErrDirInUse) {
		t.Errorf("a second server: %v", err)
	}
	_ = s.lock.Close()
	if err := os.Chmod(dir, 0o777); err != nil { //nolint:gosec // the fault
		t.Fatal(err)
	}
	if _, err := open(dir); !errors.Is(err, ErrDirOpen) {
		t.Errorf("open to everybody: %v", err)
	}
}

// TestDamagedFilesAreKept: what can't be read is told, and is still there for whoever
// mends it.
func TestDamagedFilesAreKept(t *testing.T) {
	for _, tc := range []struct {
		file, text string
		want       error
	}{
		{"ca-key.pem", "damaged", certs.ErrBadCA},
		{"ca-key.pem", "", certs.ErrBadCA},
	} {
		dir := t.TempDir()
		s, err := open(dir)
		if err != nil {
			t.Fatal(err)
		}
		_ = s.lock.Close()
		path := filepath.Join(dir, tc.file)
		if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the lock is free again, too
			if _, err := open(dir); !errors.Is(err, tc.want) {
				t.Errorf("%s %q: %v", tc.file, tc.text, err)
			}
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != tc.text {
			t.Errorf("%s %q became %q", tc.file, tc.text, b)
		}
	}
}

func TestWrongConfiguration(t *testing.T) {
	for name, cfg := range map[string]Config{
		"domain":      {Domain: "a b"},
		"port":        {Domain: "example.com:80"},
		"certificate": {Certs: []certs.Pair{{Cert: "missing.pem", Key: "missing.key"}}},
		"acme":        {ACME: certs.ACME{Email: "ops@example.com", CA: "http://insecure"}},
		"terms":       {ACME: certs.ACME{CA: "letsencrypt"}},
	} {
		cfg.DataDir, cfg.Logger = t.TempDir(), slog.New(slog.DiscardHandler)
		if _, err := New(cfg); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
