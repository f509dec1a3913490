package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
)

// Agent is the form of culvert.yml.
type Agent struct {
	Version   int        `yaml:"version" json:"version" jsonschema:"enum=1"`
	Server    Texts      `yaml:"server,omitempty" json:"server,omitempty" jsonschema:"description=host or host:port of the server; of several in a list two serve at a time and the next one is dialled when one can't be reached"`
	Links     int        `yaml:"links,omitempty" json:"links,omitempty" jsonschema:"description=connections to the server over which visitors are spread; 1 by default and 16 at most"`
	Token     string     `yaml:"token,omitempty" json:"token,omitempty" jsonschema:"description=the agent's token; write ${CULVERT_TOKEN} to take it from the environment"`
	TokenFile string     `yaml:"token_file,omitempty" json:"token_file,omitempty" jsonschema:"description=file that holds the token"`
	CA        string     `yaml:"ca,omitempty" json:"ca,omitempty" jsonschema:"description=file with the CA of a server on a private certificate"`
	Proxy     string     `yaml:"proxy,omitempty" json:"proxy,omitempty" jsonschema:"description=proxy to dial the server through: http:// or https:// or socks5:// and then [USER:PASSWORD@]HOST[:PORT]; or off; by default that of HTTPS_PROXY"`
	Transport string     `yaml:"transport,omitempty" json:"transport,omitempty" jsonschema:"enum=auto,enum=tls,enum=quic,enum=websocket,description=what carries the connections to the server; auto by default"`
	API       string     `yaml:"api,omitempty" json:"api,omitempty" jsonschema:"description=address of the local API; off for none"`
	Inspect   Inspect    `yaml:"inspect,omitempty" json:"inspect,omitzero" jsonschema:"description=how requests of http endpoints are inspected"`
	State     string     `yaml:"state,omitempty" json:"state,omitempty" jsonschema:"description=directory that keeps who this agent is"`
	Drain     string     `yaml:"drain,omitempty" json:"drain,omitempty" jsonschema:"description=how long connections may finish after SIGTERM; a duration such as 10s"`
	LogFormat string     `yaml:"log_format,omitempty" json:"log_format,omitempty" jsonschema:"enum=text,enum=json"`
	LogLevel  string     `yaml:"log_level,omitempty" json:"log_level,omitempty" jsonschema:"enum=debug,enum=info,enum=warn,enum=error"`
	Endpoints []Endpoint `yaml:"endpoints" json:"endpoints"`
}

// Inspect is the part of culvert.yml that is about the inspector.
type Inspect struct {
	Enabled *bool  `yaml:"enabled,omitempty" json:"enabled,omitempty" jsonschema:"description=whether requests are inspected; they are by default"`
	Memory  string `yaml:"memory,omitempty" json:"memory,omitempty" jsonschema:"description=memory for inspected requests such as 50MiB; the oldest make room for new ones"`
	Body    string `yaml:"body,omitempty" json:"body,omitempty" jsonschema:"description=how much of a body the inspector keeps; a size such as 1MiB"`
}

// flagOfAgent is the flag of a key of culvert.yml.
func flagOfAgent(key string) string {
	if key == "inspect.enabled" {
		return "no-inspect"
	}
	if of, ok := strings.CutPrefix(key, "inspect."); ok {
		return "inspect-" + of
	}
	return flagOf(key)
}

