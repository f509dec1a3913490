// Package structure holds the import table of the design against the code.
package structure

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/culvert-tunnel/culvert"

// table says which of our packages each of our packages may import. A change of
// structure changes it in the same commit.
var table = map[string][]string{
	".":                                {"internal/agent", "internal/config", "internal/endpoint", "internal/link", "internal/tunnel", "internal/version"},
	"cmd/culvert":                      {"internal/cli"},
	"internal/cli":                     {"internal/agent", "internal/agent/acme", "internal/agent/api", "internal/agent/inspect", "internal/agent/screen", "internal/config", "internal/doctor", "internal/endpoint", "internal/link", "internal/server", "internal/server/admin", "internal/server/certs", "internal/server/registry", "internal/socket", "internal/tunnel", "internal/version"},
	"internal/config":                  {},
	"internal/version":                 {},
	"internal/doctor":                  {"internal/agent", "internal/endpoint", "internal/link", "internal/tunnel"},
	"internal/crew":                    {},
	"internal/datagram":                {"internal/nonblock"},
	"internal/endpoint":                {},
	"internal/nonblock":                {},
	"internal/splice":                  {"internal/nonblock"},
	"internal/tally":                   {},
	"internal/tunnel":                  {"internal/endpoint"},
	"internal/link":                    {"internal/link/resume", "internal/nonblock", "internal/tally", "internal/tunnel", "yamux"},
	"internal/link/linktest":           {},
	"internal/link/resume":             {},
	"internal/agent":                   {"internal/agent/files", "internal/crew", "internal/datagram", "internal/endpoint", "internal/link", "internal/splice", "internal/tally", "internal/tunnel"},
	"internal/agent/api":               {"internal/agent", "internal/agent/inspect", "web"},
	"internal/agent/acme":              {"internal/agent"},
	"internal/agent/files":             {},
	"internal/agent/inspect":           {"internal/splice"},
	"internal/agent/screen":            {"internal/agent", "internal/agent/inspect"},
	"internal/server":                  {"internal/endpoint", "internal/server/admin", "internal/server/auth", "internal/server/certs", "internal/server/control", "internal/server/edge", "internal/server/peer", "internal/server/registry", "internal/server/store", "internal/socket", "internal/tunnel"},
	"internal/server/admin":            {"internal/endpoint", "internal/server/auth", "internal/server/store", "internal/tunnel"},
	"internal/server/auth":             {"internal/endpoint", "internal/server/store", "internal/tunnel"},
	"internal/server/certs":            {"internal/endpoint", "internal/link", "internal/server/store", "internal/server/zaplog", "internal/tunnel"},
	"internal/server/control":          {"internal/endpoint", "internal/link", "internal/server/auth", "internal/server/limit", "internal/server/registry", "internal/server/session", "internal/tunnel"},
	"internal/server/edge":             {"internal/crew", "internal/datagram", "internal/endpoint", "internal/link", "internal/nonblock", "internal/server/certs", "internal/server/edge/clienthello", "internal/server/edge/compress", "internal/server/edge/http1", "internal/server/edge/http2", "internal/server/edge/http3", "internal/server/limit", "internal/server/registry", "internal/splice", "internal/tally", "internal/tunnel"},
	"internal/server/edge/clienthello": {"internal/endpoint"},
	"internal/server/edge/compress":    {},
	"internal/server/edge/http1":       {},
	"internal/server/edge/http2":       {"internal/crew", "internal/server/edge/http1", "internal/splice"},
	"internal/server/edge/http3":       {"internal/link", "internal/tunnel"},
	"internal/server/limit":            {"internal/endpoint", "internal/splice"},
	"internal/server/peer":             {"internal/endpoint", "internal/link", "internal/server/registry", "internal/server/session", "internal/server/store", "internal/splice", "internal/tally", "internal/tunnel"},
	"internal/server/registry":         {"internal/endpoint", "internal/server/limit", "internal/server/store", "internal/tunnel"},
	"internal/server/session":          {"internal/endpoint", "internal/link", "internal/server/limit", "internal/server/registry", "internal/splice", "internal/tunnel"},
	"internal/server/store":            {"internal/server/zaplog", "internal/socket", "internal/tunnel"},
	"internal/server/store/storetest":  {"internal/server/store", "test/harness"},
	"internal/server/zaplog":           {},
	"internal/socket":                  {},
	"internal/structure":               {},
	"web":                              {},
	"yamux":                            {"internal/nonblock"},
}

// only says which packages alone may import a library.
var only = map[string][]string{
	"charm.land":                          {"internal/agent/screen"},
	"github.com/BurntSushi/toml":          {"internal/config"},
	"github.com/coder/websocket":          {"internal/link"},
	"github.com/caddyserver/certmagic":    {"internal/server/certs", "internal/agent/acme"},
	"github.com/charmbracelet/x":          {"internal/agent/screen"},
	"github.com/coreos/go-systemd":        {"internal/cli"},
	"github.com/danielgtaylor/huma":       {"internal/server/admin"},
	"github.com/goccy/go-yaml":            {"internal/config"},
	"github.com/kardianos/service":        {"internal/cli"},
	"github.com/libdns/libdns":            {"internal/server/certs"},
	"github.com/mholt/acmez":              {"internal/server/certs"},
	"github.com/miekg/dns":                {"internal/server/certs"},
	"github.com/prometheus/client_golang": {"internal/agent/api", "internal/server/admin"},
	"github.com/quic-go/quic-go":          {"internal/link", "internal/server/edge/http3"},
	"github.com/spf13/cobra":              {"internal/cli"},
	"go.etcd.io":                          {"internal/server/store"},
	"go.uber.org/zap":                     {"internal/server/certs", "internal/server/store", "internal/server/zaplog", "internal/agent/acme"},
	"golang.org/x/crypto/cryptobyte":      {"internal/server/edge/clienthello"},
	"golang.org/x/net/http/httpproxy":     {"internal/config"},
	"golang.org/x/net/proxy":              {"internal/link"},
	"golang.org/x/crypto/ocsp":            {"internal/server/certs"},
	"rsc.io/qr":                           {"internal/agent/screen"},
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

// TestSDKIsLean: a program that embeds the SDK links neither etcd nor ACME, nor anything
// of the server.
func TestSDKIsLean(t *testing.T) {
	packages(t) // so that a cached result is not one of other files
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", module).Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, module+"/internal/agent") {
		t.Fatalf("the SDK imports no agent: %d packages", len(deps))
	}
	for _, d := range deps {
		for _, heavy := range []string{
			module + "/internal/server", module + "/internal/cli", "go.etcd.io/", "github.com/caddyserver/certmagic",
			"github.com/mholt/acmez", "golang.org/x/crypto/acme", "google.golang.org/grpc", "github.com/spf13/cobra",
		} {
			if strings.HasPrefix(d, heavy) {
				t.Errorf("the SDK links %s", d)
			}
		}
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
		case d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules" || name == "tools" || name == "bin"):
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
			for library, owners := range only {
				if strings.HasPrefix(imported, library) && !slices.Contains(owners, pkg) {
					faults = append(faults, pkg+" imports "+imported+", which only "+strings.Join(owners, " and ")+" may")
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
