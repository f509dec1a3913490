// Package version says which Culvert this is.
package version

import (
	"runtime/debug"
	"strings"
)

const module = "github.com/culvert-tunnel/culvert"

// String is the version of Culvert in the running binary: its module's version if it
// was installed as one or is a dependency, else "dev" and the revision it was built
// from, if known.
func String() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "dev"
	}
	for _, d := range info.Deps {
		if d.Path == module {
			return strings.TrimPrefix(d.Version, "v")
		}
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return strings.TrimPrefix(v, "v")
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "dev-" + s.Value[:12]
		}
	}
	return "dev"
}