// Endpoint is one endpoint of culvert.yml.
type Endpoint struct {
	Name                       string `yaml:"name" json:"name" jsonschema:"description=names the endpoint in logs and on the command line"`
	URL                        string `yaml:"url,omitempty" json:"url,omitempty" jsonschema:"description=https://app.example.com or https://app.example.com/api or tls://db.example.com or tls://*.example.com or tcp://:20022 or tcp://:21000-21010 or udp://:20053; without it the server picks one for kind"`
	Kind                       string `yaml:"kind,omitempty" json:"kind,omitempty" jsonschema:"enum=http,enum=tls,enum=tcp,enum=udp,description=needed where there is no url"`
	Label                      string `yaml:"label,omitempty" json:"label,omitempty" jsonschema:"description=name below the server's domain"`
	Upstream                   string `yaml:"upstream" json:"upstream" jsonschema:"description=port or host:port or 3000-3010 or http://… or https://… or h2c://… or unix:/path or file:DIR"`
	UpstreamCA                 string `yaml:"upstream_ca,omitempty" json:"upstream_ca,omitempty" jsonschema:"description=file with the CA of an https upstream"`
	UpstreamServerName         string `yaml:"upstream_server_name,omitempty" json:"upstream_server_name,omitempty" jsonschema:"description=name expected in the certificate of an https upstream; by default its host"`
	UpstreamInsecureSkipVerify bool   `yaml:"upstream_insecure_skip_verify,omitempty" json:"upstream_insecure_skip_verify,omitempty" jsonschema:"description=accept any certificate of an https upstream; whoever is between agent and upstream can then read and change all"`
	HostHeader                 string `yaml:"host_header,omitempty" json:"host_header,omitempty" jsonschema:"description=Host that the upstream sees instead of the visitor's"`
	Compress                   bool   `yaml:"compress,omitempty" json:"compress,omitempty" jsonschema:"description=whether the server compresses answers (zstd or brotli or gzip) that are not"`
	StripPrefix                bool   `yaml:"strip_prefix,omitempty" json:"strip_prefix,omitempty" jsonschema:"description=whether the upstream sees paths without that of the url"`
	Limits                     `yaml:",inline"`
	Pooling                    `yaml:",inline"`
	TLSCert                    string `yaml:"tls_cert,omitempty" json:"tls_cert,omitempty" jsonschema:"description=tls and http with e2e: file with a certificate chain; visitors' TLS ends with it at the agent"`
	TLSKey                     string `yaml:"tls_key,omitempty" json:"tls_key,omitempty" jsonschema:"description=tls: file with the key of tls_cert"`
	ClientCA                   string `yaml:"client_ca,omitempty" json:"client_ca,omitempty" jsonschema:"description=http; and tls with tls_cert: file with the CAs of which visitors must show a certificate"`
	E2E                        bool   `yaml:"e2e,omitempty" json:"e2e,omitempty" jsonschema:"description=http: visitors' TLS ends at the agent; with tls_cert or a certificate by ACME; the server can't read what passes"`
	ACMEEmail                  string `yaml:"acme_email,omitempty" json:"acme_email,omitempty" jsonschema:"description=http with e2e and without tls_cert: for the account at the CA"`
	ACMECA                     string `yaml:"acme_ca,omitempty" json:"acme_ca,omitempty" jsonschema:"description=likewise: URL of another CA's directory than that of Let's Encrypt"`
	ACMECARoot                 string `yaml:"acme_ca_root,omitempty" json:"acme_ca_root,omitempty" jsonschema:"description=likewise: file with the roots to trust when speaking to the CA"`
	Hidden                     bool   `yaml:"hidden,omitempty" json:"hidden,omitempty" jsonschema:"description=directories: serve names that begin with a dot too"`
	Upload                     bool   `yaml:"upload,omitempty" json:"upload,omitempty" jsonschema:"description=directories: take files from visitors"`
	ProxyProtocol              string `yaml:"proxy_protocol,omitempty" json:"proxy_protocol,omitempty" jsonschema:"enum=v1,enum=v2,description=tcp and tls: tell the upstream the visitor's address by the PROXY protocol"`
	Redirect                   *bool  `yaml:"redirect,omitempty" json:"redirect,omitempty" jsonschema:"description=whether the plain port redirects to https; by default once visitors trust the certificate"`

	Place `yaml:"-" json:"-"` // in the file
}

