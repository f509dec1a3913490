package config

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the schemas in docs/")

// TestSchemas: the JSON schemas in docs/ are those of the types.
func TestSchemas(t *testing.T) {
	for path, v := range map[string]any{"../../docs/culvert.schema.json": Agent{}, "../../docs/server.schema.json": Server{}} {
		s := schema(reflect.TypeOf(v))
		s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
		want, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, '\n')
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if have, err := os.ReadFile(path); err != nil || string(have) != string(want) {
			t.Errorf("%s is not what the types say (%v): run go test ./internal/config -update", path, err)
		}
	}
}

// schema is the JSON schema of a type. Scalars are also taken as the text they are
// written as, since YAML reads a bare 3000 as a number.
func schema(t reflect.Type) map[string]any {
	switch t.Kind() {
	case reflect.Pointer:
		return schema(t.Elem())
	case reflect.Slice:
		if t == reflect.TypeFor[Texts]() {
			one := schema(t.Elem())
			return map[string]any{"anyOf": []any{one, map[string]any{"type": "array", "items": one}}}
		}
		return map[string]any{"type": "array", "items": schema(t.Elem())}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Uint, reflect.Uint32:
		return map[string]any{"type": "integer"}
	case reflect.Struct:
		properties, required := map[string]any{}, []string{}
		for f := range t.Fields() {
			name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if options == "inline" {
				maps.Copy(properties, schema(f.Type)["properties"].(map[string]any))
			}
			if name == "" || name == "-" {
				continue
			}
			p := schema(f.Type)
			rest, description, _ := strings.Cut(f.Tag.Get("jsonschema"), "description=")
			if description != "" {
				p["description"] = description
			}
			var enum []any
			for e := range strings.SplitSeq(rest, ",") {
				if v, ok := strings.CutPrefix(e, "enum="); ok && f.Type.Kind() == reflect.Int {
					enum = append(enum, json.Number(v))
				} else if ok {
					enum = append(enum, v)
				}
			}
			if enum != nil {
				p["enum"] = enum
			}
			properties[name] = p
			if options != "omitempty" {
				required = append(required, name)
			}
		}
		return map[string]any{"type": "object", "additionalProperties": false, "properties": properties, "required": required}
	default:
		return map[string]any{"type": []string{"string", "number"}}
	}
}

// TestDocumentedFiles: the files that the documents show can be read.
func TestDocumentedFiles(t *testing.T) {
	found := 0
	for _, path := range []string{"../../README.md", "../../docs/operations.md"} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i, part := range strings.Split(string(b), "```yaml\n") {
			text, _, _ := strings.Cut(part, "```")
			if i == 0 {
				continue
			}
			found++
			vars := env(map[string]string{"CULVERT_TOKEN": "t"})
			_, err := LoadServer(file(t, text), vars)
			if strings.HasPrefix(text, "# culvert.yml") {
				_, _, err = LoadAgent(file(t, text), vars)
			}
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
	if found < 2 {
		t.Errorf("found only %d files", found)
	}
}
