package edge

import (
	"crypto/tls"
	"errors"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// maxClientCert bounds a visitor's own certificate, in bytes: upstreams get it in a header.
const maxClientCert = 8 << 10

var errClientCert = errors.New("the visitor's certificate is too large")

// configFor asks a visitor for a certificate where endpoints of the host want one: those with
// CAs, of which any may have made it. Whether it is one of the endpoint that a request is
// for, route judges, for every request; here a visitor whom no endpoint would serve is
// told so in the language of TLS.
func (e *Edge) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	host, err := endpoint.ParseHost(hello.ServerName)
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // certificate says that there is none for it
	}
	e.cfg.Registry.AwaitHost(hello.Context(), host)
	pool, all := e.cfg.Registry.ClientCAs(host)
	if pool == nil {
		return nil, nil //nolint:nilnil // the configuration of all
	}
	cfg := e.tls.Clone()
	cfg.GetConfigForClient = nil
	cfg.ClientCAs, cfg.ClientAuth = pool, tls.VerifyClientCertIfGiven
	if all {
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	// A resumed connection has the certificate of an earlier one, which was judged by the
	// CAs of that time, or of another host.
	cfg.SessionTicketsDisabled = true
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		if certs := state.PeerCertificates; len(certs) > 0 && len(certs[0].Raw) > maxClientCert {
			return errClientCert
		}
		return nil
	}
	return cfg, nil
}
