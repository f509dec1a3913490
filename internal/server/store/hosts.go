package store

import "strings"

// A host belongs to one token. Its names are http://HOST, that with a path, and tls://HOST,
// and a wildcard above it (tls://*.PARENT) takes in what has no name of its own.

// hostOf splits the name of something that visitors find by host; ok is false for ports.
func hostOf(name string) (kind, host, path string, ok bool) {
	kind, rest, _ := strings.Cut(name, "://")
	host, path, _ = strings.Cut(rest, "/")
	return kind, host, path, (kind == "http" || kind == "tls") && host != ""
}

// domainOf is the name under which it is kept who had a name's host last; empty for ports.
func domainOf(name string) string {
	_, host, _, ok := hostOf(name)
	if !ok {
		return ""
	}
	return "http://" + host
}

// covering are the names besides its own whose reservations hold for a name. One that ends
// in a slash stands for all that begin with it.
func covering(name string) []string {
	kind, host, path, ok := hostOf(name)
	if !ok {
		return nil
	}
	var names []string
	if kind == "tls" {
		names = append(names, "http://"+host, "http://"+host+"/")
	} else {
		names = append(names, "tls://"+host)
		if path != "" {
			names = append(names, "http://"+host)
		}
	}
	if _, parent, below := strings.Cut(host, "."); below && !strings.HasPrefix(host, "*.") {
		names = append(names, "tls://*."+parent)
	}
	return names
}

// otherKind are the names that share a name's port with it: HTTP and TLS.
func otherKind(name string) []string {
	switch kind, host, _, ok := hostOf(name); {
	case !ok:
		return nil
	case kind == "tls":
		return []string{"http://" + host}
	default:
		return []string{"tls://" + host}
	}
}
