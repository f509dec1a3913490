package rival

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

func frp(name, settings, transport string) Rival {
	return Rival{
		Name:     name,
		Settings: settings,
		Needs:    []string{"frps", "frpc"},
		Version:  []string{"frps", "--version"},
		Plan: func(ctx context.Context, dir string, paths map[string]string, site Site) (*Plan, error) {
			return planFRP(ctx, dir, paths, site, transport)
		},
	}
}

func planFRP(ctx context.Context, dir string, paths map[string]string, site Site, transport string) (*Plan, error) {
	first, err := ports(ctx, site.Server, 2+len(site.Services)+MaxAgents)
	if err != nil {
		return nil, err
	}
	bind, http, tcp := first, first+1, first+2
	ip := site.Server.IP()
	// The server needs to know of the multiplexer too.
	mux := ""
	if strings.Contains(transport, "tcpMux") {
		mux = "transport.tcpMux = false\n"
	}
	server, err := write(dir, "frps.toml", fmt.Sprintf("bindAddr = %q\nbindPort = %d\nvhostHTTPPort = %d\n%s", ip, bind, http, mux))
	if err != nil {
		return nil, err
	}
	p := &Plan{
		Server:    []Command{{Path: paths["frps"], Args: []string{"-c", server}, Listens: at(site.Server, bind)}},
		Addresses: make(map[string]string),
		HTTP:      "http://" + at(site.Server, http),
	}
	head := fmt.Sprintf("serverAddr = %q\nserverPort = %d\n%s", ip, bind, transport)
	proxy := func(name, address string, port int) string {
		return fmt.Sprintf("[[proxies]]\nname = %q\ntype = \"tcp\"\nlocalIP = %q\nlocalPort = %s\nremotePort = %d\n",
			name, site.Agent.IP(), portOf(address), port)
	}
	var client strings.Builder
	client.WriteString(head)
	for i, s := range site.Services {
		p.Addresses[s.Name] = at(site.Server, tcp+i)
		client.WriteString(proxy(s.Name, s.Address, tcp+i))
		if s.Name == Web {
			fmt.Fprintf(&client, "[[proxies]]\nname = \"http\"\ntype = \"http\"\nlocalIP = %q\nlocalPort = %s\ncustomDomains = [%q]\n",
				site.Agent.IP(), portOf(s.Address), Host)
		}
	}
	path, err := write(dir, "frpc.toml", client.String())
	if err != nil {
		return nil, err
	}
	p.Agent = []Command{{Path: paths["frpc"], Args: []string{"-c", path}}}
	p.Another = func(i int) (Command, string, error) {
		port := tcp + len(site.Services) + i - 1
		path, err := write(dir, fmt.Sprintf("frpc-%d.toml", i), head+proxy("more-"+strconv.Itoa(i), site.Service(Echo), port))
		return Command{Path: paths["frpc"], Args: []string{"-c", path}}, at(site.Server, port), err
	}
	return p, nil
}
