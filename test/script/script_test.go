// Package script holds the command line to its word: what each command prints and
// how it exits, in testdata/*.txtar.
package script

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/culvert-tunnel/culvert/internal/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"culvert": func() {
			os.Exit(cli.Run(context.Background(), cli.Env{
				Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, LookupEnv: os.LookupEnv,
			}))
		},
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata",
		Cmds:  map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
		Setup: func(e *testscript.Env) error { e.Setenv("HOME", e.WorkDir); return nil },
	})
}

// exits runs a command that must end with an exit code, and say why on stderr in one
// line: exits 2 culvert http.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](ts.Exec(args[1], args[2:]...)); ok {
		code = exit.ExitCode()
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
	if errors := ts.ReadFile("stderr"); strings.Count(errors, "\n") != 1 || !strings.HasPrefix(errors, "culvert: ") || ts.ReadFile("stdout") != "" {
		ts.Fatalf("not one line on stderr alone")
	}
}

var update = flag.Bool("update", false, "rewrite the golden files in testdata/help")

// TestHelp: each command says what it does, with an example, and in the words of its
// golden file.
func TestHelp(t *testing.T) {
	commands := []string{""}
	left := make(map[string]bool)
	for len(commands) > 0 {
		args := strings.Fields(commands[0])
		commands = commands[1:]
		var out strings.Builder
		code := cli.Run(t.Context(), cli.Env{
			Args: append(args, "--help"), Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out,
			LookupEnv: func(k string) (string, bool) { return "/nonexistent", k == "HOME" },
		})
		if code != 0 || !strings.Contains(out.String(), "Examples:\n  culvert ") {
			t.Errorf("culvert %s has no example:\n%s", strings.Join(args, " "), out.String())
		}
		name := strings.Join(append([]string{"culvert"}, args...), "-") + ".txt"
		// The data directory is that of root.
		golden(t, filepath.Join("testdata", "help", name), strings.ReplaceAll(out.String(), "/nonexistent/.local/state/culvert/server", "/var/lib/culvert"))
		left[name] = true
		_, below, _ := strings.Cut(out.String(), "Available Commands:\n")
		below, _, _ = strings.Cut(below, "\n\n")
		for line := range strings.Lines(below) {
			if name := strings.Fields(line)[0]; name != "completion" && name != "help" {
				commands = append(commands, strings.Join(append(args, name), " "))
			}
		}
	}
	files, err := os.ReadDir(filepath.Join("testdata", "help"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !left[f.Name()] {
			t.Errorf("%s is of no command", f.Name())
		}
	}
}

// golden holds text to a file.
func golden(t *testing.T, path, text string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(path); err != nil || string(want) != text {
		t.Errorf("%s is not what the command says (%v); if it should be, run go test ./test/script -update:\n%s", path, err, text)
	}
}

// shown are the commands of the documents, each with the test that runs it.
var shown = map[string]string{
	"go run ./cmd/culvert demo": "test/e2e TestDemo",
	"make test":                 "CI",
	"make build":                "CI (make check builds; the e2e tests build the same package)",
}

// TestDocuments: no command is shown to readers that nothing runs. Those in blocks
// marked console are run by test/e2e TestDocumentedCommands; here their spelling is
// checked, and that of the commands within sentences.
func TestDocuments(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	guides, err := filepath.Glob("../../docs/guide/*.md")
	if err != nil || len(guides) < 5 {
		t.Fatal(guides, err)
	}
	for _, path := range append(guides, "../../README.md", "../../docs/operations.md", "../../docs/protocol.md", "../../docs/sdk.md", "../../ARCHITECTURE.md", "../../CONTRIBUTING.md") {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, span := range regexp.MustCompile("`(?:culvert|make) [^`]+`").FindAllString(string(b), -1) {
			span = strings.Trim(span, "`")
			if target, ok := strings.CutPrefix(span, "make "); ok {
				if !strings.Contains(string(makefile), "\n"+target+":") {
					t.Errorf("%s: no target for %q", path, span)
				}
				continue
			}
			last := strings.Fields(span)[len(strings.Fields(span))-1]
			for each := range strings.SplitSeq(last, "|") { // culvert token create|list
				checkSpelling(t, path, strings.TrimSuffix(span, last)+each)
			}
		}
		kind := ""
		for line := range strings.Lines(string(b)) {
			line = strings.TrimSpace(line)
			if mark, ok := strings.CutPrefix(line, "```"); ok {
				kind = mark
				continue
			}
			switch {
			case kind == "sh" && shown[line] == "":
				t.Errorf("%s: nothing runs %q", path, line)
			case kind == "console" && strings.HasPrefix(line, "$ "):
				checkSpelling(t, path, line[2:])
			}
		}
	}
}

// checkSpelling runs the help of a command with its flags, which fails for a
// command or flag that isn't there.
func checkSpelling(t *testing.T, path, line string) {
	t.Helper()
	line, _, _ = strings.Cut(line, "  #")
	args := strings.Fields(strings.ReplaceAll(line, "'", ""))
	for len(args) > 0 && args[0] != "culvert" {
		args = args[1:]
	}
	var out strings.Builder
	code := cli.Run(t.Context(), cli.Env{
		Args: append(args[1:], "--help"), Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out,
		LookupEnv: func(k string) (string, bool) { return "/nonexistent", k == "HOME" },
	})
	if code != 0 || !strings.Contains(out.String(), "Usage:") {
		t.Errorf("%s: %q: %s", path, line, out.String())
	}
}
