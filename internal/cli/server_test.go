package cli

import (
	"bytes"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/culvert-tunnel/culvert/internal/server"
	"github.com/culvert-tunnel/culvert/internal/server/certs"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// TestGreet: the agent command of the first start, for each kind of certificate.
func TestGreet(t *testing.T) {
	token := tunnel.NewToken("")
	for name, tc := range map[string]struct {
		cfg   server.Config
		ready server.Ready
		want  []string
	}{
		"usual port":        {server.Config{Domain: "t.example.com", DataDir: "/d"}, server.Ready{HTTPS: &net.TCPAddr{Port: 443}}, []string{"culvert http 3000 --server t.example.com\n", "token create --data /d\n"}},
		"another":           {server.Config{Domain: "t.example.com", DataDir: "/d"}, server.Ready{HTTPS: &net.TCPAddr{Port: 8443}}, []string{"--server t.example.com:8443\n"}},
		"path with a space": {server.Config{Domain: "t.example.com", DataDir: "/it's a d"}, server.Ready{HTTPS: &net.TCPAddr{Port: 443}}, []string{`--data '/it'\''s a d'` + "\n"}},
		"private":           {server.Config{Domain: "t.example.com", Certs: []certs.Pair{{Cert: "/etc/my cert.pem"}}}, server.Ready{HTTPS: &net.TCPAddr{Port: 443}, NeedsCA: true}, []string{"--server t.example.com --ca 'my cert.pem'\n"}},
	} {
		var out bytes.Buffer
		env := &Env{Stdout: &out, LookupEnv: func(string) (string, bool) { return "", false }}
		tc.cfg.Logger, tc.ready.Token = slog.New(slog.DiscardHandler), &token
		greet(env, tc.cfg, tc.ready)
		for _, want := range append(tc.want, "CULVERT_TOKEN="+token.Reveal()+" culvert") {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: no %q in %s", name, want, out.String())
			}
		}
		out.Reset()
		tc.ready.Token = nil
		greet(env, tc.cfg, tc.ready)
		if out.Len() > 0 {
			t.Errorf("%s: a later start printed %s", name, out.String())
		}
	}
}

func TestHostPort(t *testing.T) {
	for in, want := range map[string]string{
		"a": "a:443", "a:1": "a:1", "https://a/": "a:443", "::1": "[::1]:443", "[::1]": "[::1]:443", "[::1]:5": "[::1]:5",
		"": "", "a:": "", "a:x": "", "a:0": "", "a:70000": "", "a/b": "", "u@a": "", "a b": "",
	} {
		if got, err := hostPort(in, "443"); got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}
