package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func env(vars map[string]string) LookupEnv {
	return func(k string) (string, bool) {
		v, ok := vars[k]
		return v, ok
	}
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestStrict(t *testing.T) {
	for text, want := range map[string]string{
		"version: 1\ndomian: x\n":                                  `c.yml:2:1: unknown field "domian", did you mean "domain"?`,
		"version: 1\nlisten: {htps: ':1'}\n":                       `c.yml:2:10: unknown field "htps", did you mean "https"?`,
		"version: 1\nversion: 1\n":                                 "c.yml:2:1: ",
		"version: [\n":                                             "c.yml:1:",
		"version: 2\n":                                             "c.yml:1:10: version must be 1",
		"version: 1\nregion: ${NOPE}\n":                            "c.yml:2:9: the environment has no variable NOPE",
		"version: 1\nregion: a${1X}\n":                             "c.yml:2:9: a variable of the environment is written ${NAME}, the content of a file ${file:PATH}",
		"version: 1\nregion: a${NOPE\n":                            "c.yml:2:9: a variable of the environment is written ${NAME}, the content of a file ${file:PATH}",
		"version: 1\nregion: [a]\n":                                "c.yml:2:9: the value must be text",
		"version: x\n":                                             "c.yml:1:10: the value must be a number",
		"version: 1\nlisten: {link: x}\n":                          "c.yml:2:16: the value must be a list (each item begins with a hyphen), not text",
		"version: 1\nlisten: {link: {a: b}}\n":                     "c.yml:2:16: the value must be a list (each item begins with a hyphen), not keys with values",
		"- version: 1\n":                                           "c.yml:1:1: ",
		"version: 1\n---\nversion: 1\n":                            "more than one document",
		"version: 1\nregion: " + strings.Repeat("x", 1<<20) + "\n": "over 1 MiB",
		"": "version must be 1",
	} {
		_, err := LoadServer(file(t, text), env(nil))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
}

func TestVariables(t *testing.T) {
	path := file(t, "version: 1\ntoken: ${T}\nendpoints: [{name: a, kind: http, upstream: \"${P}\"}]\n")
	a, _, err := LoadAgent(path, env(map[string]string{"T": "x\nserver: evil", "P": "3000"}))
	if err != nil || a.Token != "x\nserver: evil" || len(a.Server) != 0 || a.Endpoints[0].Upstream != "3000" {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestSecretFiles: ${file:…} is found beside the configuration, and its faults are told
// with their place and without its content.
func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"token": " cvt_x\n", "empty": "\n", "big": "secret" + strings.Repeat("x", maxSecret)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "c.yml")
	load := func(value string) (Agent, error) {
		text := "version: 1\ntoken: '" + value + "'\nendpoints: [{name: a, kind: http, upstream: 1}]\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		a, _, err := LoadAgent(path, env(nil))
		return a, err
	}
	for _, value := range []string{"${file:token}", "${file:" + filepath.Join(dir, "token") + "}"} {
		if a, err := load(value); err != nil || a.Token != "cvt_x" {
			t.Errorf("%s: %q, %v", value, a.Token, err)
		}
	}
	for value, want := range map[string]string{
		"${file:none}": "c.yml:2:8: open ", "${file:empty}": "is empty", "${file:big}": "is over 64 KiB",
		"${file:}": "the content of a file ${file:PATH}", "${file:token": "the content of a file ${file:PATH}",
	} {
		if _, err := load(value); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want %q", value, err, want)
		}
	}
}

// TestWatch: however a file is saved, it is told once, and not while it is written.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "c.yml"), filepath.Join(dir, ".c.yml.swp")
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(path, "a")
	w := NewWatch(path)
	looks := func(want ...bool) {
		t.Helper()
		for i, changed := range want {
			if got := w.Changed(); got != changed {
				t.Errorf("look %d: %v", i, got)
			}
		}
	}
	looks(false, false)
	write(path, "ab")
	looks(false)
	write(path, "abc") // still being written
	looks(false, true, false)
	write(other, "xyz") // vim, and many others
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	looks(false, true, false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	looks(false, true, false)
	write(path, "abc")
	looks(false, true, false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	looks(false)
	write(path, "abcd") // gone only between two looks
	looks(false, true, false)

	// As orchestrators mount configuration: a link to a directory that is switched.
	for _, d := range []string{"one", "two"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
		write(filepath.Join(dir, d, "c.yml"), "abcd")
	}
	link := filepath.Join(dir, "now")
	if err := os.Symlink("one", link); err != nil {
		t.Fatal(err)
	}
	w = NewWatch(filepath.Join(link, "c.yml"))
	if err := os.Symlink("two", link+"~"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+"~", link); err != nil {
		t.Fatal(err)
	}
	looks(false, true, false)
}

func TestAgentFile(t *testing.T) {
	for text, want := range map[string]string{
		"version: 1\n":                "no endpoints",
		"version: 1\nendpoints: []\n": "c.yml:2:12: there are no endpoints",
		"version: 1\nendpoints: [{kind: http, upstream: 1}]":                                            "c.yml:2:36: endpoint 1 has no name",
		"version: 1\nendpoints: [{name: a, kind: http}]":                                                "no upstream",
		"version: 1\nendpoints: [{name: a, upstream: 1}]":                                               "either a url or a kind",
		"version: 1\nendpoints: [{name: a, kind: tcp, upstream: 1}, {name: a, kind: tcp, upstream: 2}]": "two endpoints",
	} {
		if _, _, err := LoadAgent(file(t, text), env(nil)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestPrecedence(t *testing.T) {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, name := range []string{"a-flag", "a-variable", "a-key", "a-default"} {
		fs.String(name, "default", "")
	}
	if err := fs.Parse([]string{"--a-flag=flag"}); err != nil {
		t.Fatal(err)
	}
	all := make(Settings)
	for _, name := range []string{"a-flag", "a-variable", "a-key"} {
		all[name] = Setting{Values: []string{"file"}}
	}
	err := Overlay(fs, env(map[string]string{"CULVERT_A_FLAG": "env", "CULVERT_A_VARIABLE": "env"}), all)
	got := make(map[string]string)
	fs.VisitAll(func(f *pflag.Flag) { got[f.Name] = f.Value.String() })
	if err != nil || got["a-flag"] != "flag" || got["a-variable"] != "env" || got["a-key"] != "file" || got["a-default"] != "default" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestLogin(t *testing.T) {
	dirs, err := FindDirs(env(map[string]string{"HOME": t.TempDir()}))
	if err != nil {
		t.Fatal(err)
	}
	if l, err := LoadLogin(dirs); err != nil || l != (Login{}) {
		t.Errorf("before: %v %v", l, err)
	}
	want := Login{Server: "s", Token: "cvt_${HOME}"}
	path, err := SaveLogin(dirs, want)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	want.Token = "cvt_x"
	if _, err := SaveLogin(dirs, want); err != nil {
		t.Fatal(err)
	}
	if l, err := LoadLogin(dirs); err != nil || l != want {
		t.Errorf("after: %v %v", l, err)
	}
	var e *Error
	if err := os.WriteFile(path, []byte("nonsense: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadLogin(dirs); !errors.As(err, &e) || e.Line != 1 {
		t.Errorf("broken: %v", err)
	}
}

// TestSources: a list and a switch from each source, alternatives, nothing at all.
func TestSources(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		env  map[string]string
		file Settings
		want string
	}{
		"default":                {want: "[] false token= file="},
		"list by flags":          {args: []string{"--link=a", "--link=b"}, env: map[string]string{"CULVERT_LINK": "c"}, want: "[a,b] false token= file="},
		"list by variable":       {env: map[string]string{"CULVERT_LINK": "a, b"}, file: Settings{"link": {Values: []string{"c"}}}, want: "[a,b] false token= file="},
		"list by file":           {file: Settings{"link": {Values: []string{"a", "b"}}}, want: "[a,b] false token= file="},
		"switch by flag":         {args: []string{"--redirect=false"}, env: map[string]string{"CULVERT_REDIRECT": "true"}, want: "[] false token= file="},
		"switch by variable":     {env: map[string]string{"CULVERT_REDIRECT": "1"}, want: "[] true token= file="},
		"an empty variable":      {env: map[string]string{"CULVERT_LINK": "", "CULVERT_TOKEN": ""}, file: Settings{"token": {Values: []string{"f"}}}, want: "[] false token=f file="},
		"flag beats alternative": {args: []string{"--token-file=f"}, env: map[string]string{"CULVERT_TOKEN": "e"}, file: Settings{"token": {Values: []string{"f"}}}, want: "[] false token= file=f"},
		"variable beats file's":  {env: map[string]string{"CULVERT_TOKEN": "e"}, file: Settings{"token-file": {Values: []string{"f"}}}, want: "[] false token=e file="},
		"off beats on":           {args: []string{"--no-redirect"}, env: map[string]string{"CULVERT_REDIRECT": "true"}, want: "[] false token= file="},
	} {
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		links, redirect := fs.StringArray("link", nil, ""), fs.Bool("redirect", false, "")
		fs.Bool("no-redirect", false, "")
		token, tokenFile := fs.String("token", "", ""), fs.String("token-file", "", "")
		if err := fs.Parse(tc.args); err != nil {
			t.Fatal(err)
		}
		err := Overlay(fs, env(tc.env), tc.file)
		got := fmt.Sprintf("[%s] %v token=%s file=%s", strings.Join(*links, ","), *redirect, *token, *tokenFile)
		if err != nil || got != tc.want {
			t.Errorf("%s: %s, %v; want %s", name, got, err, tc.want)
		}
	}
}

// TestBadValues: a value that its flag refuses is told with its source.
func TestBadValues(t *testing.T) {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	fs.Duration("grace", 0, "")
	settings, err := LoadServer(file(t, "version: 1\nregion: x\ngrace: 5x\n"), env(nil))
	if err != nil {
		t.Fatal(err)
	}
	var e *Error
	if err := Overlay(fs, env(nil), settings); !errors.As(err, &e) || e.Line != 3 || e.Column != 8 || !strings.Contains(err.Error(), `grace "5x"`) {
		t.Errorf("file: %v", err)
	}
	if err := Overlay(fs, env(map[string]string{"CULVERT_GRACE": "5y"}), settings); err == nil || !strings.Contains(err.Error(), `environment variable CULVERT_GRACE "5y"`) {
		t.Errorf("variable: %v", err)
	}
}

// TestEveryKeyBecomesAFlag: each key of the files becomes a flag's value.
func TestEveryKeyBecomesAFlag(t *testing.T) {
	settings, err := LoadServer(file(t, `version: 1
domain: d
listen: {http: a, https: b, link: [c, d], admin: e}
tcp_host: f
tcp_ports: 1-2
data: g
cert: h
key: i
region: j
node: k
grace: 1s
drain: 2s
log_format: json
log_level: debug
cluster: {etcd: [l], etcd_ca: m, etcd_user: n, peer: o, peer_advertise: p, link_advertise: q}
`), env(nil))
	if err != nil {
		t.Fatal(err)
	}
	for flag, want := range map[string]string{
		"etcd": "l", "etcd-ca": "m", "etcd-user": "n", "peer": "o", "peer-advertise": "p", "link-advertise": "q",
		"domain": "d", "http": "a", "https": "b", "link": "c,d", "admin": "e", "tcp-host": "f", "tcp-ports": "1-2", "data": "g",
		"cert": "h", "key": "i", "region": "j", "node": "k", "grace": "1s", "drain": "2s", "log-format": "json", "log-level": "debug",
	} {
		if got := strings.Join(settings[flag].Values, ","); got != want || settings[flag].Line == 0 {
			t.Errorf("%s: %q at line %d", flag, got, settings[flag].Line)
		}
	}
	a, settings, err := LoadAgent(file(t, `version: 1
server: a
token: b
token_file: c
ca: d
api: e
state: f
drain: 1s
log_format: json
log_level: debug
endpoints:
  - name: web
    kind: http
    upstream: 1
`), env(nil))
	if err != nil || a.Endpoints[0].Line != 14 {
		t.Fatal(a.Endpoints, err)
	}
	for flag, want := range map[string]string{
		"server": "a", "token": "b", "token-file": "c", "ca": "d", "api": "e", "state": "f", "drain": "1s", "log-format": "json", "log-level": "debug",
	} {
		if got := strings.Join(settings[flag].Values, ","); got != want {
			t.Errorf("%s: %q", flag, got)
		}
	}
}

// TestInspectKeys: the keys of a section stand for flags of a longer name.
func TestInspectKeys(t *testing.T) {
	_, settings, err := LoadAgent(file(t, `version: 1
inspect: {enabled: false, memory: 20MiB, body: 64KiB}
endpoints: [{name: a, kind: http, upstream: "3000"}]
`), env(nil))
	if err != nil {
		t.Fatal(err)
	}
	for flag, want := range map[string]string{"no-inspect": "true", "inspect-memory": "20MiB", "inspect-body": "64KiB"} {
		if s := settings[flag]; len(s.Values) != 1 || s.Values[0] != want || s.Line != 2 {
			t.Errorf("%s: %+v, want %s", flag, s, want)
		}
	}
	_, settings, err = LoadAgent(file(t, "version: 1\nendpoints: [{name: a, kind: http, upstream: \"3000\"}]\n"), env(nil))
	if _, ok := settings["no-inspect"]; err != nil || ok {
		t.Errorf("%+v, %v", settings, err)
	}
}