// Limits are the part of an endpoint that bounds its visitors.
type Limits struct {
	MaxConnections      uint32 `yaml:"max_connections,omitempty" json:"max_connections,omitempty" jsonschema:"description=tcp and tls: connections at a time; udp: flows"`
	ConnectionRate      uint32 `yaml:"connection_rate,omitempty" json:"connection_rate,omitempty" jsonschema:"description=tcp and tls: new connections per second; udp: flows"`
	Bandwidth           string `yaml:"bandwidth,omitempty" json:"bandwidth,omitempty" jsonschema:"description=tcp and tls and udp: bytes per second of all visitors together; in each direction; such as 10MB or 80Mbit"`
	ConnectionBandwidth string `yaml:"connection_bandwidth,omitempty" json:"connection_bandwidth,omitempty" jsonschema:"description=likewise; of each visitor"`
	IdleTimeout         string `yaml:"idle_timeout,omitempty" json:"idle_timeout,omitempty" jsonschema:"description=tcp and tls and udp: silence that ends a visitor's connection or flow; a duration such as 5m"`
	KeepAlive           string `yaml:"keep_alive,omitempty" json:"keep_alive,omitempty" jsonschema:"description=tcp and tls: silence after which a visitor's connection is asked for life; a duration or off"`
}

// Pooling is the part of an endpoint that says how it shares its name.
type Pooling struct {
	Pool           bool   `yaml:"pool,omitempty" json:"pool,omitempty" jsonschema:"description=share the name with the endpoints of other agents of the token that say so too"`
	Balance        string `yaml:"balance,omitempty" json:"balance,omitempty" jsonschema:"enum=least-busy,enum=round-robin,description=pool: how visitors are spread over its members; by how busy they are by default"`
	Sticky         string `yaml:"sticky,omitempty" json:"sticky,omitempty" jsonschema:"enum=off,enum=cookie,enum=address,description=pool: how a visitor is known again who stays with the member that he had"`
	Weight         int    `yaml:"weight,omitempty" json:"weight,omitempty" jsonschema:"minimum=1,maximum=100,description=pool: of this member against the others; 1 by default"`
	HealthPath     string `yaml:"health_path,omitempty" json:"health_path,omitempty" jsonschema:"description=pool: what the agent asks an HTTP upstream for to find out whether it is well"`
	HealthConnect  bool   `yaml:"health_connect,omitempty" json:"health_connect,omitempty" jsonschema:"description=pool: let the agent connect to the upstream to find out whether it is well"`
	HealthInterval string `yaml:"health_interval,omitempty" json:"health_interval,omitempty" jsonschema:"description=pool: time between checks; a duration; 10s by default"`
	HealthTimeout  string `yaml:"health_timeout,omitempty" json:"health_timeout,omitempty" jsonschema:"description=pool: how long a check may take; a duration; 5s by default"`
}

