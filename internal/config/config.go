// Package config is the only reader of configuration files, environment and flags.
// Precedence: flags, then CULVERT_… variables, then the file, then defaults.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// LookupEnv is os.LookupEnv, or a test's stand-in.
type LookupEnv func(string) (string, bool)

// Place is where in a file something stands.
type Place struct {
	File   string
	Line   int // 0: unknown
	Column int
}

// Fault is an error at this place.
func (p Place) Fault(message string) *Error { return &Error{Place: p, Message: message} }

// Error is a fault in a configuration file, with its place.
type Error struct {
	Place
	Message string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// maxFile bounds a configuration file, in bytes.
const maxFile = 1 << 20

// Load reads a YAML file into v, a pointer to a struct, strictly: unknown keys,
// double keys and wrong types are errors with file and line. ${NAME} in a value is
// replaced by the environment's variable, which must be set, and ${file:PATH} by what
// the file there holds, without white space around it; a relative PATH starts at the
// configuration file's directory. A missing file satisfies errors.Is(err, fs.ErrNotExist). The returned Document knows the places
// of keys.
func Load(path string, v any, env LookupEnv) (*Document, error) {
	b, err := read(path)
	if err != nil {
		return nil, err
	}
	return decode(path, b, v, env)
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if len(b) > maxFile {
		return nil, Place{File: path}.Fault("the file is over 1 MiB")
	}
	return b, nil
}

func decode(path string, b []byte, v any, env LookupEnv) (*Document, error) {
	file, err := parser.ParseBytes(b, 0)
	if err != nil {
		return nil, explain(path, v, err)
	}
	if len(file.Docs) > 1 {
		return nil, Place{File: path}.Fault("the file holds more than one document")
	}
	d := &Document{path: path}
	for _, doc := range file.Docs {
		e := &expander{path: path, env: env}
		if doc.Body == nil {
			continue
		}
		ast.Walk(e, doc.Body)
		if e.err != nil {
			return nil, e.err
		}
		if err := yaml.NodeToValue(doc.Body, v, yaml.Strict()); err != nil {
			return nil, explain(path, v, err)
		}
		d.body = doc.Body
	}
	return d, nil
}

// Document is a file that was read.
type Document struct {
	path string
	body ast.Node // nil: an empty file
}

// At returns the place of what a path such as $.listen.http leads to, or that of the
// whole file.
func (d *Document) At(path string) Place {
	at := Place{File: d.path}
	p, err := yaml.PathString(path)
	if err != nil || d.body == nil {
		return at
	}
	n, err := p.FilterNode(d.body)
	if err != nil || n == nil {
		return at
	}
	return place(d.path, n.GetToken(), "").Place
}

// expander replaces variables in string values. It works on the parsed tree, so a
// variable's content can't change the file's structure.
type expander struct {
	path string
	env  LookupEnv
	err  error
}

var (
	variable     = regexp.MustCompile(`\$\{[^}]*\}?`)
	variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// Visit implements ast.Visitor.
func (e *expander) Visit(n ast.Node) ast.Visitor {
	s, ok := n.(*ast.StringNode)
	if !ok {
		return e
	}
	s.Value = variable.ReplaceAllStringFunc(s.Value, func(m string) string {
		v, fault := e.expand(strings.TrimPrefix(m, "${"))
		if fault != "" && e.err == nil {
			e.err = place(e.path, s.GetToken(), fault)
		}
		return v
	})
	return e
}

// expand returns what stands for a variable, of which the opening is cut off, or
// what is wrong with it.
func (e *expander) expand(rest string) (value, fault string) {
	name, closed := strings.CutSuffix(rest, "}")
	if path, ok := strings.CutPrefix(name, "file:"); ok && closed && path != "" {
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(e.path), path)
		}
		v, err := ReadSecret(path)
		if err != nil {
			return "", err.Error()
		}
		return v, ""
	}
	if !closed || !variableName.MatchString(name) {
		return "", "a variable of the environment is written ${NAME}, the content of a file ${file:PATH}"
	}
	v, ok := e.env(name)
	if !ok {
		return "", "the environment has no variable " + name
	}
	return v, ""
}

// maxSecret bounds a file with a secret, in bytes.
const maxSecret = 64 << 10

