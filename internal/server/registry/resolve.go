package registry

import "github.com/culvert-tunnel/culvert/internal/endpoint"

// Resolve returns the name that serves a request target of a canonical host: the one with
// the longest prefix at the borders of segments, whether its agent is there or not. A path
// that servers may read as another name's (endpoint.Readings) is refused, so that nobody
// gets past a prefix, or into one, by the way he writes. Without a name that fits, the
// host's own is returned, which nobody serves then.
func (r *Registry) Resolve(host, target string) (endpoint.Name, error) {
	whole := endpoint.Name{Kind: endpoint.HTTP, Host: host}
	if _, ok := r.pathed.Load(host); !ok {
		return whole, nil
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	found, n, ambiguous := whole, 0, false
	endpoint.Readings(target, func(path string) bool {
		name := r.longestLocked(host, path)
		ambiguous = n > 0 && name != found
		found = name
		n++
		return !ambiguous
	})
	if ambiguous {
		return whole, ErrAmbiguous
	}
	return found, nil
}

func (r *Registry) longestLocked(host, path string) endpoint.Name {
	name := endpoint.Name{Kind: endpoint.HTTP, Host: host}
	endpoint.Prefixes(path, func(prefix string) bool {
		name.Path = prefix
		return r.mu.entries[name] != nil
	})
	return name
}

// Secure reports whether a host has an HTTP endpoint at the moment that is for TLS.
func (r *Registry) Secure(host string) bool {
	return r.any(host, func(e *entry) bool { return e.state == live && !e.route.Spec.PlainOnly })
}

// Known reports whether a host has an HTTP endpoint, or had one lately.
func (r *Registry) Known(host string) bool {
	return r.any(host, func(*entry) bool { return true })
}

func (r *Registry) any(host string, is func(*entry) bool) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if e := r.mu.entries[endpoint.Name{Kind: endpoint.HTTP, Host: host}]; e != nil && is(e) {
		return true
	}
	for _, e := range r.mu.paths[host] {
		if is(e) {
			return true
		}
	}
	return false
}
