package certs

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/libdns/libdns"

	"github.com/culvert-tunnel/culvert/test/harness"
	"github.com/culvert-tunnel/culvert/test/pebble"
)

// nameserver is a running BIND.
type nameserver struct {
	address string
	keyFile string
}

// startBIND runs BIND as the primary server of some zones, which take updates that are
// signed with the key.
func startBIND(t *testing.T, zones ...string) *nameserver {
	t.Helper()
	dir := t.TempDir()
	ns := &nameserver{address: harness.FreeAddress(t), keyFile: filepath.Join(dir, "tsig.key")}
	key, err := exec.CommandContext(t.Context(), "tsig-keygen", "-a", "hmac-sha512", "culvert.example").Output()
	check(t, err)
	check(t, os.WriteFile(ns.keyFile, key, 0o600))
	_, port, _ := net.SplitHostPort(ns.address)
	conf := fmt.Sprintf(`include %q;
controls {};
options {
	directory %q; pid-file none; session-keyfile none; lock-file none;
	listen-on port %s { 127.0.0.1; }; listen-on-v6 { none; };
	recursion no; dnssec-validation no; notify no;
};
`, ns.keyFile, dir, port)
	for _, z := range zones {
		conf += fmt.Sprintf("zone %q { type primary; file %q; allow-update { key culvert.example; }; };\n", z, z)
		check(t, os.WriteFile(filepath.Join(dir, z), []byte("$TTL 60\n@ SOA primary hostmaster 1 60 60 600 60\nprimary A 127.0.0.1\n@ NS primary\n"), 0o600))
	}
	file := filepath.Join(dir, "named.conf")
	check(t, os.WriteFile(file, []byte(conf), 0o600))
	named, err := exec.LookPath("named")
	if err != nil {
		named = "/usr/sbin/named" // not in everybody's path
	}
	cmd := exec.Command(named, "-g", "-c", file)
	var log syncBuffer
	cmd.Stdout, cmd.Stderr = &log, &log
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s", log.b.String())
		}
	})
	until(t, "BIND", func() bool { return log.count(" running\n") > 0 })
	return ns
}

// texts are the texts of a record, as dig finds them.
func (ns *nameserver) texts(t *testing.T, name string) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(ns.address)
	out, err := exec.CommandContext(t.Context(), "dig", "+short", "+tcp", "@127.0.0.1", "-p", port, name, "TXT").Output()
	check(t, err)
	return strings.TrimSpace(string(out))
}

// hook makes records by nsupdate.
const hook = `#!/bin/sh
port=$1 key=$2 zone=$3 action=$4 name=$5
read -r value
case $action in
present) update="update add $name 60 TXT \"$value\"" ;;
cleanup) update="update delete $name TXT \"$value\"" ;;
*) echo "unknown action $action" >&2; exit 1 ;;
esac
printf 'server 127.0.0.1 %s\nzone %s\n%s\nsend\n' "$port" "$zone" "$update" | nsupdate -k "$key"
`

// TestDNS01: a wildcard certificate by dynamic update and by a program, both at a real
// DNS server; names below the domain cost no further order, records are gone afterwards.
func TestDNS01(t *testing.T) {
	t.Parallel()
	const byUpdate, byProgram = "update.example.com", "program.example.com"
	ns := startBIND(t, byUpdate, byProgram)
	_, port, _ := net.SplitHostPort(ns.address)
	program := filepath.Join(t.TempDir(), "hook")
	check(t, os.WriteFile(program, []byte(hook), 0o700))
	for domain, dns := range map[string]DNS{
		byUpdate:  {Server: ns.address, KeyFile: ns.keyFile, Resolvers: []string{ns.address}},
		byProgram: {Exec: []string{program, port, ns.keyFile, byProgram}, Resolvers: []string{ns.address}},
	} {
		t.Run(domain, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			ca := w.ca(t, pebble.Config{DNS: ns.address})
			m, _ := w.manage(t, ca, Config{Domain: domain, ACME: ACME{DNS: dns}})
			from(t, ca, eventually(t, m, domain, nil), domain)
			w.bind(m, "app."+domain)
			from(t, ca, eventually(t, m, "app."+domain, nil), "app."+domain)
			c, err := m.Visitor(t.Context(), "nobody."+domain)
			check(t, err)
			from(t, ca, c, "nobody."+domain)
			if n := ca.Orders(); n != 2 {
				t.Errorf("%d orders, want 2: the domain and the wildcard", n)
			}
			until(t, "records to go", func() bool { return ns.texts(t, "_acme-challenge."+domain) == "" })
		})
	}
}

