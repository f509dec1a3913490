package store

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// TestSaidOnce: what etcd says again and again is passed on once.
func TestSaidOnce(t *testing.T) {
	var b bytes.Buffer
	l := newMemberLog(make(chan error, 1))
	log := l.to(slog.New(slog.NewTextHandler(&b, nil)))
	for range 3 {
		log.Error("it is away")
		log.Error("it is slow")
		log.Warn("too little to be told")
		log.Error("Failed to detect schema version")
	}
	if n := strings.Count(b.String(), "\n"); n != 2 || !strings.Contains(b.String(), "it is away") {
		t.Errorf("%d lines:\n%s", n, b.String())
	}
}
