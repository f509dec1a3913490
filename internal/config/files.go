package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/goccy/go-yaml"
)

// Agent is the form of culvert.yml.
type Agent struct {
	Version   int        `yaml:"version" json:"version" jsonschema:"enum=1"`
	Server    string     `yaml:"server,omitempty" json:"server,omitempty" jsonschema:"description=host or host:port of the server"`
	Token     string     `yaml:"token,omitempty" json:"token,omitempty" jsonschema:"description=the agent's token; write ${CULVERT_TOKEN} to take it from the environment"`
	TokenFile string     `yaml:"token_file,omitempty" json:"token_file,omitempty" jsonschema:"description=file that holds the token"`
	CA        string     `yaml:"ca,omitempty" json:"ca,omitempty" jsonschema:"description=file with the CA of a server on a private certificate"`
	API       string     `yaml:"api,omitempty" json:"api,omitempty" jsonschema:"description=address of the local API; off for none"`
	Endpoints []Endpoint `yaml:"endpoints" json:"endpoints"`
}

// Endpoint is one endpoint of culvert.yml.
type Endpoint struct {
	Name       string `yaml:"name" json:"name" jsonschema:"description=names the endpoint in logs and on the command line"`
	URL        string `yaml:"url,omitempty" json:"url,omitempty" jsonschema:"description=https://app.example.com or tls://db.example.com or tcp://:20022; without it the server picks one for kind"`
	Kind       string `yaml:"kind,omitempty" json:"kind,omitempty" jsonschema:"enum=http,enum=tls,enum=tcp,description=needed where there is no url"`
	Label      string `yaml:"label,omitempty" json:"label,omitempty" jsonschema:"description=name below the server's domain"`
	Upstream   string `yaml:"upstream" json:"upstream" jsonschema:"description=port or host:port or http://… or https://… or h2c://… or unix:/path"`
	UpstreamCA string `yaml:"upstream_ca,omitempty" json:"upstream_ca,omitempty" jsonschema:"description=file with the CA of an https upstream"`
	HostHeader string `yaml:"host_header,omitempty" json:"host_header,omitempty" jsonschema:"description=Host that the upstream sees instead of the visitor's"`
	Redirect   *bool  `yaml:"redirect,omitempty" json:"redirect,omitempty" jsonschema:"description=whether the plain port redirects to https; by default once visitors trust the certificate"`
}

// Server is the form of server.yml.
type Server struct {
	Version  int    `yaml:"version" json:"version" jsonschema:"enum=1"`
	Domain   string `yaml:"domain,omitempty" json:"domain,omitempty"`
	Listen   Listen `yaml:"listen,omitempty" json:"listen,omitzero"`
	TCPHost  string `yaml:"tcp_host,omitempty" json:"tcp_host,omitempty" jsonschema:"description=address that tcp endpoints listen on; all by default"`
	TCPPorts string `yaml:"tcp_ports,omitempty" json:"tcp_ports,omitempty" jsonschema:"description=first-last"`
	Data     string `yaml:"data,omitempty" json:"data,omitempty"`
	Cert     string `yaml:"cert,omitempty" json:"cert,omitempty"`
	Key      string `yaml:"key,omitempty" json:"key,omitempty"`
	Region   string `yaml:"region,omitempty" json:"region,omitempty"`
	Node     string `yaml:"node,omitempty" json:"node,omitempty"`
	Grace    string `yaml:"grace,omitempty" json:"grace,omitempty" jsonschema:"description=duration such as 10s"`
	Drain    string `yaml:"drain,omitempty" json:"drain,omitempty" jsonschema:"description=duration such as 30s"`
}

// Listen is the part of server.yml that names addresses.
type Listen struct {
	HTTP  string   `yaml:"http,omitempty" json:"http,omitempty"`
	HTTPS string   `yaml:"https,omitempty" json:"https,omitempty"`
	Link  []string `yaml:"link,omitempty" json:"link,omitempty"`
	Admin string   `yaml:"admin,omitempty" json:"admin,omitempty"`
}

// ErrVersion says that a file is of a form this program does not know.
var ErrVersion = errors.New("version must be 1")

// LoadAgent reads culvert.yml.
func LoadAgent(path string, env LookupEnv) (Agent, error) {
	var a Agent
	if err := Load(path, &a, env); err != nil {
		return a, err
	}
	if a.Version != 1 {
		return a, fmt.Errorf("%s: %w", path, ErrVersion)
	}
	if len(a.Endpoints) == 0 {
		return a, &Error{File: path, Message: "there are no endpoints"}
	}
	seen := make(map[string]bool)
	for i, e := range a.Endpoints {
		switch {
		case e.Name == "":
			return a, &Error{File: path, Message: "endpoint " + strconv.Itoa(i+1) + " has no name"}
		case seen[e.Name]:
			return a, &Error{File: path, Message: fmt.Sprintf("two endpoints have the name %q", e.Name)}
		case e.Upstream == "":
			return a, &Error{File: path, Message: fmt.Sprintf("endpoint %q has no upstream", e.Name)}
		case (e.URL == "") == (e.Kind == ""):
			return a, &Error{File: path, Message: fmt.Sprintf("endpoint %q needs either a url or a kind", e.Name)}
		}
		seen[e.Name] = true
	}
	return a, nil
}

// LoadServer reads server.yml and returns it as values of flags.
func LoadServer(path string, env LookupEnv) (map[string][]string, error) {
	var s Server
	if err := Load(path, &s, env); err != nil {
		return nil, err
	}
	if s.Version != 1 {
		return nil, fmt.Errorf("%s: %w", path, ErrVersion)
	}
	flags := map[string][]string{"link": s.Listen.Link}
	for name, v := range map[string]string{
		"domain": s.Domain, "http": s.Listen.HTTP, "https": s.Listen.HTTPS, "admin": s.Listen.Admin,
		"tcp-host": s.TCPHost, "tcp-ports": s.TCPPorts, "data": s.Data, "cert": s.Cert, "key": s.Key,
		"region": s.Region, "node": s.Node, "grace": s.Grace, "drain": s.Drain,
	} {
		if v != "" {
			flags[name] = []string{v}
		}
	}
	return flags, nil
}

// Login is what culvert login keeps.
type Login struct {
	Server string `yaml:"server"`
	Token  string `yaml:"token"`
}

func loginPath(d Dirs) string { return filepath.Join(d.Config, "login.yml") }

// SaveLogin keeps a login in a file that only its user can read, and returns its
// path.
func SaveLogin(d Dirs, l Login) (string, error) {
	b, err := yaml.Marshal(l)
	if err != nil {
		return "", fmt.Errorf("save login: %w", err)
	}
	if err := os.MkdirAll(d.Config, 0o700); err != nil {
		return "", fmt.Errorf("save login: %w", err)
	}
	path := loginPath(d)
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return "", fmt.Errorf("save login: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return "", fmt.Errorf("save login: %w", err)
	}
	return path, nil
}

// LoadLogin returns the saved login, empty if there is none.
func LoadLogin(d Dirs) (Login, error) {
	var l Login
	noEnv := func(string) (string, bool) { return "", false }
	err := Load(loginPath(d), &l, noEnv)
	if err != nil && !Missing(err) {
		return l, err
	}
	return l, nil
}
