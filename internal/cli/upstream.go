package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/config"
	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// buildUpstream turns what the user wrote of an endpoint's upstream into one that fits
// the kind of endpoint.
func buildUpstream(c config.Endpoint, kind endpoint.Kind) (agent.Upstream, error) {
	var none agent.Upstream
	roots, err := loadRoots(c.UpstreamCA)
	if err != nil {
		return none, err
	}
	up, err := agent.ParseUpstream(c.Upstream, agent.UpstreamTLS{
		Roots: roots, ServerName: c.UpstreamServerName, Insecure: c.UpstreamInsecureSkipVerify,
	})
	if err != nil {
		return none, err
	}
	if c.UpstreamCA != "" && c.UpstreamInsecureSkipVerify {
		return none, fmt.Errorf("upstream %s: a CA to verify by and no verification at all exclude each other", c.Upstream)
	}
	if kind != endpoint.HTTP && (up.TLS != nil || up.Protocol != "") {
		return none, fmt.Errorf("upstream %s: https:// and h2c:// are for http endpoints", c.Upstream)
	}
	if up.ProxyProtocol, err = agent.ParseProxyProtocol(c.ProxyProtocol); err != nil {
		return none, err
	}
	if up.ProxyProtocol != 0 && kind != endpoint.TCP && kind != endpoint.TLS {
		return none, errors.New("the PROXY protocol is for tcp and tls endpoints: http upstreams find the visitor in X-Forwarded-For, udp has none")
	}
	switch {
	case up.Files != nil && kind != endpoint.HTTP:
		return none, fmt.Errorf("upstream %s: directories are served by http endpoints", c.Upstream)
	case up.Files != nil:
		up.Files.Hidden, up.Files.Upload = c.Hidden, c.Upload
	case c.Hidden || c.Upload:
		return none, errors.New("hidden files and uploads are for upstreams that are directories, such as file:public")
	}
	if c.E2E && up.Protocol == endpoint.H2C {
		return none, errors.New("with --e2e the agent speaks HTTP/1.1 to the upstream: h2c:// is not for it")
	}
	if up.Terminate, err = terminator(c, kind); err != nil {
		return none, err
	}
	if kind == endpoint.UDP {
		up = up.ForDatagrams()
	}
	return up, nil
}

// endToEnd makes an http endpoint whose TLS ends at the agent what it is to the server:
// a tls endpoint.
func endToEnd(c config.Endpoint, spec *endpoint.Spec) error {
	switch {
	case !c.E2E:
		return nil
	case spec.Kind != endpoint.HTTP || spec.PlainOnly:
		return errors.New("--e2e is for https:// URLs")
	case c.Redirect != nil:
		return errors.New("--e2e leaves the plain port alone: --redirect and --no-redirect don't go with it")
	}
	spec.Kind, spec.UpstreamProtocol = endpoint.TLS, ""
	return nil
}

// terminator reads the certificate that visitors' TLS ends with at the agent; nil
// without one.
func terminator(c config.Endpoint, kind endpoint.Kind) (*agent.Terminator, error) {
	switch {
	case !c.E2E && c.ACMEEmail+c.ACMECA+c.ACMECARoot != "":
		return nil, errors.New("the agent gets certificates for http endpoints with --e2e alone")
	case !c.E2E && c.TLSCert == "" && c.TLSKey == "" && (c.ClientCA == "" || kind == endpoint.HTTP):
		return nil, nil //nolint:nilnil // nothing ends at the agent
	case kind != endpoint.TLS && !c.E2E:
		return nil, errors.New("a certificate at the agent is for tls endpoints, and for http ones with --e2e")
	case (c.TLSCert == "") != (c.TLSKey == "") || c.TLSCert == "" && !c.E2E:
		return nil, errors.New("a certificate at the agent needs its file and that of its key: --tls-cert and --tls-key, with --client-ca too")
	}
	t := &agent.Terminator{HTTP: c.E2E, CertFile: c.TLSCert, KeyFile: c.TLSKey, ClientCAFile: c.ClientCA}
	if c.TLSCert == "" {
		t.ACME = &agent.ACME{Email: c.ACMEEmail, CA: c.ACMECA, CARoot: c.ACMECARoot}
	}
	if err := t.Load(); err != nil {
		return nil, err
	}
	return t, nil
}

// clientCA reads the CAs of which the server asks visitors of an http endpoint for a
// certificate, whose TLS ends there; empty: none.
func clientCA(c config.Endpoint, kind endpoint.Kind) (string, error) {
	if c.ClientCA == "" || kind != endpoint.HTTP || c.E2E {
		return "", nil
	}
	b, err := os.ReadFile(c.ClientCA)
	if err != nil {
		return "", fmt.Errorf("read client CA: %w", err)
	}
	cas, err := endpoint.ParseCAs(string(b))
	if err != nil {
		return "", fmt.Errorf("read client CA %s: %w", c.ClientCA, err)
	}
	return cas.PEM, nil
}

// matchPorts sees to it that an endpoint and its upstream have the same number of
// ports: each leads to the one at its place.
func matchPorts(spec *endpoint.Spec, up agent.Upstream) error {
	here, there := max(spec.Ports, 1), max(up.Ports, 1)
	switch {
	case there > 1 && !spec.Kind.ByPort():
		return fmt.Errorf("upstream %s: several ports are for tcp and udp endpoints", up)
	case spec.Port == 0:
		spec.Ports = up.Ports
	case here != there:
		return fmt.Errorf("the URL has %d ports and the upstream %s has %d: name as many, such as tcp://:21000-21010 and 3000-3010", here, up, there)
	}
	return nil
}
