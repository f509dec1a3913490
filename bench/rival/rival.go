// Package rival starts Culvert, what it is compared with, and the limits, each as
// processes of its own with the settings it comes with. All publish the same services.
package rival

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/culvert-tunnel/culvert/bench/line"
)

// Service is what is to be published.
type Service struct {
	Name    string
	Address string // at the agent's host
}

// The services' names.
const (
	Echo = "echo" // gives back, sends or takes for ever (package work)
	Bulk = "bulk" // iperf3 -s
	Web  = "web"  // HTTP/1.1
)

// Host is the name that HTTP visitors ask for.
const Host = "bench.localhost"

// Site is where the parts of a subject run and what it publishes.
type Site struct {
	Server, Agent line.Host // visitors are at the server's
	Services      []Service
}

// Service returns the address of a service.
func (s Site) Service(name string) string {
	for _, v := range s.Services {
		if v.Name == name {
			return v.Address
		}
	}
	return ""
}

// Plan is how a subject is started: which processes, and where visitors find what it
// publishes.
type Plan struct {
	Server, Agent []Command
	// Another, if set, is one more agent in a process of its own, which publishes Echo at
	// the address; i counts from 1 to MaxAgents.
	Another func(i int) (c Command, address string, err error)
	// Addresses of services for visitors by TCP.
	Addresses map[string]string
	// HTTP is the base URL of the service Web, as the rival publishes HTTP best; the
	// request's Host is Host.
	HTTP string
	// H2 is a base URL with HTTP/2 over TLS.
	H2 string
	// Link and Token are for further agents of Culvert that are no process each.
	Link, Token string
}

// MaxAgents is how many further agents a plan has ports for.
const MaxAgents = 2000

// Rival is a program to compare.
type Rival struct {
	Name     string
	Settings string   // what is not its default, and how it is protected
	Needs    []string // programs on PATH
	Version  []string // the command that prints it
	Limit    bool     // no tunnel: it shows what is possible
	Variant  bool     // of one that is there as it comes, too
	Plan     func(ctx context.Context, dir string, paths map[string]string, site Site) (*Plan, error)
}

// Find returns the paths of what the rival needs, or an error that names what is missing.
func (r Rival) Find() (map[string]string, error) {
	paths := make(map[string]string)
	for _, name := range r.Needs {
		path, err := look(name)
		if err != nil {
			return nil, err
		}
		paths[name] = path
	}
	return paths, nil
}

// look finds a program also where Debian keeps those of root.
func look(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil || !errors.Is(err, exec.ErrNotFound) {
		return path, err
	}
	if path, err2 := exec.LookPath("/usr/sbin/" + name); err2 == nil {
		return path, nil
	}
	return "", fmt.Errorf("%s is not on PATH", name)
}

// Subject is a rival as it runs.
type Subject struct {
	Rival
	Plan

	site          Site
	server, agent []*Process
	more          []*Process
}

// Start starts a rival below dir and waits until visitors are served.
func (r Rival) Start(ctx context.Context, dir string, site Site) (*Subject, error) {
	paths, err := r.Find()
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, "subjects", r.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	plan, err := r.Plan(ctx, dir, paths, site)
	if err != nil {
		return nil, err
	}
	s := &Subject{Rival: r, Plan: *plan, site: site}
	if err := s.StartServer(ctx); err != nil {
		s.Stop()
		return nil, err
	}
	if err := s.StartAgent(ctx); err != nil {
		s.Stop()
		return nil, err
	}
	for name := range s.Addresses {
		if name == Bulk {
			continue // iperf3 takes any connection for a test
		}
		if _, err := s.AwaitFirstByte(ctx, name, startTimeout); err != nil {
			s.Stop()
			return nil, err
		}
	}
	return s, nil
}

// StartServer starts what runs on the public side.
func (s *Subject) StartServer(ctx context.Context) error {
	for _, c := range s.Server {
		p, err := c.Start(ctx, s.site.Server)
		if err != nil {
			return err
		}
		s.server = append(s.server, p)
	}
	return nil
}

// StartAgent starts what runs at the service's side.
func (s *Subject) StartAgent(ctx context.Context) error {
	for _, c := range s.Agent {
		p, err := c.Start(ctx, s.site.Agent)
		if err != nil {
			return err
		}
		s.agent = append(s.agent, p)
	}
	return nil
}

// StopServer kills the public side.
func (s *Subject) StopServer() { stop(&s.server) }

// StopAgent kills the agent.
func (s *Subject) StopAgent() { stop(&s.agent) }

