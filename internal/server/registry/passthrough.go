package registry

import (
	"strings"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// Passthrough finds the TLS endpoint, live or lately so, that visitors with this server
// name are for: the one of that name, else the one for all names beside it
// ("*.example.com"), unless an HTTP endpoint has the name, it is reserved for another
// token, or it is the node's own. An
// agent with a wildcard thus gets nothing that somebody else has, the validations of
// the node's certificates (RFC 8737) among it.
func (r *Registry) Passthrough(serverName string) (endpoint.Name, bool) {
	exact := endpoint.Name{Kind: endpoint.TLS, Host: serverName}
	_, parent, below := strings.Cut(serverName, ".")
	wild := endpoint.Name{Kind: endpoint.TLS, Host: "*." + parent}
	r.mu.RLock()
	defer r.mu.RUnlock()
	switch {
	case serverName == "":
		return endpoint.Name{}, false
	case r.mu.entries[exact] != nil:
		return exact, true
	case !below || serverName == r.cfg.Domain || r.mu.entries[endpoint.Name{Kind: endpoint.HTTP, Host: serverName}] != nil:
		return endpoint.Name{}, false
	}
	e := r.mu.entries[wild]
	return wild, e != nil && !r.reservedFor(serverName, e.route.token)
}

// reservedFor reports whether a host is reserved for another token than this one.
func (r *Registry) reservedFor(host, but string) bool {
	if r.cfg.Reserved == nil {
		return false
	}
	for _, kind := range []endpoint.Kind{endpoint.HTTP, endpoint.TLS} {
		if token := r.cfg.Reserved(endpoint.Name{Kind: kind, Host: host}); token != "" && token != but {
			return true
		}
	}
	return false
}
