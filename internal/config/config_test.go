package config

import (
	"errors"
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
		"version: 2\n":                                             "version must be 1",
		"version: 1\nregion: ${NOPE}\n":                            "c.yml:2:9: the environment has no variable NOPE",
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
	a, err := LoadAgent(path, env(map[string]string{"T": "x\nserver: evil", "P": "3000"}))
	if err != nil || a.Token != "x\nserver: evil" || a.Server != "" || a.Endpoints[0].Upstream != "3000" {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestAgentFile(t *testing.T) {
	for text, want := range map[string]string{
		"version: 1\n": "no endpoints",
		"version: 1\nendpoints: [{kind: http, upstream: 1}]":                                            "endpoint 1 has no name",
		"version: 1\nendpoints: [{name: a, kind: http}]":                                                "no upstream",
		"version: 1\nendpoints: [{name: a, upstream: 1}]":                                               "either a url or a kind",
		"version: 1\nendpoints: [{name: a, kind: tcp, upstream: 1}, {name: a, kind: tcp, upstream: 2}]": "two endpoints",
	} {
		if _, err := LoadAgent(file(t, text), env(nil)); err == nil || !strings.Contains(err.Error(), want) {
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
	all := map[string][]string{"a-flag": {"file"}, "a-variable": {"file"}, "a-key": {"file"}}
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
