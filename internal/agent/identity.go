package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// Identity is who an agent is: the id that its names belong to, and the generation
// of this run, greater than that of every earlier one.
type Identity struct {
	ID         string
	Generation uint64
}

// NextIdentity reads the identity kept in dir, making one the first time, and
// counts this run. Runs that start at the same time get different generations.
func NextIdentity(dir string) (Identity, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Identity{}, fmt.Errorf("make state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "agent"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return Identity{}, fmt.Errorf("open agent identity: %w", err)
	}
	defer f.Close() //nolint:errcheck // what matters is synced
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return Identity{}, fmt.Errorf("lock agent identity: %w", err)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Identity{}, fmt.Errorf("read agent identity: %w", err)
	}
	var last uint64
	fields := strings.Fields(string(b))
	id := ""
	if len(fields) == 2 {
		if _, err := uuid.Parse(fields[0]); err == nil {
			id = fields[0]
			last, _ = strconv.ParseUint(fields[1], 10, 64)
		}
	}
	if id == "" {
		id = uuid.NewString()
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
