package agent

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Identity is who an agent is: the id that its names belong to, and the generation
// of this run, greater than that of every earlier one.
type Identity struct {
	ID         string
	Generation uint64
}

// ErrBadIdentity says that the identity file holds something else. It is left as it
// is: a new identity in its place would lose the agent's names for good.
var ErrBadIdentity = errors.New("this is not an agent's identity: restore the file, or remove it to start as a new agent with new names")

// NextIdentity reads the identity kept in dir, making one the first time, and
// counts this run. Runs that start at the same time get different generations.
func NextIdentity(dir string) (Identity, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Identity{}, fmt.Errorf("make state directory: %w: choose another with --state", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "agent"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return Identity{}, fmt.Errorf("open agent identity: %w: choose another directory with --state", err)
	}
	defer f.Close() //nolint:errcheck // what matters is synced
	if err := lock(f); err != nil {
		return Identity{}, fmt.Errorf("lock agent identity: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(f, 256))
	if err != nil {
		return Identity{}, fmt.Errorf("read agent identity: %w", err)
	}
	id, last, err := parseIdentity(string(b))
	if err != nil {
		return Identity{}, fmt.Errorf("read agent identity %s: %w", f.Name(), err)
	}
	// Time keeps the number growing even after the file was restored from a back-up;
	// the last one keeps it growing after the clock was set back.
	now := uint64(time.Now().UnixMilli()) //nolint:gosec // after 1970
	next := Identity{ID: id, Generation: max(now, last+1)}
	line := fmt.Sprintf("%s %d\n", next.ID, next.Generation)
	if _, err := f.WriteAt([]byte(line), 0); err != nil {
		return Identity{}, fmt.Errorf("keep agent identity: %w", err)
	}
	if err := f.Truncate(int64(len(line))); err != nil {
		return Identity{}, fmt.Errorf("keep agent identity: %w", err)
	}
	if err := f.Sync(); err != nil {
		return Identity{}, fmt.Errorf("keep agent identity: %w", err)
	}
	return next, nil
}

// parseIdentity reads the file's line. An empty file is that of an agent which has
// just been made.
func parseIdentity(s string) (id string, last uint64, err error) {
	if s == "" {
		return uuid.NewString(), 0, nil
	}
	fields := strings.Fields(s)
	if len(fields) != 2 {
		return "", 0, ErrBadIdentity
	}
	if _, err := uuid.Parse(fields[0]); err != nil {
		return "", 0, ErrBadIdentity
	}
	if last, err = strconv.ParseUint(fields[1], 10, 64); err != nil || last == math.MaxUint64 {
		return "", 0, ErrBadIdentity
	}
	return fields[0], last, nil
}
