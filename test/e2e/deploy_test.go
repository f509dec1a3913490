package e2e

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

const deploy = "../../deploy/"

// TestUnits: systemd understands the units, and would start what they name.
func TestUnits(t *testing.T) {
	dir := t.TempDir()
	units, err := filepath.Glob(deploy + "systemd/*")
	check(t, err)
	if len(units) < 3 {
		t.Fatalf("%q", units)
	}
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		check(t, err)
		for line := range strings.Lines(string(text)) {
			if command, ok := strings.CutPrefix(line, "ExecStart=/usr/local/bin/culvert "); ok {
				knows(t, strings.Fields(command))
			}
		}
		text = bytes.ReplaceAll(text, []byte("/usr/local/bin/culvert"), []byte(binary))
		check(t, os.WriteFile(filepath.Join(dir, filepath.Base(unit)), text, 0o600))
	}
	for _, unit := range units {
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", filepath.Join(dir, filepath.Base(unit))).CombinedOutput()
		if err != nil || strings.Contains(string(out), dir) || strings.Contains(string(out), "culvert") {
			t.Errorf("%s: %v\n%s", unit, err, out)
		}
	}
}

// knows checks that a command of culvert has the flags that are given to it.
func knows(t *testing.T, args []string) {
	t.Helper()
	help, err := exec.CommandContext(t.Context(), binary, args[0], "--help").Output()
	check(t, err)
	for _, arg := range args[1:] {
		if flag, _, _ := strings.Cut(arg, "="); strings.HasPrefix(flag, "--") && !strings.Contains(string(help), " "+flag+" ") {
			t.Errorf("culvert %s has no %s", args[0], flag)
		}
	}
}

