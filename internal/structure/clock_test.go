package structure

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A clock may be set at any time, by hours, backwards too. So durations are measured with
// time.Time alone, which has a reading of a clock that is never set, until something takes
// that off. These may: what they tell is a point in time for others or for later.
var clockReaders = map[string]string{
	"culvert.go":                       "the generation of a run",
	"internal/agent/identity.go":       "the same; it grows though the clock is set back (TestIdentityGrows)",
	"internal/agent/session.go":        "a ping's own, for the latency that people see: what can't be is left out",
	"internal/agent/inspect/har.go":    "when a request was made",
	"internal/agent/files/files.go":    "when a file was changed",
	"internal/server/admin/metrics.go": "when a certificate ends",
	"internal/server/certs/dns.go":     "TSIG (RFC 8945)",
	"internal/server/peer/identity.go": "serial numbers",
	"internal/server/store/events.go":  "when something happened, for people",
	"internal/server/store/files.go":   "when a file was changed",
}

var wallClock = regexp.MustCompile(`\.(Unix|UnixNano|UnixMilli|UnixMicro)\(\)|time\.Unix(Milli|Micro)?\([^01)]|\.Round\(0\)`)

// TestNoDurationByTheWallClock: nothing waits, expires or counts by a clock that may be set.
func TestNoDurationByTheWallClock(t *testing.T) {
	const root = "../.."
	seen := make(map[string]bool)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		name := d.Name()
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules" || name == "tools" || name == "test" || name == "bench" || name == "storetest") {
				return filepath.SkipDir
			}
			return nil
		case !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if found := wallClock.Find(b); found != nil {
			seen[relative] = true
			if clockReaders[relative] == "" {
				t.Errorf("%s has %s: measure durations by time.Time, or say in this test why not", relative, found)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for file := range clockReaders {
		if !seen[file] {
			t.Errorf("%s reads no clock any more", file)
		}
	}
}