// TestUpdateRefused: a key that the server doesn't know, and a server that isn't there.
func TestUpdateRefused(t *testing.T) {
	t.Parallel()
	ns := startBIND(t, "refused.example.com")
	record := []libdns.Record{libdns.RR{Name: "_acme-challenge", Type: "TXT", Data: "x", TTL: time.Minute}}
	other := filepath.Join(t.TempDir(), "other.key")
	check(t, os.WriteFile(other, []byte(`key other { algorithm hmac-sha256; secret "MDEyMzQ1Njc4OWFiY2RlZg=="; };`), 0o600))
	for keyFile, want := range map[string]string{"": "REFUSED", other: "refused", ns.keyFile: ""} {
		p, err := newRFC2136(ns.address, keyFile)
		check(t, err)
		_, err = p.AppendRecords(t.Context(), "refused.example.com.", record)
		if (err == nil) != (want == "") {
			t.Errorf("key %q: %v", keyFile, err)
		}
		if err != nil && strings.Contains(err.Error(), "MDEy") {
			t.Errorf("the key is in the error: %v", err)
		}
	}
	if got := ns.texts(t, "_acme-challenge.refused.example.com"); got != `"x"` {
		t.Errorf("the record is %s", got)
	}
	p, err := newRFC2136(harness.FreeAddress(t), "")
	check(t, err)
	if _, err := p.AppendRecords(t.Context(), "refused.example.com.", record); err == nil {
		t.Error("no error without a server")
	}
}

// TestParseKey: what tsig-keygen prints, and what looks like it.
func TestParseKey(t *testing.T) {
	name, algorithm, secret, err := parseKey("# a comment\nkey \"Tsig.Example\" {\n\talgorithm hmac-sha256;\n\tsecret \"YWJj/+==\";\n};\n")
	if name != "tsig.example." || algorithm != "hmac-sha256." || secret != "YWJj/+==" || err != nil {
		t.Errorf("%q %q %q %v", name, algorithm, secret, err)
	}
	for _, bad := range []string{"", "key k { }", "key k { algorithm hmac-md5; secret YWJj; };", "key k { algorithm hmac-sha256; };", "secret YWJj;", "key k { algorithm hmac-sha256; secret \"a b\"; };"} {
		if _, _, _, err := parseKey(bad); err == nil {
			t.Errorf("%q is taken for a key", bad)
		} else if strings.Contains(err.Error(), "YWJj") {
			t.Errorf("the secret is in the error: %v", err)
		}
	}
}

// TestExec: what a program is told, and what is told of it.
func TestExec(t *testing.T) {
	dir := t.TempDir()
	program, told := filepath.Join(dir, "program"), filepath.Join(dir, "told")
	check(t, os.WriteFile(program, []byte("#!/bin/sh\n[ \"$2\" = cleanup ] && { echo first; echo 'no such zone' >&2; exit 3; }\n{ echo \"$@\"; cat; } >"+told+"\n"), 0o700))
	p, err := newProvider(DNS{Exec: []string{program, "an arg"}})
	check(t, err)
	record := []libdns.Record{libdns.RR{Name: "_acme-challenge.tunnel", Type: "TXT", Data: "the-value"}}
	_, err = p.AppendRecords(t.Context(), "example.com.", record)
	check(t, err)
	b, err := os.ReadFile(told)
	check(t, err)
	if got := string(b); got != "an arg present _acme-challenge.tunnel.example.com.\nthe-value\n" {
		t.Errorf("told %q", got)
	}
	if _, err = p.DeleteRecords(t.Context(), "example.com.", record); err == nil || !strings.Contains(err.Error(), "no such zone") || strings.Contains(err.Error(), "first") {
		t.Errorf("%v", err)
	}

	// One that never ends is ended, with what it started.
	pid := filepath.Join(dir, "pid")
	check(t, os.WriteFile(program, []byte("#!/bin/sh\nsleep 1000 &\necho $! >"+pid+".new; mv "+pid+".new "+pid+"; wait\n"), 0o700))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := p.AppendRecords(ctx, "example.com.", record)
		ended <- err
	}()
	until(t, "the program", func() bool { _, err := os.Stat(pid); return err == nil })
	cancel()
	if err := <-ended; err == nil {
		t.Error("no error for a program that was ended")
	}
	b, err = os.ReadFile(pid)
	check(t, err)
	until(t, "what it started to end", func() bool {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(b)) + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}

// FuzzParseKey: no file of a key makes trouble.
func FuzzParseKey(f *testing.F) {
	f.Add(`key "k" { algorithm hmac-sha256; secret "YWJj"; };`)
	f.Fuzz(func(t *testing.T, text string) {
		name, algorithm, secret, err := parseKey(text)
		if (err == nil) != (name != "" && algorithm != "" && secret != "") {
			t.Errorf("%q %q %q %v", name, algorithm, secret, err)
		}
	})
}