// Server is the form of server.yml.
type Server struct {
	Version     int           `yaml:"version" json:"version" jsonschema:"enum=1"`
	Domain      string        `yaml:"domain,omitempty" json:"domain,omitempty"`
	Listen      Listen        `yaml:"listen,omitempty" json:"listen,omitzero"`
	QUIC        *bool         `yaml:"quic,omitempty" json:"quic,omitempty" jsonschema:"description=whether agents may come by QUIC to the UDP sides of the https and link ports; true by default"`
	HTTP3       *bool         `yaml:"http3,omitempty" json:"http3,omitempty" jsonschema:"description=whether HTTP/3 is served on the UDP side of the https port; true by default"`
	TCPHost     string        `yaml:"tcp_host,omitempty" json:"tcp_host,omitempty" jsonschema:"description=address that tcp and udp endpoints listen on; all by default"`
	TCPPorts    string        `yaml:"tcp_ports,omitempty" json:"tcp_ports,omitempty" jsonschema:"description=first-last"`
	UDPPorts    string        `yaml:"udp_ports,omitempty" json:"udp_ports,omitempty" jsonschema:"description=first-last"`
	UDPIdle     string        `yaml:"udp_idle_timeout,omitempty" json:"udp_idle_timeout,omitempty" jsonschema:"description=silence that ends a flow of a udp endpoint; a duration such as 1m"`
	UDPFlows    uint          `yaml:"udp_flows,omitempty" json:"udp_flows,omitempty" jsonschema:"description=flows of udp endpoints together at most"`
	UDPEach     uint          `yaml:"udp_endpoint_flows,omitempty" json:"udp_endpoint_flows,omitempty" jsonschema:"description=flows of each udp endpoint at most"`
	Proxies     ProxyProtocol `yaml:"proxy_protocol,omitempty" json:"proxy_protocol,omitzero"`
	Data        string        `yaml:"data,omitempty" json:"data,omitempty"`
	Cluster     Cluster       `yaml:"cluster,omitempty" json:"cluster,omitzero"`
	DomainProof string        `yaml:"domain_proof,omitempty" json:"domain_proof,omitempty" jsonschema:"enum=auto,enum=always,enum=never,description=whether a domain that was one token's needs a TXT record to be another's"`
	Cert        string        `yaml:"cert,omitempty" json:"cert,omitempty" jsonschema:"description=file with a certificate chain"`
	Key         string        `yaml:"key,omitempty" json:"key,omitempty" jsonschema:"description=file with its key"`
	Certs       []Cert        `yaml:"certs,omitempty" json:"certs,omitempty" jsonschema:"description=further certificates by server name"`
	ACME        ACME          `yaml:"acme,omitempty" json:"acme,omitzero"`
	Region      string        `yaml:"region,omitempty" json:"region,omitempty"`
	Node        string        `yaml:"node,omitempty" json:"node,omitempty"`
	Grace       string        `yaml:"grace,omitempty" json:"grace,omitempty" jsonschema:"description=duration such as 10s"`
	Drain       string        `yaml:"drain,omitempty" json:"drain,omitempty" jsonschema:"description=duration such as 30s"`

	ResumeWindow string `yaml:"resume_window,omitempty" json:"resume_window,omitempty" jsonschema:"description=how long a lost link may take to come back; a duration such as 30s"`

	LogFormat string `yaml:"log_format,omitempty" json:"log_format,omitempty" jsonschema:"enum=text,enum=json"`
	LogLevel  string `yaml:"log_level,omitempty" json:"log_level,omitempty" jsonschema:"enum=debug,enum=info,enum=warn,enum=error"`

	ErrorPages     string `yaml:"error_pages,omitempty" json:"error_pages,omitempty" jsonschema:"description=directory of pages for visitors' errors"`
	AccessLog      string `yaml:"access_log,omitempty" json:"access_log,omitempty" jsonschema:"enum=off,enum=attributes,enum=combined,description=log of visitors' requests"`
	AccessLogFile  string `yaml:"access_log_file,omitempty" json:"access_log_file,omitempty" jsonschema:"description=file for it, opened anew on SIGHUP"`
	AccessLogQuery *bool  `yaml:"access_log_query,omitempty" json:"access_log_query,omitempty" jsonschema:"description=whether queries of URLs are logged too; they may hold secrets"`
}

// ProxyProtocol is the part of server.yml that names the proxies in front of it.
type ProxyProtocol struct {
	Trusted   []string `yaml:"trusted,omitempty" json:"trusted,omitempty" jsonschema:"description=networks (CIDR) or addresses of proxies; their connections begin with a PROXY header"`
	Untrusted string   `yaml:"untrusted,omitempty" json:"untrusted,omitempty" jsonschema:"enum=serve,enum=refuse,description=what becomes of connections from elsewhere"`
}

// Listen is the part of server.yml that names addresses.
type Listen struct {
	HTTP  string   `yaml:"http,omitempty" json:"http,omitempty"`
	HTTPS string   `yaml:"https,omitempty" json:"https,omitempty"`
	Link  []string `yaml:"link,omitempty" json:"link,omitempty"`
	Admin string   `yaml:"admin,omitempty" json:"admin,omitempty"`
}