// StartAgents starts further agents until there are n, and waits until all serve.
func (s *Subject) StartAgents(ctx context.Context, n int) error {
	var addresses []string
	for i := len(s.more) + 1; i <= n; i++ {
		c, address, err := s.Another(i)
		if err != nil {
			return err
		}
		p, err := c.Start(ctx, s.site.Agent)
		if err != nil {
			return err
		}
		s.more = append(s.more, p)
		addresses = append(addresses, address)
	}
	for _, a := range addresses {
		dial := func(ctx context.Context) (net.Conn, error) { return s.site.Server.Dial(ctx, a) }
		if _, err := awaitFirstByte(ctx, dial, "e", time.Minute); err != nil {
			return fmt.Errorf("further agent: %w", err)
		}
	}
	return nil
}

// StopAgents kills the further agents.
func (s *Subject) StopAgents() { stop(&s.more) }

// Stop kills all.
func (s *Subject) Stop() {
	s.StopAgents()
	s.StopAgent()
	s.StopServer()
}

func stop(processes *[]*Process) {
	for _, p := range *processes {
		p.Stop()
	}
	*processes = nil
}

// Own reports whether the subject has processes: no proxy at all has none.
func (s *Subject) Own() bool { return len(s.Server) > 0 }

// Renew starts all anew, so that nothing of earlier work is in memory.
func (s *Subject) Renew(ctx context.Context) error {
	s.Stop()
	if err := s.StartServer(ctx); err != nil {
		return err
	}
	if err := s.StartAgent(ctx); err != nil {
		return err
	}
	service := Echo
	if _, err := s.Address(service); err != nil {
		service = Web
	}
	_, err := s.AwaitFirstByte(ctx, service, startTimeout)
	return err
}

// CPU is the processor time of server and agent.
func (s *Subject) CPU() time.Duration { return s.ServerCPU() + cpu(s.agent) }

// ServerCPU is the processor time of the public side.
func (s *Subject) ServerCPU() time.Duration { return cpu(s.server) }

func cpu(processes []*Process) time.Duration {
	total := time.Duration(0)
	for _, p := range processes {
		total += p.CPU()
	}
	return total
}

// ServerMemory is what the public side occupies.
func (s *Subject) ServerMemory() Memory { return memory(s.server) }

// AgentMemory is what the agent occupies.
func (s *Subject) AgentMemory() Memory { return memory(s.agent) }

func memory(processes []*Process) Memory {
	var total Memory
	for _, p := range processes {
		m := p.Memory()
		total.All, total.Own = total.All+m.All, total.Own+m.Own
	}
	return total
}

// ErrNotOffered says that a subject lacks what it is asked for.
var ErrNotOffered = errors.New("not offered")

// Address is where a service is published by TCP, or ErrNotOffered.
func (s *Subject) Address(service string) (string, error) {
	address, ok := s.Addresses[service]
	if !ok {
		return "", ErrNotOffered
	}
	return address, nil
}

// Dial connects a visitor to a service by TCP.
func (s *Subject) Dial(ctx context.Context, service string) (net.Conn, error) {
	address, err := s.Address(service)
	if err != nil {
		return nil, err
	}
	return s.site.Server.Dial(ctx, address)
}

// Visitor is the host that visitors are on.
func (s *Subject) Visitor() line.Host { return s.site.Server }

// AwaitFirstByte tries until a visitor of a service gets a byte, and says how long that
// took.
func (s *Subject) AwaitFirstByte(ctx context.Context, service string, timeout time.Duration) (time.Duration, error) {
	ask := "e" // see package work
	if service == Web {
		ask = "GET /1k HTTP/1.1\r\nHost: " + Host + "\r\n\r\n"
	}
	took, err := awaitFirstByte(ctx, func(ctx context.Context) (net.Conn, error) { return s.Dial(ctx, service) }, ask, timeout)
	if err != nil {
		return 0, fmt.Errorf("%s: no byte from %s: %w", s.Name, service, err)
	}
	return took, nil
}

func awaitFirstByte(ctx context.Context, dial func(context.Context) (net.Conn, error), ask string, timeout time.Duration) (time.Duration, error) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		err := firstByte(ctx, dial, ask)
		if err == nil {
			return time.Since(start), nil
		}
		if errors.Is(err, ErrNotOffered) {
			return 0, err
		}
		select {
		case <-ctx.Done():
			return 0, err
		case <-time.After(time.Millisecond):
		}
	}
}

func firstByte(ctx context.Context, dial func(context.Context) (net.Conn, error), ask string) error {
	c, err := dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	// A visitor who is taken in but not served tries again rather than waits.
	deadline := time.Now().Add(2 * time.Second)
	if end, ok := ctx.Deadline(); ok && end.Before(deadline) {
		deadline = end
	}
	_ = c.SetDeadline(deadline)
	if _, err := io.WriteString(c, ask); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}

// at joins a host's IP and a port.
func at(host line.Host, port int) string { return net.JoinHostPort(host.IP(), strconv.Itoa(port)) }

// portOf is the port of an address.
func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// write writes a configuration file below dir and returns its path.
func write(dir, name, text string) (string, error) {
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(text), 0o600)
}
