package rival

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// Culvert is a binary of Culvert, its agent with further arguments.
func Culvert(name, binary string, agent ...string) Rival {
	return Rival{
		Name:     name,
		Settings: strings.Join(append([]string{"defaults: TLS 1.3, one link"}, agent...), ", "),
		Needs:    []string{binary},
		Version:  []string{binary, "version"},
		Plan: func(ctx context.Context, dir string, paths map[string]string, site Site) (*Plan, error) {
			return planCulvert(ctx, dir, paths[binary], site, agent)
		},
	}
}

func planCulvert(ctx context.Context, dir, binary string, site Site, agent []string) (*Plan, error) {
	first, err := ports(ctx, site.Server, 2+len(site.Services)+MaxAgents)
	if err != nil {
		return nil, err
	}
	http, https := first, first+1
	tcp := first + 2
	server := Command{
		Path: binary,
		Args: []string{
			"server", "--data", filepath.Join(dir, "data"), "--http", at(site.Server, http), "--https", at(site.Server, https),
			"--admin", "off", "--tcp-host", site.Server.IP(), "--tcp-ports", fmt.Sprintf("%d-%d", tcp, tcp+len(site.Services)+MaxAgents-1),
		},
		Listens: at(site.Server, https),
	}
	token, err := firstToken(ctx, server, site)
	if err != nil {
		return nil, err
	}
	p := &Plan{
		Server:    []Command{server},
		Addresses: make(map[string]string),
		HTTP:      "http://" + at(site.Server, http),
		H2:        fmt.Sprintf("https://%s:%d", Host, https),
		Link:      at(site.Server, https),
		Token:     token,
	}
	var config strings.Builder
	fmt.Fprintf(&config, "version: 1\nserver: %s\nendpoints:\n", at(site.Server, https))
	for i, s := range site.Services {
		p.Addresses[s.Name] = at(site.Server, tcp+i)
		fmt.Fprintf(&config, "  - name: %s\n    url: tcp://:%d\n    upstream: %s\n", s.Name, tcp+i, s.Address)
		if s.Name == Web {
			fmt.Fprintf(&config, "  - name: http\n    url: https://%s\n    upstream: %s\n", Host, s.Address)
		}
	}
	path, err := write(dir, "culvert.yml", config.String())
	if err != nil {
		return nil, err
	}
	env := []string{"CULVERT_TOKEN=" + token}
	args := append([]string{"start", "--config", path, "--state", filepath.Join(dir, "agent"), "--api", at(site.Agent, 0)}, agent...)
	p.Agent = []Command{{Path: binary, Args: args, Env: env}}
	p.Another = func(i int) (Command, string, error) {
		port := tcp + len(site.Services) + i - 1
		return Command{Path: binary, Env: env, Args: []string{
			"tcp", site.Service(Echo), "--server", at(site.Server, https),
			"--url", "tcp://:" + strconv.Itoa(port), "--state", filepath.Join(dir, "agent-"+strconv.Itoa(i)), "--api", at(site.Agent, 0),
		}}, at(site.Server, port), nil
	}
	return p, nil
}

// firstToken starts a server for the token that its first start prints.
func firstToken(ctx context.Context, server Command, site Site) (string, error) {
	p, err := server.Start(ctx, site.Server)
	if err != nil {
		return "", err
	}
	defer p.Stop()
	line, err := p.Find(ctx, "CULVERT_TOKEN=", startTimeout)
	if err != nil {
		return "", err
	}
	_, after, _ := strings.Cut(line, "CULVERT_TOKEN=")
	return strings.Fields(after)[0], nil
}
