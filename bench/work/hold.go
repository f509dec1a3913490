package work

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/bench/rival"
	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// What Hold can hold.
const (
	Visitors = "visitors" // idle connections to the service Echo
	Agents   = "agents"   // with a TCP endpoint each
	Names    = "names"    // HTTP endpoints of one agent
)

// Held is what Hold prints when it holds all.
const Held = "held"

// tokenVariable carries a token to Hold, as command lines are there for all to see.
const tokenVariable = "BENCH_TOKEN"

// Holding is the command that holds n of a kind at a subject: a process of its own, as
// descriptors are limited per process.
func Holding(s *rival.Subject, kind string, n int) (rival.Command, error) {
	self, err := os.Executable()
	address, upstream := s.Link, s.Addresses[rival.Echo]
	if kind == Visitors {
		address = upstream
	}
	return rival.Command{
		Path: self, Args: []string{"hold", kind, strconv.Itoa(n), address, upstream},
		Env: []string{tokenVariable + "=" + s.Token},
	}, err
}

// Hold is the process of Holding. It ends by being killed.
func Hold(args []string) error {
	if len(args) != 4 {
		return errors.New("hold is for this program's own use")
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	ctx := context.Background()
	if args[0] == Visitors {
		for range n {
			if err := holdVisitor(ctx, args[2]); err != nil {
				return err
			}
		}
		fmt.Println(Held)
		select {}
	}
	token, err := tunnel.ParseToken(os.Getenv(tokenVariable))
	if err != nil {
		return err
	}
	up, err := agent.ParseUpstream(args[3], agent.UpstreamTLS{})
	if err != nil {
		return err
	}
	agents, kind, each := n, endpoint.TCP, 1
	if args[0] == Names {
		agents, kind, each = 1, endpoint.HTTP, n
	}
	var online sync.WaitGroup
	online.Add(n)
	failed := make(chan error, agents)
	for i := range agents {
		var endpoints []agent.Endpoint
		for k := range each {
			endpoints = append(endpoints, agent.Endpoint{Spec: endpoint.Spec{Kind: kind, Name: "n" + strconv.Itoa(k)}, Upstream: up})
		}
		var once sync.Map
		a := agent.New(agent.Config{
			Servers: []string{args[2]}, Token: token, ID: fmt.Sprint("held-", args[0], i), Generation: uint64(time.Now().UnixNano()), //nolint:gosec // positive
			Endpoints: endpoints, Logger: slog.New(slog.DiscardHandler),
			Online: func(name string, _ []string) {
				if _, had := once.LoadOrStore(name, true); !had {
					online.Done()
				}
			},
		})
		go func() { failed <- a.Run(ctx) }()
	}
	all := make(chan struct{})
	go func() {
		online.Wait()
		close(all)
	}()
	select {
	case err := <-failed:
		return fmt.Errorf("an agent ended: %w", err)
	case <-all:
	}
	fmt.Println(Held)
	select {}
}

// holdVisitor connects one, and leaves it to the process's end.
func holdVisitor(ctx context.Context, address string) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(c, "e"); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		return err
	}
	kept = append(kept, c)
	return nil
}

// kept keeps connections from the garbage collector.
var kept []net.Conn
