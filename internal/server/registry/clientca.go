package registry

import (
	"crypto/x509"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// clientCAs reads those of a spec; nil: it has none.
func clientCAs(spec endpoint.Spec) (*endpoint.CAs, error) {
	if spec.ClientCA == "" {
		return nil, nil //nolint:nilnil // as documented
	}
	return endpoint.ParseCAs(spec.ClientCA)
}

// ClientCAs are those of all HTTP endpoints of a host, live or lately so, that visitors may
// show a certificate of; nil: none is asked for. all says that there is no endpoint that
// serves a visitor without one. The members of a pool agree (Spec.Terms).
func (r *Registry) ClientCAs(host string) (pool *x509.CertPool, all bool) {
	all = true
	r.any(host, func(e *entry) bool {
		switch cas := e.route.ClientCAs; {
		case cas != nil:
			if pool == nil {
				pool = x509.NewCertPool()
			}
			pool.AppendCertsFromPEM([]byte(cas.PEM))
		case !e.route.Spec.PlainOnly:
			all = false
		}
		return false
	})
	return pool, all
}
