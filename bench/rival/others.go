package rival

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// borePort is bore's control port, which can't be chosen.
const borePort = 7835

func planBore(ctx context.Context, _ string, paths map[string]string, site Site) (*Plan, error) {
	first, err := ports(ctx, site.Server, len(site.Services)+MaxAgents)
	if err != nil {
		return nil, err
	}
	ip, last := site.Server.IP(), first+len(site.Services)+MaxAgents-1
	p := &Plan{
		Server: []Command{{
			Path: paths["bore"], Listens: at(site.Server, borePort),
			Args: []string{"server", "--min-port", strconv.Itoa(first), "--max-port", strconv.Itoa(last), "--bind-addr", ip, "--bind-tunnels", ip},
		}},
		Addresses: make(map[string]string),
	}
	local := func(address string, port int) Command {
		return Command{Path: paths["bore"], Args: []string{"local", portOf(address), "--local-host", site.Agent.IP(), "--to", ip, "--port", strconv.Itoa(port)}}
	}
	for i, s := range site.Services {
		p.Addresses[s.Name] = at(site.Server, first+i)
		p.Agent = append(p.Agent, local(s.Address, first+i))
	}
	p.HTTP = "http://" + p.Addresses[Web]
	p.Another = func(i int) (Command, string, error) {
		port := first + len(site.Services) + i - 1
		return local(site.Service(Echo), port), at(site.Server, port), nil
	}
	return p, nil
}

func planChisel(ctx context.Context, _ string, paths map[string]string, site Site) (*Plan, error) {
	first, err := ports(ctx, site.Server, 1+len(site.Services)+MaxAgents)
	if err != nil {
		return nil, err
	}
	ip := site.Server.IP()
	p := &Plan{
		Server: []Command{{
			Path: paths["chisel"], Listens: at(site.Server, first),
			Args: []string{"server", "--host", ip, "--port", strconv.Itoa(first), "--reverse"},
		}},
		Addresses: make(map[string]string),
	}
	agent := Command{Path: paths["chisel"], Args: []string{"client", "http://" + at(site.Server, first)}}
	for i, s := range site.Services {
		p.Addresses[s.Name] = at(site.Server, first+1+i)
		agent.Args = append(agent.Args, fmt.Sprintf("R:%s:%s", p.Addresses[s.Name], s.Address))
	}
	p.Agent = []Command{agent}
	p.HTTP = "http://" + p.Addresses[Web]
	p.Another = func(i int) (Command, string, error) {
		address := at(site.Server, first+len(site.Services)+i)
		return Command{Path: paths["chisel"], Args: []string{
			"client", "http://" + at(site.Server, first),
			fmt.Sprintf("R:%s:%s", address, site.Service(Echo)),
		}}, address, nil
	}
	return p, nil
}

func gost(name, settings, scheme string) Rival {
	return Rival{
		Name: name, Settings: settings, Needs: []string{"gost"}, Version: []string{"gost", "-V"},
		Plan: func(ctx context.Context, _ string, paths map[string]string, site Site) (*Plan, error) {
			first, err := ports(ctx, site.Server, 1+len(site.Services))
			if err != nil {
				return nil, err
			}
			relay := scheme + "://" + at(site.Server, first)
			p := &Plan{
				Server:    []Command{{Path: paths["gost"], Args: []string{"-L", relay + "?bind=true"}, Listens: at(site.Server, first)}},
				Addresses: make(map[string]string),
			}
			agent := Command{Path: paths["gost"]}
			for i, s := range site.Services {
				p.Addresses[s.Name] = at(site.Server, first+1+i)
				agent.Args = append(agent.Args, "-L", fmt.Sprintf("rtcp://%s/%s", p.Addresses[s.Name], s.Address))
			}
			agent.Args = append(agent.Args, "-F", relay)
			p.Agent = []Command{agent}
			p.HTTP = "http://" + p.Addresses[Web]
			return p, nil
		},
	}
}

// planPiko publishes TCP through piko's own forwarder, the way it offers, on the
// visitors' side.
func planPiko(ctx context.Context, _ string, paths map[string]string, site Site) (*Plan, error) {
	first, err := ports(ctx, site.Server, 4+len(site.Services))
	if err != nil {
		return nil, err
	}
	proxy, upstream := at(site.Server, first), at(site.Server, first+1)
	p := &Plan{
		Server: []Command{{
			Path: paths["piko"], Listens: upstream,
			Args: []string{
				"server", "--proxy.bind-addr", proxy, "--upstream.bind-addr", upstream,
				"--admin.bind-addr", at(site.Server, first+2), "--cluster.gossip.bind-addr", at(site.Server, first+3), "--log.level", "error",
			},
		}},
		Addresses: make(map[string]string),
		HTTP:      "http://" + proxy,
	}
	for i, s := range site.Services {
		p.Addresses[s.Name] = at(site.Server, first+4+i)
		p.Agent = append(p.Agent, Command{
			Path: paths["piko"],
			Args: []string{"agent", "tcp", s.Name, s.Address, "--connect.url", "http://" + upstream, "--log.level", "error", "--server.bind-addr", at(site.Agent, 0)},
		})
		p.Server = append(p.Server, Command{
			Path: paths["piko"], Listens: p.Addresses[s.Name],
			Args: []string{"forward", "tcp", p.Addresses[s.Name], s.Name, "--connect.url", "http://" + proxy, "--log.level", "error"},
		})
		if s.Name == Web {
			p.Agent = append(p.Agent, Command{
				Path: paths["piko"],
				Args: []string{
					"agent", "http", "bench", s.Address, "--connect.url", "http://" + upstream, "--log.level", "error",
					"--access-log.disable", "--server.bind-addr", at(site.Agent, 0),
				},
			})
		}
	}
	return p, nil
}

func planSish(ctx context.Context, dir string, paths map[string]string, site Site) (*Plan, error) {
	first, err := ports(ctx, site.Server, 3+len(site.Services))
	if err != nil {
		return nil, err
	}
	key, keys := filepath.Join(dir, "id"), filepath.Join(dir, "keys")
	if err := os.MkdirAll(keys, 0o700); err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, paths["ssh-keygen"], "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("ssh-keygen: %w: %s", err, out)
	}
	ssh, http := at(site.Server, first), at(site.Server, first+1)
	p := &Plan{
		Server: []Command{{
			Path: paths["sish"], Listens: ssh,
			Args: []string{
				"--ssh-address", ssh, "--http-address", http, "--https-address", at(site.Server, first+2), "--domain", "localhost",
				"--authentication=false", "--bind-random-ports=false", "--bind-random-subdomains=false",
				"--port-bind-range", "1-65535", "--private-keys-directory", keys, "--authentication-keys-directory", keys,
				"--load-templates=false", "--log-to-stdout=false", "--log-to-client=false",
			},
		}},
		Addresses: make(map[string]string),
		HTTP:      "http://" + http,
	}
	agent := Command{Path: paths["ssh"], Args: []string{
		"-N", "-T", "-i", key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "ExitOnForwardFailure=yes", "-p", strconv.Itoa(first),
	}}
	for i, s := range site.Services {
		p.Addresses[s.Name] = at(site.Server, first+3+i)
		agent.Args = append(agent.Args, "-R", fmt.Sprintf("%d:%s", first+3+i, s.Address))
		if s.Name == Web {
			agent.Args = append(agent.Args, "-R", "bench:80:"+s.Address)
		}
	}
	agent.Args = append(agent.Args, site.Server.IP())
	p.Agent = []Command{agent}
	return p, nil
}
