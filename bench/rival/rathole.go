package rival

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

func rathole(name string, secure bool) Rival {
	r := Rival{
		Name: name, Settings: "defaults: no encryption, a connection for each visitor",
		Needs: []string{"rathole"}, Version: []string{"rathole", "--version"},
	}
	if secure {
		r.Settings = "TLS, a connection for each visitor"
		r.Needs = append(r.Needs, "openssl")
	}
	r.Plan = func(ctx context.Context, dir string, paths map[string]string, site Site) (*Plan, error) {
		return planRathole(ctx, dir, paths, site, secure)
	}
	return r
}

func planRathole(ctx context.Context, dir string, paths map[string]string, site Site, secure bool) (*Plan, error) {
	first, err := ports(ctx, site.Server, 1+len(site.Services))
	if err != nil {
		return nil, err
	}
	var server, client strings.Builder
	fmt.Fprintf(&server, "[server]\nbind_addr = %q\ndefault_token = \"bench\"\n", at(site.Server, first))
	fmt.Fprintf(&client, "[client]\nremote_addr = %q\ndefault_token = \"bench\"\n", at(site.Server, first))
	if secure {
		ca, identity, err := identity(ctx, dir, paths["openssl"])
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&server, "[server.transport]\ntype = \"tls\"\n[server.transport.tls]\npkcs12 = %q\npkcs12_password = \"bench\"\n", identity)
		fmt.Fprintf(&client, "[client.transport]\ntype = \"tls\"\n[client.transport.tls]\ntrusted_root = %q\nhostname = %q\n", ca, Host)
	}
	p := &Plan{Addresses: make(map[string]string)}
	for i, s := range site.Services {
		address := at(site.Server, first+1+i)
		p.Addresses[s.Name] = address
		fmt.Fprintf(&server, "[server.services.%s]\nbind_addr = %q\n", s.Name, address)
		fmt.Fprintf(&client, "[client.services.%s]\nlocal_addr = %q\n", s.Name, s.Address)
	}
	p.HTTP = "http://" + p.Addresses[Web]
	serverFile, err := write(dir, "server.toml", server.String())
	if err != nil {
		return nil, err
	}
	clientFile, err := write(dir, "client.toml", client.String())
	p.Server = []Command{{Path: paths["rathole"], Args: []string{"--server", serverFile}, Listens: at(site.Server, first)}}
	p.Agent = []Command{{Path: paths["rathole"], Args: []string{"--client", clientFile}}}
	return p, err
}

// identity makes a CA and a certificate for Host with its key, as PKCS #12.
func identity(ctx context.Context, dir, openssl string) (ca, bundle string, err error) {
	path := func(name string) string { return filepath.Join(dir, name) }
	name := "subjectAltName=DNS:" + Host
	for _, args := range [][]string{
		{
			"req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=bench CA",
			"-keyout", path("ca.key"), "-out", path("ca.pem"),
		},
		{
			"req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=" + Host, "-addext", name,
			"-keyout", path("host.key"), "-out", path("host.csr"),
		},
		{
			"x509", "-req", "-in", path("host.csr"), "-CA", path("ca.pem"), "-CAkey", path("ca.key"), "-CAcreateserial", "-days", "2",
			"-copy_extensions", "copyall", "-out", path("host.pem"),
		},
		{
			"pkcs12", "-export", "-in", path("host.pem"), "-inkey", path("host.key"), "-certfile", path("ca.pem"),
			"-passout", "pass:bench", "-out", path("host.pfx"),
		},
	} {
		if out, err := exec.CommandContext(ctx, openssl, args...).CombinedOutput(); err != nil {
			return "", "", fmt.Errorf("openssl %s: %w: %s", args[0], err, out)
		}
	}
	return path("ca.pem"), path("host.pfx"), nil
}