// TestCompose: the file is as Compose wants it, as far as can be told without it, and what
// it mounts is there and valid.
func TestCompose(t *testing.T) {
	text, err := os.ReadFile(deploy + "compose/compose.yml")
	check(t, err)
	var file struct {
		Services map[string]struct {
			Build   struct{ Context, Dockerfile string }
			Command []string
			Volumes []string
		}
		Volumes map[string]any
	}
	check(t, yaml.Unmarshal(text, &file))
	if len(file.Services) != 2 {
		t.Fatalf("%+v", file)
	}
	for name, s := range file.Services {
		knows(t, s.Command)
		if _, err := os.Stat(filepath.Join(deploy, "compose", s.Build.Context, s.Build.Dockerfile)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, v := range s.Volumes {
			from, _, _ := strings.Cut(v, ":")
			if _, err := os.Stat(filepath.Join(deploy, "compose", from)); strings.HasPrefix(from, ".") && err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if _, ok := file.Volumes[from]; !strings.HasPrefix(from, ".") && !ok {
				t.Errorf("%s: no volume %s", name, from)
			}
		}
	}
	agent := start(t, t.TempDir(), []string{"CULVERT_TOKEN=cvt_id_secret"}, "config", "check", deploy+"compose/culvert.yml")
	if agent.exit() != 0 {
		t.Errorf("culvert.yml: %s", agent.errors())
	}
	// What is on the command line wins: no port of this machine's, no order.
	server := start(t, t.TempDir(), nil, "server", "--config", deploy+"compose/server.yml", "--data", filepath.Join(t.TempDir(), "data"),
		"--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "off", "--acme-ca", "https://127.0.0.1:1/directory")
	server.wait(0, "server ready", msg("server ready"))
}

// object is a part of a Kubernetes manifest.
type object map[string]any

// field follows a path of keys and returns what is there.
func field[T any](o object, keys ...string) T {
	var v any = map[string]any(o)
	for _, k := range keys {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	is, _ := v.(T)
	return is
}

// TestChart: Helm finds nothing wrong with the chart, and what it renders fits together and
// is understood by the server. Helm is no small thing to build: make chart does.
func TestChart(t *testing.T) {
	helm, err := exec.LookPath("../../bin/helm")
	if err != nil {
		if helm, err = exec.LookPath("helm"); err != nil {
			t.Skip("helm is not here: make chart builds it")
		}
	}
	render := func(values ...string) ([]object, error) {
		args := []string{"template", "edge", deploy + "helm/culvert", "--namespace", "tunnels", "--kube-version", "1.32.0"}
		for _, v := range values {
			args = append(args, "--set", v)
		}
		var list []object
		out, err := exec.CommandContext(t.Context(), helm, args...).Output()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return nil, errors.New(string(exit.Stderr))
		}
		d := yaml.NewDecoder(bytes.NewReader(out))
		for {
			var o object
			if err := d.Decode(&o); errors.Is(err, io.EOF) {
				return list, nil
			} else if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if o != nil {
				list = append(list, o)
			}
		}
	}
	if out, err := exec.CommandContext(t.Context(), helm, "lint", "--strict", deploy+"helm/culvert", "--set", "domain=t.example.com").CombinedOutput(); err != nil {
		t.Errorf("%s", out)
	}
	for _, c := range []struct {
		values []string
		flags  []string
		fails  string
	}{
		{[]string{"domain=t.example.com"}, []string{"--domain=t.example.com", "--tcp-ports=off"}, ""},
		{[]string{"domain=t.example.com", "replicas=3"}, nil, "cluster.joinTokenSecret"},
		{[]string{"domain=t.example.com", "replicas=2"}, nil, "replicas"},
		{nil, nil, "domain"},
		{
			[]string{"domain=t.example.com", "replicas=3", "cluster.joinTokenSecret=join", "tcpPorts.count=3", "udpPorts.count=1", "acme.email=a@example.com", "serviceMonitor.enabled=true"},
			[]string{"--tcp-ports=20000-20002", "--udp-ports=20000-20000", "--join=edge-culvert-2.edge-culvert-peers.tunnels.svc:7443", "--join-token-file=/etc/culvert/join/token", "--acme-email=a@example.com"},
			"",
		},
		{
			[]string{"domain=t.example.com", "replicas=5", "etcd.urls={https://etcd:2379}", "etcd.tlsSecret=etcd", "tls.secret=cert", "proxyProtocolFrom={10.0.0.0/8}", "region=eu", "extraArgs={--access-log=attributes}"},
			[]string{"--etcd=https://etcd:2379", "--etcd-ca=/etc/culvert/etcd/ca.crt", "--cert=/etc/culvert/tls/tls.crt", "--proxy-protocol-from=10.0.0.0/8", "--access-log=attributes"},
			"",
		},
	} {
		list, err := render(c.values...)
		if c.fails != "" {
			if err == nil || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%q: %v", c.values, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", c.values, err)
			continue
		}
		testManifests(t, list, c.flags)
	}
}

// testManifests checks that objects fit together.
func testManifests(t *testing.T, list []object, flags []string) {
	t.Helper()
	named := make(map[string]object)
	for _, o := range list {
		named[field[string](o, "kind")+"/"+field[string](o, "metadata", "name")] = o
	}
	set := named["StatefulSet/edge-culvert"]
	pod := object(field[map[string]any](set, "spec", "template", "spec"))
	containers := field[[]any](pod, "containers")
	if len(containers) != 1 {
		t.Fatalf("%v", list)
	}
	server := object(containers[0].(map[string]any))
	var args []string
	for _, a := range field[[]any](server, "args") {
		args = append(args, a.(string))
	}
	knows(t, args)
	for _, f := range flags {
		if !slices.Contains(args, f) {
			t.Errorf("no %s among %q", f, args)
		}
	}
	ports := make(map[any]bool)
	for _, p := range field[[]any](server, "ports") {
		ports[p.(map[string]any)["name"]] = true
	}
	for _, probe := range []string{"startupProbe", "livenessProbe", "readinessProbe"} {
		if p := field[string](server, probe, "httpGet", "port"); !ports[p] {
			t.Errorf("%s asks port %q", probe, p)
		}
	}
	volumes := map[any]bool{"data": true} // a claim
	for _, v := range field[[]any](pod, "volumes") {
		volumes[v.(map[string]any)["name"]] = true
	}
	for _, m := range field[[]any](server, "volumeMounts") {
		if name := m.(map[string]any)["name"]; !volumes[name] {
			t.Errorf("no volume %v", name)
		}
	}
	labels := field[map[string]any](set, "spec", "template", "metadata", "labels")
	for _, name := range []string{"edge-culvert", field[string](set, "spec", "serviceName")} {
		service := named["Service/"+name]
		if service == nil {
			t.Fatalf("no service %s", name)
		}
		for k, v := range field[map[string]any](service, "spec", "selector") {
			if labels[k] != v {
				t.Errorf("%s selects %s=%v, pods have %v", name, k, v, labels[k])
			}
		}
	}
}