// Cluster is the part of server.yml that says where the cluster's state is.
type Cluster struct {
	Etcd             []string `yaml:"etcd,omitempty" json:"etcd,omitempty" jsonschema:"description=URLs of an existing etcd; without them the server keeps its state itself"`
	Peer             string   `yaml:"peer,omitempty" json:"peer,omitempty" jsonschema:"description=address for the other servers of the cluster; off for none"`
	PeerAdvertise    string   `yaml:"peer_advertise,omitempty" json:"peer_advertise,omitempty" jsonschema:"description=host or host:port where they dial this one; the address of peer by default"`
	Join             []string `yaml:"join,omitempty" json:"join,omitempty" jsonschema:"description=addresses of servers of the cluster that this one joins on its first start"`
	JoinTokenFile    string   `yaml:"join_token_file,omitempty" json:"join_token_file,omitempty" jsonschema:"description=file with the token for that"`
	LinkAdvertise    string   `yaml:"link_advertise,omitempty" json:"link_advertise,omitempty" jsonschema:"description=host or host:port of this server in particular, for agents of the other servers when theirs is gone"`
	EtcdCA           string   `yaml:"etcd_ca,omitempty" json:"etcd_ca,omitempty" jsonschema:"description=file with the CA of etcd's certificates"`
	EtcdCert         string   `yaml:"etcd_cert,omitempty" json:"etcd_cert,omitempty" jsonschema:"description=file with the certificate that is shown to etcd"`
	EtcdKey          string   `yaml:"etcd_key,omitempty" json:"etcd_key,omitempty" jsonschema:"description=file with its key"`
	EtcdUser         string   `yaml:"etcd_user,omitempty" json:"etcd_user,omitempty"`
	EtcdPasswordFile string   `yaml:"etcd_password_file,omitempty" json:"etcd_password_file,omitempty"`
	EtcdPrefix       string   `yaml:"etcd_prefix,omitempty" json:"etcd_prefix,omitempty" jsonschema:"description=what the cluster's keys begin with; culvert/ by default"`
}

// Cert names the files of a certificate.
type Cert struct {
	Cert string `yaml:"cert" json:"cert" jsonschema:"description=file with a certificate chain"`
	Key  string `yaml:"key" json:"key" jsonschema:"description=file with its key"`
}

// ACME is the part of server.yml on certificates by ACME.
type ACME struct {
	Email      string   `yaml:"email,omitempty" json:"email,omitempty" jsonschema:"description=of the account; by giving it you agree to the terms of the CA"`
	CA         string   `yaml:"ca,omitempty" json:"ca,omitempty" jsonschema:"description=letsencrypt or letsencrypt-staging or the URL of an ACME directory"`
	CARoot     string   `yaml:"ca_root,omitempty" json:"ca_root,omitempty" jsonschema:"description=file with the root of a private CA"`
	EABKeyID   string   `yaml:"eab_key_id,omitempty" json:"eab_key_id,omitempty" jsonschema:"description=id of the external account"`
	EABKeyFile string   `yaml:"eab_key_file,omitempty" json:"eab_key_file,omitempty" jsonschema:"description=file with the external account's key"`
	Challenges []string `yaml:"challenges,omitempty" json:"challenges,omitempty" jsonschema:"description=which of http-01 and tls-alpn-01 to use; both by default"`
	DNS        DNS      `yaml:"dns,omitempty" json:"dns,omitzero" jsonschema:"description=DNS-01 for a wildcard certificate of the domain"`
}

// DNS is the part of server.yml on DNS-01.
type DNS struct {
	Server    string   `yaml:"server,omitempty" json:"server,omitempty" jsonschema:"description=host or host:port of a DNS server that takes updates"`
	KeyFile   string   `yaml:"key_file,omitempty" json:"key_file,omitempty" jsonschema:"description=file with the TSIG key for updates"`
	Exec      []string `yaml:"exec,omitempty" json:"exec,omitempty" jsonschema:"description=program that makes records and its first arguments"`
	Resolvers []string `yaml:"resolvers,omitempty" json:"resolvers,omitempty" jsonschema:"description=host:port of DNS servers to ask whether records have spread"`
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

// number is a number as a flag takes it, nothing for 0.
func number(n uint) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(n), 10)
}

