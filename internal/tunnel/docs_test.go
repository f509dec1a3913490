package tunnel

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// TestGoldenMessagesAreWhole: every message of the wire has golden bytes, with every
// field set, so that none can be renumbered unseen.
func TestGoldenMessagesAreWhole(t *testing.T) {
	seen := make(map[protoreflect.FullName]bool)
	var walk func(name string, m protoreflect.Message)
	walk = func(name string, m protoreflect.Message) {
		seen[m.Descriptor().FullName()] = true
		fields := m.Descriptor().Fields()
		for i := range fields.Len() {
			f := fields.Get(i)
			switch {
			case !m.Has(f) && f.ContainingOneof() == nil:
				t.Errorf("%s does not set %s", name, f.FullName())
			case m.Has(f) && f.Message() != nil && !f.IsMap() && !f.IsList():
				walk(name, m.Get(f).Message())
			}
		}
	}
	for name, m := range messages() {
		walk(name, m.ProtoReflect())
	}
	all := File_internal_tunnel_tunnel_proto.Messages()
	for i := range all.Len() {
		if name := all.Get(i).FullName(); !seen[name] {
			t.Errorf("%s has no golden bytes", name)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestProtocolIsDocumented: docs/protocol.md names every message, field and value of
// tunnel.proto, and every code.
func TestProtocolIsDocumented(t *testing.T) {
	text := read(t, "../../docs/protocol.md")
	// Words within backticks: `Bind{request, spec}` counts for all three.
	words := make(map[string]bool)
	for _, span := range regexp.MustCompile("`[^`]+`").FindAllString(text, -1) {
		for _, w := range regexp.MustCompile(`[A-Za-z0-9_]+`).FindAllString(span, -1) {
			words[w] = true
		}
	}
	file := File_internal_tunnel_tunnel_proto
	for i := range file.Messages().Len() {
		m := file.Messages().Get(i)
		if !words[string(m.Name())] {
			t.Errorf("message %s is not in docs/protocol.md", m.Name())
		}
		for j := range m.Fields().Len() {
			f := m.Fields().Get(j)
			if name := string(f.Name()); f.ContainingOneof() == nil && !words[name] {
				t.Errorf("%s is not in docs/protocol.md", f.FullName())
			}
		}
	}
	for i := range file.Enums().Len() {
		values := file.Enums().Get(i).Values()
		for j := range values.Len() {
			if !words[string(values.Get(j).Name())] {
				t.Errorf("%s is not in docs/protocol.md", values.Get(j).Name())
			}
		}
	}

	text += read(t, "../../docs/operations.md") // codes that visitors see
	parsed, err := parser.ParseFile(token.NewFileSet(), "code.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	codes := 0
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 || !strings.HasPrefix(spec.Names[0].Name, "Code") {
			return true
		}
		lit, ok := spec.Values[0].(*ast.BasicLit)
		if !ok {
			return true
		}
		codes++
		if code, _ := strconv.Unquote(lit.Value); !strings.Contains(text, "`"+code+"`") {
			t.Errorf("code %s is in neither docs/protocol.md nor docs/operations.md", code)
		}
		return true
	})
	if codes < 20 {
		t.Errorf("found only %d codes", codes)
	}
}

// TestUnknownFieldsAreIgnored: what a later version adds does no harm.
func TestUnknownFieldsAreIgnored(t *testing.T) {
	for name, m := range messages() {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		back := m.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(append(b, 0xfa, 0x3e, 1, 'x'), back); err != nil { // field 1007
			t.Errorf("%s: %v", name, err)
		}
		back.ProtoReflect().SetUnknown(nil)
		if !proto.Equal(back, m) {
			t.Errorf("%s came back as %v", name, back)
		}
	}
}
