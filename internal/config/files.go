package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

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
	State     string     `yaml:"state,omitempty" json:"state,omitempty" jsonschema:"description=directory that keeps who this agent is"`
	Drain     string     `yaml:"drain,omitempty" json:"drain,omitempty" jsonschema:"description=how long connections may finish after SIGTERM; a duration such as 10s"`
	LogFormat string     `yaml:"log_format,omitempty" json:"log_format,omitempty" jsonschema:"enum=text,enum=json"`
	LogLevel  string     `yaml:"log_level,omitempty" json:"log_level,omitempty" jsonschema:"enum=debug,enum=info,enum=warn,enum=error"`
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

	Place `yaml:"-" json:"-"` // in the file
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

	LogFormat string `yaml:"log_format,omitempty" json:"log_format,omitempty" jsonschema:"enum=text,enum=json"`
	LogLevel  string `yaml:"log_level,omitempty" json:"log_level,omitempty" jsonschema:"enum=debug,enum=info,enum=warn,enum=error"`
}

// Listen is the part of server.yml that names addresses.
type Listen struct {
	HTTP  string   `yaml:"http,omitempty" json:"http,omitempty"`
	HTTPS string   `yaml:"https,omitempty" json:"https,omitempty"`
	Link  []string `yaml:"link,omitempty" json:"link,omitempty"`
	Admin string   `yaml:"admin,omitempty" json:"admin,omitempty"`
}

// version checks the form of a file.
func version(v int, d *Document) error {
	if v != 1 {
		return d.At("$.version").Fault("version must be 1: begin the file with version: 1")
	}
	return nil
}

// set makes a Setting of each value that the file holds. Keys are paths such as
// listen.http.
func set(d *Document, values map[string]string, flag func(key string) string) Settings {
	settings := make(Settings)
	for key, v := range values {
		if v != "" {
			settings[flag(key)] = Setting{Key: key, Values: []string{v}, Place: d.At("$." + key)}
		}
	}
	return settings
}

// flagOf is the flag of a key: tcp-ports of tcp_ports, http of listen.http.
func flagOf(key string) string {
	return strings.ReplaceAll(key[strings.LastIndex(key, ".")+1:], "_", "-")
}

// LoadAgent reads culvert.yml, and returns what it says of flags too.
func LoadAgent(path string, env LookupEnv) (Agent, Settings, error) {
	var a Agent
	d, err := Load(path, &a, env)
	if err != nil {
		return a, nil, err
	}
	if err := version(a.Version, d); err != nil {
		return a, nil, err
	}
	if len(a.Endpoints) == 0 {
		return a, nil, d.At("$.endpoints").Fault("there are no endpoints: name at least one under endpoints")
	}
	seen := make(map[string]bool)
	for i := range a.Endpoints {
		e := &a.Endpoints[i]
		e.Place = d.At("$.endpoints[" + strconv.Itoa(i) + "].upstream")
		if e.Line == 0 {
			e.Place = d.At("$.endpoints[" + strconv.Itoa(i) + "]")
		}
		message := ""
		switch {
		case e.Name == "":
			message = "endpoint " + strconv.Itoa(i+1) + " has no name"
		case seen[e.Name]:
			message = fmt.Sprintf("two endpoints have the name %q", e.Name)
		case e.Upstream == "":
			message = fmt.Sprintf("endpoint %q has no upstream", e.Name)
		case (e.URL == "") == (e.Kind == ""):
			message = fmt.Sprintf("endpoint %q needs either a url or a kind", e.Name)
		}
		if message != "" {
			return a, nil, e.Fault(message)
		}
		seen[e.Name] = true
	}
	return a, set(d, map[string]string{
		"server": a.Server, "token": a.Token, "token_file": a.TokenFile, "ca": a.CA, "api": a.API, "state": a.State,
		"drain": a.Drain, "log_format": a.LogFormat, "log_level": a.LogLevel,
	}, flagOf), nil
}

// LoadServer reads server.yml and returns it as values of flags.
func LoadServer(path string, env LookupEnv) (Settings, error) {
	var s Server
	d, err := Load(path, &s, env)
	if err != nil {
		return nil, err
	}
	if err := version(s.Version, d); err != nil {
		return nil, err
	}
	settings := set(d, map[string]string{
		"domain": s.Domain, "listen.http": s.Listen.HTTP, "listen.https": s.Listen.HTTPS, "listen.admin": s.Listen.Admin,
		"tcp_host": s.TCPHost, "tcp_ports": s.TCPPorts, "data": s.Data, "cert": s.Cert, "key": s.Key,
		"region": s.Region, "node": s.Node, "grace": s.Grace, "drain": s.Drain, "log_format": s.LogFormat, "log_level": s.LogLevel,
	}, flagOf)
	settings["link"] = Setting{Key: "listen.link", Values: s.Listen.Link, Place: d.At("$.listen.link")}
	return settings, nil
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
	f, err := os.CreateTemp(d.Config, ".login.*") // mode 0600
	if err != nil {
		return "", fmt.Errorf("save login: %w", err)
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone after the rename
	_, err = f.Write(b)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return "", fmt.Errorf("save login: %w", err)
	}
	return path, nil
}

// LoadLogin returns the saved login, empty if there is none.
func LoadLogin(d Dirs) (Login, error) {
	var l Login
	noEnv := func(string) (string, bool) { return "", false }
	_, err := Load(loginPath(d), &l, noEnv)
	if err != nil && !Missing(err) {
		return l, err
	}
	return l, nil
}
