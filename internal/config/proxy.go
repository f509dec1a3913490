package config

import (
	"net/url"

	"golang.org/x/net/http/httpproxy"
)

// Proxies is how an agent reaches its servers: which proxy for which address. explicit is
// what the user says of it for Culvert, a proxy for all of them or "off"; else the
// environment counts as it does for others: HTTPS_PROXY, then ALL_PROXY, but not for
// what NO_PROXY names, nor for this machine itself. parse reads the URL of a proxy.
func Proxies(env LookupEnv, explicit string, parse func(string) (*url.URL, error)) (func(address string) (*url.URL, error), error) {
	switch explicit {
	case "":
	case "off":
		return nil, nil //nolint:nilnil // no proxy for anything
	default:
		u, err := parse(explicit)
		if err != nil {
			return nil, err
		}
		return func(string) (*url.URL, error) { return u, nil }, nil
	}
	via := first(env, "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
	if via == "" {
		return nil, nil //nolint:nilnil // likewise
	}
	u, err := parse(via)
	if err != nil {
		return nil, err
	}
	// The library decides, and is not handed the URL: its errors repeat it.
	choose := (&httpproxy.Config{HTTPSProxy: "http://proxy", NoProxy: first(env, "NO_PROXY", "no_proxy")}).ProxyFunc()
	return func(address string) (*url.URL, error) {
		if chosen, err := choose(&url.URL{Scheme: "https", Host: address}); chosen == nil || err != nil {
			return nil, err
		}
		return u, nil
	}, nil
}

// first returns the first variable that says something.
func first(env LookupEnv, names ...string) string {
	for _, name := range names {
		if v, _ := env(name); v != "" {
			return v
		}
	}
	return ""
}
