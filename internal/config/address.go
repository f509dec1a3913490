package config

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// HostPort reads the address of a server: host, host:port, an IPv6 address with or
// without brackets, or a URL that people paste. It adds port to one that has none.
func HostPort(address, port string) (string, error) {
	a := strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "tls://")
	a = strings.TrimSuffix(a, "/")
	if a == "" || strings.ContainsAny(a, "/@? ") {
		return "", fmt.Errorf("server %q: write host or host:port", address)
	}
	switch {
	case strings.HasPrefix(a, "["):
		if !strings.Contains(a, "]:") {
			a += ":" + port
		}
	case strings.Count(a, ":") > 1: // IPv6 without brackets
		a = "[" + a + "]:" + port
	case !strings.Contains(a, ":"):
		a += ":" + port
	}
	_, p, err := net.SplitHostPort(a)
	if n, perr := strconv.ParseUint(p, 10, 16); err != nil || perr != nil || n == 0 {
		return "", fmt.Errorf("server %q: the port is a number from 1 to 65535", address)
	}
	return a, nil
}

// HostPorts reads the addresses of one or more servers with commas between them.
func HostPorts(list, port string) ([]string, error) {
	var all []string
	for one := range strings.SplitSeq(list, ",") {
		address, err := HostPort(strings.TrimSpace(one), port)
		if err != nil {
			return nil, err
		}
		all = append(all, address)
	}
	return all, nil
}