// ReadSecret reads a file that holds one value, and cuts white space around it off.
// The error never shows what is in it.
func ReadSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxSecret {
		return "", fmt.Errorf("%s is over 64 KiB", path)
	}
	v := strings.TrimSpace(string(b))
	if v == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return v, nil
}

func place(path string, t *token.Token, message string) *Error {
	e := Place{File: path}.Fault(message)
	if t != nil && t.Position != nil {
		e.Line, e.Column = t.Position.Line, t.Position.Column
	}
	return e
}

// explain turns the parser's error into one with a place and, for a key nobody
// knows, the nearest one.
func explain(path string, v any, err error) error {
	var ye yaml.Error
	if !errors.As(err, &ye) {
		return Place{File: path}.Fault(err.Error())
	}
	e := place(path, ye.GetToken(), ye.GetMessage())
	if mismatch, ok := errors.AsType[*yaml.TypeError](err); ok {
		e.Message = mismatched(mismatch)
		return e
	}
	if other, ok := errors.AsType[*yaml.UnexpectedNodeTypeError](err); ok {
		e.Message = "the value must be " + nodeName(other.Expected) + ", not " + nodeName(other.Actual)
		return e
	}
	if t := ye.GetToken(); t != nil {
		if near := nearest(t.Value, keys(reflect.TypeOf(v), nil)); near != "" {
			e.Message += fmt.Sprintf(", did you mean %q?", near)
		}
	}
	return e
}

// mismatched says what a value should have been, in words of YAML and without the
// value, which may be a secret.
func mismatched(err *yaml.TypeError) string {
	want := err.DstType.String()
	switch err.DstType.Kind() {
	case reflect.String:
		want = "text"
	case reflect.Int, reflect.Uint, reflect.Uint32:
		want = "a number"
	case reflect.Bool:
		want = "true or false"
	case reflect.Slice:
		want = "a list"
	case reflect.Struct:
		want = "keys with values"
	default:
	}
	return "the value must be " + want
}

// nodeName is what a kind of YAML's values looks like.
func nodeName(t ast.NodeType) string {
	switch t {
	case ast.SequenceType:
		return "a list (each item begins with a hyphen)"
	case ast.MappingType, ast.MappingValueType:
		return "keys with values"
	case ast.StringType, ast.LiteralType:
		return "text"
	default:
		return "a " + t.YAMLName()
	}
}

// keys collects all keys a type knows, at any depth.
func keys(t reflect.Type, into []string) []string {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return keys(t.Elem(), into)
	case reflect.Struct:
		for f := range t.Fields() {
			name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if name != "" && name != "-" {
				into = append(into, name)
			} else if options != "inline" {
				continue
			}
			into = keys(f.Type, into)
		}
	default:
	}
	return into
}

// nearest returns the key that differs from word in at most two letters and is not
// word itself.
func nearest(word string, keys []string) string {
	best, at := "", 3
	for _, k := range keys {
		d := distance(word, k)
		if d == 0 {
			return ""
		}
		if d < at && d < len(k) {
			best, at = k, d
		}
	}
	return best
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j+1]+1, row[j]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}

// Dirs are where Culvert keeps things for the user who runs it.
type Dirs struct {
	Config string // what the user says: logins, configuration
	State  string // what programs remember: the agent's identity
	Data   string // a server's state
}

// FindDirs follows the XDG base directory specification; root's server keeps its
// data below /var/lib.
func FindDirs(env LookupEnv) (Dirs, error) {
	get := func(name, below string) (string, error) {
		if d, ok := env(name); ok && filepath.IsAbs(d) {
			return filepath.Join(d, "culvert"), nil
		}
		home, ok := env("HOME")
		if !ok || home == "" {
			return "", errNoHome
		}
		return filepath.Join(home, below, "culvert"), nil
	}
	var d Dirs
	var err error
	if d.Config, err = get("XDG_CONFIG_HOME", ".config"); err != nil {
		return d, err
	}
	if d.State, err = get("XDG_STATE_HOME", filepath.Join(".local", "state")); err != nil {
		return d, err
	}
	d.Data = filepath.Join(d.State, "server")
	if os.Geteuid() == 0 {
		d.Data = "/var/lib/culvert"
	}
	return d, nil
}

var errNoHome = errors.New("HOME is not set: set it, or name the directories with flags")

// Missing reports whether err says that a file is not there.
func Missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
