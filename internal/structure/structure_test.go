// Package structure holds the import table of the design against the code.
package structure

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/culvert-tunnel/culvert"

// table says which of our packages each of our packages may import. A change of
// structure changes it in the same commit.
var table = map[string][]string{
	"cmd/culvert":                      {"internal/cli"},
	"internal/cli":                     {"internal/agent", "internal/config", "internal/endpoint", "internal/link", "internal/server", "internal/server/admin", "internal/server/certs", "internal/server/registry", "internal/tunnel", "internal/version"},
	"internal/config":                  {},
	"internal/version":                 {},
	"internal/endpoint":                {},
	"internal/splice":                  {},
	"internal/tally":                   {},
	"internal/tunnel":                  {"internal/endpoint"},
	"internal/link":                    {"internal/tunnel", "yamux"},
	"internal/agent":                   {"internal/endpoint", "internal/link", "internal/splice", "internal/tally", "internal/tunnel"},
	"internal/server":                  {"internal/endpoint", "internal/server/admin", "internal/server/auth", "internal/server/certs", "internal/server/control", "internal/server/edge", "internal/server/registry", "internal/server/store", "internal/tunnel"},
	"internal/server/admin":            {"internal/server/auth", "internal/server/store", "internal/tunnel"},
	"internal/server/auth":             {"internal/endpoint", "internal/server/store", "internal/tunnel"},
	"internal/server/certs":            {"internal/link", "internal/server/store", "internal/tunnel"},
	"internal/server/control":          {"internal/endpoint", "internal/link", "internal/server/auth", "internal/server/registry", "internal/server/session", "internal/tunnel"},
	"internal/server/edge":             {"internal/endpoint", "internal/link", "internal/server/certs", "internal/server/edge/clienthello", "internal/server/registry", "internal/splice", "internal/tally", "internal/tunnel"},
	"internal/server/edge/clienthello": {"internal/endpoint"},
	"internal/server/registry":         {"internal/endpoint", "internal/tunnel"},
	"internal/server/session":          {"internal/endpoint", "internal/link", "internal/server/registry", "internal/tunnel"},
	"internal/server/store":            {"internal/tunnel"},
	"internal/structure":               {},
	"yamux":                            {},
}

// only says which package alone may import a library.
var only = map[string]string{
	"github.com/goccy/go-yaml": "internal/config",
	"github.com/spf13/cobra":   "internal/cli",
	"golang.org/x/crypto":      "internal/server/edge/clienthello",
}

func TestImports(t *testing.T) {
	list := packages(t)
	if n := strings.Count(list, "\n"); n < 15 {
		t.Fatalf("found only %d packages", n)
	}
	for _, fault := range judge(list) {
		t.Error(fault)
	}
}

// packages lists the module's packages with what they import, for every system. It
// reads the files itself: what a subprocess reads, go test does not know of, and a
// cached result would hide a change.
func packages(t *testing.T) string {
	t.Helper()
	const root = "../.."
	imports := make(map[string][]string)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "tools" || name == "bin"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg, err := filepath.Rel(root, filepath.Dir(path))
		for _, i := range f.Imports {
			imports[pkg] = append(imports[pkg], strings.Trim(i.Path.Value, `"`))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var list strings.Builder
	for pkg, imported := range imports {
		list.WriteString(module + "/" + filepath.ToSlash(pkg) + " " + strings.Join(imported, " ") + "\n")
	}
	return list.String()
}

// judge returns what is wrong with lines of a package and its imports.
func judge(list string) []string {
	var faults []string
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		pkg := strings.TrimPrefix(fields[0], module+"/")
		if strings.HasPrefix(pkg, "test/") || strings.HasPrefix(pkg, "bench") {
			continue
		}
		allowed, known := table[pkg]
		if !known {
			faults = append(faults, pkg+" is not in the import table")
		}
		for _, imported := range fields[1:] {
			ours, isOurs := strings.CutPrefix(imported, module+"/")
			if isOurs && !slices.Contains(allowed, ours) {
				faults = append(faults, pkg+" must not import "+ours)
			}
			for library, owner := range only {
				if strings.HasPrefix(imported, library) && pkg != owner {
					faults = append(faults, pkg+" imports "+imported+", which only "+owner+" may")
				}
			}
		}
	}
	return faults
}

// TestForbiddenImports: the table is worth something only if it says no.
func TestForbiddenImports(t *testing.T) {
	for line, want := range map[string]string{
		"/internal/agent fmt " + module + "/internal/link":             "",
		"/internal/agent " + module + "/internal/server/registry":      "internal/agent must not import internal/server/registry",
		"/internal/server/edge " + module + "/internal/server/session": "internal/server/edge must not import internal/server/session",
		"/internal/splice " + module + "/internal/endpoint":            "internal/splice must not import internal/endpoint",
		"/internal/server/control " + module + "/yamux":                "internal/server/control must not import yamux",
		"/internal/agent github.com/goccy/go-yaml/ast":                 "internal/agent imports github.com/goccy/go-yaml/ast, which only internal/config may",
		"/internal/util fmt": "internal/util is not in the import table",
	} {
		if got := strings.Join(judge(module+line+"\n"), "; "); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}
