package config

import (
	"net"
	"net/url"
	"slices"
	"strings"
)

// unguarded is said of what kept visitors out.
const unguarded = "VISITORS GET IN WITHOUT IT; have the upstream ask for it before you start"

// insteadOfNgrok says what there is for settings of ngrok that have no like here.
var insteadOfNgrok = map[string]string{
	"inspect":        "start with --no-inspect for no inspector",
	"crt":            "end TLS at the upstream, or publish it as an http endpoint",
	"key":            "end TLS at the upstream, or publish it as an http endpoint",
	"labels":         "name the public URL instead of labels",
	"traffic_policy": "ngrok's rules have no like; have the upstream apply them",

	"basic_auth":           unguarded,
	"oauth":                unguarded,
	"oidc":                 unguarded,
	"ip_restriction":       unguarded,
	"cidr_allow":           unguarded,
	"mutual_tls_cas":       unguarded,
	"webhook_verification": unguarded,
}

// ngrok reads ngrok.yml: of version 3 the endpoints, of both versions the tunnels.
func (i *importer) ngrok(t *taken) {
	t.take("version")
	agent := t.below("agent")
	if t.take("authtoken") != nil || agent.take("authtoken") != nil {
		i.note("authtoken: ngrok's token is of no use here; make one with culvert token create and save it with culvert login")
	}
	if at := agent.text("web_addr"); at != "" {
		i.Agent.API = at
		if at == "false" {
			i.Agent.API = "off"
		}
	}
	for _, e := range t.all("endpoints") {
		i.ngrokEndpoint(e)
		i.rest(e, insteadOfNgrok)
	}
	if tunnels, ok := t.take("tunnels").(map[string]any); ok {
		names := make([]string, 0, len(tunnels))
		for name := range tunnels {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			m, _ := tunnels[name].(map[string]any)
			e := &taken{at: m, path: "tunnels." + name + "."}
			i.ngrokTunnel(name, e)
			i.rest(e, insteadOfNgrok)
		}
	}
	i.rest(t, insteadOfNgrok)
}

// host is a public host as an endpoint asks for it: ngrok's own domains are ngrok's,
// so that of a name below them only the first label is kept.
func (i *importer) host(e *Endpoint, scheme, host string) {
	for _, of := range []string{"ngrok.app", "ngrok.dev", "ngrok.io", "ngrok-free.app", "ngrok-free.dev", "ngrok.pizza"} {
		if label, ok := strings.CutSuffix(host, "."+of); ok {
			e.Label, _, _ = strings.Cut(label, ".")
			e.Kind = scheme
			if scheme == "https" {
				e.Kind = "http"
			}
			i.note("endpoint %s: %s belongs to ngrok; it becomes the name %s below your server's domain", e.Name, host, e.Label)
			return
		}
	}
	if scheme == "http" && e.Kind == "" {
		scheme = "https" // an http endpoint is on both ports here
	}
	e.URL = scheme + "://" + host
}

func (i *importer) ngrokEndpoint(t *taken) {
	e := Endpoint{Name: t.text("name")}
	up := t.below("upstream")
	e.Upstream = up.text("url")
	if up.text("protocol") == "http2" {
		e.Upstream = strings.Replace(e.Upstream, "http://", "h2c://", 1)
	}
	i.proxyProtocol(&e, up.text("proxy_protocol"))
	public := t.text("url")
	u, err := url.Parse(public)
	switch {
	case public == "":
		e.Kind = "http"
	case err != nil || u.Host == "":
		i.host(&e, "https", public)
	case u.Scheme == "tcp":
		e.Kind = "tcp"
		i.note("endpoint %s: %s is an address of ngrok; the server picks a port, or ask for one with url: tcp://:PORT", e.Name, public)
	default:
		i.host(&e, u.Scheme, u.Host)
	}
	i.ngrokUpstream(&e)
	i.add(e)
}

// ngrokUpstream takes an upstream as ngrok writes it.
func (i *importer) ngrokUpstream(e *Endpoint) {
	if tcp, ok := strings.CutPrefix(e.Upstream, "tcp://"); ok {
		e.Upstream = tcp
	}
	if tls, ok := strings.CutPrefix(e.Upstream, "tls://"); ok {
		e.Upstream = tls
		i.note("endpoint %s: the connection to the upstream is not wrapped in TLS", e.Name)
	}
	if strings.HasPrefix(e.Upstream, "https://") {
		i.note("endpoint %s: the upstream's certificate is verified here; name its CA with upstream_ca if it is private", e.Name)
	}
}

