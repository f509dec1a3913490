package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/goccy/go-yaml"
)

// Imported is another program's configuration as one of ours.
type Imported struct {
	From  string // ngrok or frp
	Agent Agent
	Left  []string // what could not be carried over, and why or what to do instead
}

// ErrForeign says that a file is of no program that Import knows.
var ErrForeign = errors.New("neither an ngrok configuration (version 2 or 3) nor an frpc.toml")

// Import reads the configuration of ngrok (YAML) or of frpc (TOML, YAML or JSON). It
// takes what it knows and lists the rest: nothing is dropped in silence.
func Import(path string) (Imported, error) {
	b, err := read(path)
	if err != nil {
		return Imported{}, err
	}
	var top map[string]any
	if filepath.Ext(path) == ".toml" {
		_, err = toml.Decode(string(b), &top)
	} else {
		err = yaml.Unmarshal(b, &top)
	}
	if err != nil {
		if p, ok := errors.AsType[toml.ParseError](err); ok {
			return Imported{}, Place{File: path, Line: p.Position.Line, Column: p.Position.Col}.Fault(p.Message)
		}
		if filepath.Ext(path) == ".toml" {
			return Imported{}, Place{File: path}.Fault(err.Error())
		}
		return Imported{}, explain(path, Agent{}, err)
	}
	t := &taken{at: top}
	i := &importer{}
	i.Agent.Version = 1
	switch {
	case t.has("serverAddr") || t.has("proxies"):
		i.From = "frp"
		i.frp(t)
	case t.has("tunnels") || t.has("endpoints") && t.has("version") && t.text("version") == "3":
		i.From = "ngrok"
		i.ngrok(t)
	default:
		return Imported{}, Place{File: path}.Fault(ErrForeign.Error())
	}
	return i.Imported, nil
}

// taken is a mapping of a foreign file, of which each key that is used is taken out.
type taken struct {
	at   map[string]any
	path string
}

func (t *taken) has(key string) bool { _, ok := t.at[key]; return ok }

// take returns a value and crosses it off.
func (t *taken) take(key string) any {
	v := t.at[key]
	delete(t.at, key)
	return v
}

// text is take for what is written as text or as a number.
func (t *taken) text(key string) string {
	switch v := t.take(key).(type) {
	case nil, map[string]any, []any:
		return ""
	default:
		return fmt.Sprint(v)
	}
}

// list is take for one text or several.
func (t *taken) list(key string) []string {
	var all []string
	switch v := t.take(key).(type) {
	case nil, map[string]any:
	case []any:
		for _, each := range v {
			all = append(all, fmt.Sprint(each))
		}
	default:
		all = append(all, fmt.Sprint(v))
	}
	return all
}

// below is the mapping of a key, whose keys are crossed off one by one.
func (t *taken) below(key string) *taken {
	m, _ := t.at[key].(map[string]any)
	return &taken{at: m, path: t.path + key + "."}
}

// all are the mappings of a list.
func (t *taken) all(key string) []*taken {
	var out []*taken
	add := func(n int, m map[string]any) {
		out = append(out, &taken{at: m, path: t.path + key + "[" + strconv.Itoa(n) + "]."})
	}
	switch list := t.take(key).(type) {
	case []map[string]any: // of TOML
		for n, m := range list {
			add(n, m)
		}
	case []any: // of YAML
		for n, each := range list {
			if m, ok := each.(map[string]any); ok {
				add(n, m)
			}
		}
	}
	return out
}

// left lists the keys that nobody took.
func (t *taken) left() []string {
	var keys []string
	for k, v := range t.at {
		if m, ok := v.(map[string]any); ok {
			keys = append(keys, (&taken{at: m, path: t.path + k + "."}).left()...)
			continue
		}
		keys = append(keys, t.path+k)
	}
	slices.Sort(keys)
	return keys
}

// importer builds the result.
type importer struct{ Imported }

func (i *importer) note(format string, args ...any) {
	i.Left = append(i.Left, fmt.Sprintf(format, args...))
}

// rest notes what is left of a mapping, with what to do instead where there is
// something.
func (i *importer) rest(t *taken, instead map[string]string) {
	for _, key := range t.left() {
		advice := ""
		for part, a := range instead {
			if strings.Contains("."+key+".", "."+part+".") {
				advice = ": " + a
			}
		}
		i.note("%s%s", key, advice)
	}
}

// add adds an endpoint under a name that no other has.
func (i *importer) add(e Endpoint) {
	base := e.Name
	for n := 2; slices.ContainsFunc(i.Agent.Endpoints, func(o Endpoint) bool { return o.Name == e.Name }); n++ {
		e.Name = base + "-" + strconv.Itoa(n)
	}
	i.Agent.Endpoints = append(i.Agent.Endpoints, e)
}