// flagOf is the flag of a key: tcp-ports of tcp_ports, http of listen.http, etcd-ca of
// cluster.etcd_ca, acme-ca-root of acme.ca_root.
func flagOf(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "listen."), "cluster.")
	return strings.NewReplacer("_", "-", ".", "-").Replace(key)
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
	noInspect := ""
	if a.Inspect.Enabled != nil {
		noInspect = strconv.FormatBool(!*a.Inspect.Enabled)
	}
	settings := set(d, map[string]string{
		"token": a.Token, "token_file": a.TokenFile, "ca": a.CA, "proxy": a.Proxy, "transport": a.Transport, "api": a.API, "state": a.State,
		"drain": a.Drain, "log_format": a.LogFormat, "log_level": a.LogLevel,
		"inspect.enabled": noInspect, "inspect.memory": a.Inspect.Memory, "inspect.body": a.Inspect.Body,
	}, flagOfAgent)
	settings["server"] = Setting{Key: "server", Values: a.Server, Place: d.At("$.server")}
	if a.Links != 0 {
		settings["links"] = Setting{Key: "links", Values: []string{strconv.Itoa(a.Links)}, Place: d.At("$.links")}
	}
	return a, settings, nil
}

// Texts is a text, or a list of them.
type Texts []string

// UnmarshalYAML implements yaml.InterfaceUnmarshaler.
func (t *Texts) UnmarshalYAML(unmarshal func(any) error) error {
	var one string
	if unmarshal(&one) == nil {
		*t = Texts{one}
		return nil
	}
	var list []string
	err := unmarshal(&list)
	*t = list
	return err
}

// Write writes culvert.yml.
func Write(a Agent) ([]byte, error) { return yaml.Marshal(a) }

// Differences returns the keys outside endpoints in which two files differ.
func Differences(a, b Agent) []string {
	var keys []string
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range va.NumField() {
		key, _, _ := strings.Cut(va.Type().Field(i).Tag.Get("yaml"), ",")
		if key != "endpoints" && !reflect.DeepEqual(va.Field(i).Interface(), vb.Field(i).Interface()) {
			keys = append(keys, key)
		}
	}
	return keys
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
		"tcp_host": s.TCPHost, "tcp_ports": s.TCPPorts, "udp_ports": s.UDPPorts,
		"udp_idle_timeout": s.UDPIdle, "udp_flows": number(s.UDPFlows), "udp_endpoint_flows": number(s.UDPEach), "data": s.Data,
		"acme.email": s.ACME.Email, "acme.ca": s.ACME.CA, "acme.ca_root": s.ACME.CARoot,
		"acme.eab_key_id": s.ACME.EABKeyID, "acme.eab_key_file": s.ACME.EABKeyFile,
		"acme.dns.server": s.ACME.DNS.Server, "acme.dns.key_file": s.ACME.DNS.KeyFile,
		"region": s.Region, "node": s.Node, "grace": s.Grace, "drain": s.Drain, "resume_window": s.ResumeWindow, "log_format": s.LogFormat, "log_level": s.LogLevel,
		"domain_proof": s.DomainProof,
		"cluster.peer": s.Cluster.Peer, "cluster.peer_advertise": s.Cluster.PeerAdvertise, "cluster.link_advertise": s.Cluster.LinkAdvertise, "cluster.join_token_file": s.Cluster.JoinTokenFile,
		"cluster.etcd_ca": s.Cluster.EtcdCA, "cluster.etcd_cert": s.Cluster.EtcdCert, "cluster.etcd_key": s.Cluster.EtcdKey,
		"cluster.etcd_user": s.Cluster.EtcdUser, "cluster.etcd_password_file": s.Cluster.EtcdPasswordFile, "cluster.etcd_prefix": s.Cluster.EtcdPrefix,
		"error_pages": s.ErrorPages, "access_log": s.AccessLog, "access_log_file": s.AccessLogFile,
	}, flagOf)
	settings["join"] = Setting{Key: "cluster.join", Values: s.Cluster.Join, Place: d.At("$.cluster.join")}
	settings["etcd"] = Setting{Key: "cluster.etcd", Values: s.Cluster.Etcd, Place: d.At("$.cluster.etcd")}
	if s.QUIC != nil {
		settings["quic"] = Setting{Key: "quic", Values: []string{strconv.FormatBool(*s.QUIC)}, Place: d.At("$.quic")}
	}
	if s.HTTP3 != nil {
		settings["http3"] = Setting{Key: "http3", Values: []string{strconv.FormatBool(*s.HTTP3)}, Place: d.At("$.http3")}
	}
	if s.AccessLogQuery != nil {
		settings["access-log-query"] = Setting{Key: "access_log_query", Values: []string{strconv.FormatBool(*s.AccessLogQuery)}, Place: d.At("$.access_log_query")}
	}
	settings["proxy-protocol-from"] = Setting{Key: "proxy_protocol.trusted", Values: s.Proxies.Trusted, Place: d.At("$.proxy_protocol.trusted")}
	if s.Proxies.Untrusted != "" {
		settings["proxy-protocol-others"] = Setting{Key: "proxy_protocol.untrusted", Values: []string{s.Proxies.Untrusted}, Place: d.At("$.proxy_protocol.untrusted")}
	}
	for key, values := range map[string][]string{
		"listen.link": s.Listen.Link, "acme.challenges": s.ACME.Challenges,
		"acme.dns.exec": s.ACME.DNS.Exec, "acme.dns.resolvers": s.ACME.DNS.Resolvers,
	} {
		settings[flagOf(key)] = Setting{Key: key, Values: values, Place: d.At("$." + key)}
	}
	cert, key := Setting{Key: "cert", Place: d.At("$.cert")}, Setting{Key: "key", Place: d.At("$.key")}
	if s.Cert != "" {
		cert.Values = []string{s.Cert}
	}
	if s.Key != "" {
		key.Values = []string{s.Key}
	}
	for i, c := range s.Certs {
		if c.Cert == "" || c.Key == "" {
			return nil, d.At("$.certs[" + strconv.Itoa(i) + "]").Fault("cert and key go together")
		}
		cert.Values, key.Values = append(cert.Values, c.Cert), append(key.Values, c.Key)
	}
	settings["cert"], settings["key"] = cert, key
	return settings, nil
}

