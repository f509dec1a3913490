package rival

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// planNone lets visitors reach the services themselves.
func planNone(_ context.Context, _ string, _ map[string]string, site Site) (*Plan, error) {
	p := &Plan{Addresses: make(map[string]string)}
	for _, s := range site.Services {
		p.Addresses[s.Name] = s.Address
	}
	p.HTTP = "http://" + p.Addresses[Web]
	return p, nil
}

// haproxy chains two HAProxy in TCP mode. With TLS between them each visitor has a
// connection of its own there, too.
func haproxy(name, settings string, splice, secure bool) Rival {
	r := Rival{
		Name: name, Settings: "two in a row, TCP, " + settings, Limit: true,
		Needs: []string{"haproxy"}, Version: []string{"haproxy", "-v"},
	}
	if secure {
		r.Needs = append(r.Needs, "openssl")
	}
	r.Plan = func(ctx context.Context, dir string, paths map[string]string, site Site) (*Plan, error) {
		return planHAProxy(ctx, dir, paths, site, splice, secure)
	}
	return r
}

func planHAProxy(ctx context.Context, dir string, paths map[string]string, site Site, splice, secure bool) (*Plan, error) {
	n := len(site.Services)
	outer, err := ports(ctx, site.Server, n)
	if err != nil {
		return nil, err
	}
	inner, err := ports(ctx, site.Agent, n)
	if err != nil {
		return nil, err
	}
	var dial, accept string
	if secure {
		ca, _, err := identity(ctx, dir, paths["openssl"])
		if err != nil {
			return nil, err
		}
		pair, err := together(dir, "pair.pem", "host.pem", "host.key")
		if err != nil {
			return nil, err
		}
		dial = fmt.Sprintf(" ssl verify required verifyhost %s ca-file %q", Host, ca)
		accept = fmt.Sprintf(" ssl crt %q", pair)
	}
	head := `global
	maxconn 7000
defaults
	mode tcp
	timeout connect 5s
	timeout client 1h
	timeout server 1h
`
	if splice {
		head += "\toption splice-auto\n"
	}
	first, second := head, head
	p := &Plan{Addresses: make(map[string]string)}
	for i, s := range site.Services {
		p.Addresses[s.Name] = at(site.Server, outer+i)
		first += fmt.Sprintf("listen %s\n\tbind %s\n\tserver next %s%s\n", s.Name, at(site.Server, outer+i), at(site.Agent, inner+i), dial)
		second += fmt.Sprintf("listen %s\n\tbind %s%s\n\tserver service %s\n", s.Name, at(site.Agent, inner+i), accept, s.Address)
	}
	p.HTTP = "http://" + p.Addresses[Web]
	outerFile, err := write(dir, "outer.cfg", first)
	if err != nil {
		return nil, err
	}
	innerFile, err := write(dir, "inner.cfg", second)
	p.Server = []Command{{Path: paths["haproxy"], Args: []string{"-db", "-f", outerFile}, Listens: at(site.Server, outer)}}
	p.Agent = []Command{{Path: paths["haproxy"], Args: []string{"-db", "-f", innerFile}, Listens: at(site.Agent, inner)}}
	return p, err
}

// together writes files of dir one after the other into another.
func together(dir, name string, parts ...string) (string, error) {
	var text strings.Builder
	for _, part := range parts {
		b, err := os.ReadFile(filepath.Join(dir, part))
		if err != nil {
			return "", err
		}
		text.Write(b)
	}
	return write(dir, name, text.String())
}

// planNginx chains two nginx by HTTP, both with connections kept.
func planNginx(ctx context.Context, dir string, paths map[string]string, site Site) (*Plan, error) {
	outer, err := ports(ctx, site.Server, 2)
	if err != nil {
		return nil, err
	}
	inner, err := ports(ctx, site.Agent, 1)
	if err != nil {
		return nil, err
	}
	if _, _, err := identity(ctx, dir, paths["openssl"]); err != nil {
		return nil, err
	}
	one := func(name, listen, to string) (string, error) {
		return write(dir, name, fmt.Sprintf(`daemon off;
pid %s.pid;
error_log %s.log;
worker_processes auto;
events { worker_connections 8000; }
http {
	access_log off;
	client_body_temp_path %s-body;
	proxy_temp_path %s-proxy;
	fastcgi_temp_path %s-fastcgi;
	uwsgi_temp_path %s-uwsgi;
	scgi_temp_path %s-scgi;
	keepalive_requests 1000000000;
	upstream next { server %s; keepalive 256; keepalive_requests 1000000000; }
	server {
		%s
		location / {
			proxy_pass http://next;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host $host;
		}
	}
}
`, filepath.Join(dir, name), filepath.Join(dir, name), filepath.Join(dir, name), filepath.Join(dir, name), filepath.Join(dir, name),
			filepath.Join(dir, name), filepath.Join(dir, name), to, listen))
	}
	outerFile, err := one("outer.conf", fmt.Sprintf("listen %s reuseport; listen %s ssl http2 reuseport; ssl_certificate %s; ssl_certificate_key %s;",
		at(site.Server, outer), at(site.Server, outer+1), filepath.Join(dir, "host.pem"), filepath.Join(dir, "host.key")), at(site.Agent, inner))
	if err != nil {
		return nil, err
	}
	innerFile, err := one("inner.conf", fmt.Sprintf("listen %s reuseport;", at(site.Agent, inner)), site.Service(Web))
	if err != nil {
		return nil, err
	}
	return &Plan{
		Server:    []Command{{Path: paths["nginx"], Args: []string{"-c", outerFile, "-p", dir}, Listens: at(site.Server, outer)}},
		Agent:     []Command{{Path: paths["nginx"], Args: []string{"-c", innerFile, "-p", dir}, Listens: at(site.Agent, inner)}},
		Addresses: map[string]string{Web: at(site.Server, outer)},
		HTTP:      "http://" + at(site.Server, outer),
		H2:        fmt.Sprintf("https://%s:%d", Host, outer+1),
	}, nil
}