func (i *importer) ngrokTunnel(name string, t *taken) {
	e := Endpoint{Name: name, Upstream: t.text("addr"), HostHeader: t.text("host_header")}
	i.proxyProtocol(&e, t.text("proxy_proto"))
	proto := t.text("proto")
	hosts := append(t.list("domain"), t.list("hostname")...)
	label := t.text("subdomain")
	schemes := t.list("schemes")
	if len(schemes) == 1 && schemes[0] == "https" {
		always := true
		e.Redirect = &always
	}
	i.ngrokUpstream(&e)
	switch {
	case proto == "tcp":
		e.Kind = "tcp"
		if at := t.text("remote_addr"); at != "" {
			i.note("endpoint %s: %s is an address of ngrok; the server picks a port, or ask for one with url: tcp://:PORT", name, at)
		}
	case len(hosts) > 0:
		scheme := "https"
		if proto == "tls" {
			scheme = "tls"
		}
		i.host(&e, scheme, hosts[0])
	default:
		e.Kind, e.Label = proto, label
		if proto == "" {
			e.Kind = "http"
		}
	}
	i.add(e)
}

// proxyProtocol takes 1, 2, v1 or v2.
func (i *importer) proxyProtocol(e *Endpoint, version string) {
	if v := strings.TrimPrefix(version, "v"); v == "1" || v == "2" {
		e.ProxyProtocol = "v" + v
	}
}

// insteadOfFrp says what there is for settings of frp that have no like here.
var insteadOfFrp = map[string]string{
	"user":           "names belong to the agent here",
	"transport":      "links are TLS always, and compress nothing",
	"webServer":      "the local API is on 127.0.0.1:4040, or at api",
	"webServer.addr": "the local API is on 127.0.0.1:4040, or at api",
	"log":            "see log_format and log_level",
	"loadBalancer":   "one agent serves a name",
	"httpUser":       unguarded,
	"httpPassword":   unguarded,
	"healthCheck":    "an upstream that is down is told to visitors as such",
	"visitors":       "there is no side of visitors here: publish a port",
	"includes":       "import the other files too",
}

// frp reads frpc.toml.
func (i *importer) frp(t *taken) {
	if host := t.text("serverAddr"); host != "" {
		i.note("serverAddr %s: that is where frps runs; name your Culvert server with server, or with culvert login", host)
		t.take("serverPort")
	}
	if t.below("auth").take("token") != nil {
		i.note("auth.token: frp's token is of no use here; make one with culvert token create and save it with culvert login")
		t.below("auth").take("method")
	}
	for _, p := range t.all("proxies") {
		i.frpProxy(p)
		i.rest(p, insteadOfFrp)
	}
	if t.take("visitors") != nil {
		i.note("visitors: %s", insteadOfFrp["visitors"])
	}
	i.rest(t, insteadOfFrp)
}

func (i *importer) frpProxy(t *taken) {
	e := Endpoint{Name: t.text("name")}
	kind := t.text("type")
	host, port := t.text("localIP"), t.text("localPort")
	if host == "" {
		host = "localhost"
	}
	e.Upstream = net.JoinHostPort(host, port)
	plugin := t.below("plugin")
	switch what := plugin.text("type"); what {
	case "":
	case "unix_domain_socket":
		e.Upstream = "unix:" + plugin.text("unixPath")
	case "http2https", "https2https":
		e.Upstream = "https://" + plugin.text("localAddr")
	case "https2http":
		e.Upstream, kind = "http://"+plugin.text("localAddr"), "http"
		i.note("proxy %s: its TLS ends at the server, with the server's certificate", e.Name)
	case "static_file":
		i.note("proxy %s: publish the directory with culvert file %s", e.Name, plugin.text("localPath"))
		i.drop(t)
		return
	default:
		i.note("proxy %s: the plugin %s has no like; publish a service that does it", e.Name, what)
		i.drop(t)
		return
	}
	i.proxyProtocol(&e, t.below("transport").text("proxyProtocolVersion"))
	switch kind {
	case "tcp", "udp":
		e.Kind = kind
		if p := t.text("remotePort"); p != "" && p != "0" {
			e.Kind, e.URL = "", kind+"://:"+p
		}
		i.add(e)
	case "http", "https":
		scheme := "https"
		if kind == "https" {
			scheme = "tls" // frp passes it through
		}
		e.HostHeader = t.text("hostHeaderRewrite")
		i.frpHosts(e, t, scheme)
	default:
		i.note("proxy %s: there is no type %s here; publish a tcp or udp port", e.Name, kind)
		i.drop(t)
	}
}

// drop crosses all off: it is noted as a whole.
func (i *importer) drop(t *taken) { clear(t.at) }

// frpHosts adds an endpoint for each host and path of a proxy.
func (i *importer) frpHosts(e Endpoint, t *taken, scheme string) {
	paths := t.list("locations")
	if len(paths) == 0 {
		paths = []string{""}
	}
	label := t.text("subdomain")
	for _, host := range t.list("customDomains") {
		for _, path := range paths {
			each := e
			each.URL = scheme + "://" + host + strings.TrimSuffix(path, "/")
			i.add(each)
		}
	}
	if label != "" {
		e.Label, e.Kind = label, "http"
		if scheme == "tls" {
			e.Kind = "tls"
		}
		if paths[0] != "" {
			i.note("proxy %s: locations go with a whole host: write url: https://HOST%s", e.Name, paths[0])
		}
		i.add(e)
	}
}