// IsServer reports whether a file is a server's configuration and not an agent's, by
// its keys; failing that, by its name.
func IsServer(path string) (bool, error) {
	b, err := read(path)
	if err != nil {
		return false, err
	}
	var top map[string]any
	if err := yaml.Unmarshal(b, &top); err != nil {
		return false, explain(path, Agent{}, err)
	}
	agents, servers := topKeys(Agent{}), topKeys(Server{})
	for key := range top {
		if agents[key] != servers[key] {
			return servers[key], nil
		}
	}
	return strings.Contains(filepath.Base(path), "server"), nil
}

// topKeys are the keys at the top of a file.
func topKeys(v any) map[string]bool {
	all := make(map[string]bool)
	for f := range reflect.TypeOf(v).Fields() {
		key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		all[key] = true
	}
	return all
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

// Errors of Find.
var (
	ErrNoServer = errors.New("no server: name it, or log in with culvert login")
	ErrNoToken  = errors.New("no token: set CULVERT_TOKEN, or log in with culvert login")
)

// Find completes server and token from the environment and from the saved login, whose
// token is for its own server alone.
func Find(env LookupEnv, server, token string) (string, string, error) {
	if server == "" {
		server, _ = env(EnvName("server"))
	}
	if token == "" {
		token, _ = env(EnvName("token"))
	}
	if server == "" || token == "" {
		if dirs, err := FindDirs(env); err == nil {
			login, err := LoadLogin(dirs)
			if err != nil {
				return "", "", err
			}
			if server == "" {
				server = login.Server
			}
			if token == "" && server == login.Server {
				token = login.Token
			}
		}
	}
	switch {
	case server == "":
		return "", "", ErrNoServer
	case token == "":
		return "", "", ErrNoToken
	}
	return server, token, nil
}

// MarshalYAML implements yaml.InterfaceMarshaler: one text is written as such.
func (t Texts) MarshalYAML() (any, error) {
	if len(t) == 1 {
		return t[0], nil
	}
	return []string(t), nil
}
