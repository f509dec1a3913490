package agent

import (
	"context"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// patience is how long a server that says nothing is waited for before others are asked, and
// how long it then still has to answer first.
const patience = time.Second

// lookout bounds the search for another server, after which the lost one is asked again.
const lookout = 2 * time.Second

// headStart is how long the dialling of one server may take before the next is dialled
// beside it.
const headStart = 300 * time.Millisecond

// servers are where an agent may go: those that it was given, in that order, and behind them
// those that its server told it of.
type servers struct {
	given []string
	dial  func(ctx context.Context, address string) (net.Conn, error)

	mu struct {
		sync.Mutex
		told []string
		used map[uint32]string // by seats
	}
}

// maxTold bounds what a server may tell.
const maxTold = 16

// tell takes a server's word on where else to go, in place of what was told before. What is
// no address is left out. The word is to be trusted no further than a connection: who answers
// there has to show the same as any other server.
func (s *servers) tell(addresses []string) {
	var told []string
	for _, a := range addresses {
		host, port, err := net.SplitHostPort(a)
		if err != nil || len(told) == maxTold {
			continue
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			continue
		}
		if host, err = endpoint.ParseHost(host); err != nil {
			continue
		}
		if a = net.JoinHostPort(host, port); !slices.Contains(s.given, a) && !slices.Contains(told, a) {
			told = append(told, a)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.told = told
}

// allLocked returns the servers.
func (s *servers) allLocked() []string { return slices.Concat(s.given, s.mu.told) }

// freeLocked reports whether no other seat uses a server.
func (s *servers) freeLocked(seat uint32, server string) bool {
	for other, used := range s.mu.used {
		if other != seat && used == server {
			return false
		}
	}
	return true
}

func (s *servers) useLocked(seat uint32, server string) {
	if s.mu.used == nil {
		s.mu.used = make(map[uint32]string)
	}
	s.mu.used[seat] = server
}

// use makes a server a seat's, unless another seat uses it.
func (s *servers) use(seat uint32, server string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.freeLocked(seat, server) {
		return false
	}
	s.useLocked(seat, server)
	return true
}

// begin returns the server where a seat begins. There are no more seats than servers.
func (s *servers) begin(seat uint32) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, server := range s.allLocked() {
		if s.freeLocked(seat, server) {
			s.useLocked(seat, server)
			break
		}
	}
	return s.mu.used[seat]
}

// after returns the server that a seat is to try after its own, and whether it begins from
// the first again.
func (s *servers) after(seat uint32) (next string, again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.allLocked()
	i := slices.Index(all, s.mu.used[seat])
	for {
		if i++; i >= len(all) {
			i, again = 0, true
		}
		if s.freeLocked(seat, all[i]) {
			s.useLocked(seat, all[i])
			return all[i], again
		}
	}
}

// besides returns the servers that a seat may go to in place of its own, beginning with the
// next.
func (s *servers) besides(seat uint32) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.allLocked()
	i := slices.Index(all, s.mu.used[seat])
	if i >= 0 {
		all = slices.Concat(all[i+1:], all[:i])
	}
	return slices.DeleteFunc(all, func(server string) bool { return !s.freeLocked(seat, server) })
}

// reach looks for one of these servers that answers.
func (s *servers) reach(ctx context.Context, order []string) (server string, conn net.Conn) {
	ctx, cancel := context.WithTimeout(ctx, lookout)
	type reached struct {
		server string
		conn   net.Conn
	}
	results := make(chan reached, len(order))
	pending := 0
	defer func() {
		cancel()
		for ; pending > 0; pending-- {
			if late := <-results; late.conn != nil {
				_ = late.conn.Close()
			}
		}
	}()
	next := func() {
		if len(order) == 0 {
			return
		}
		server := order[0]
		order = order[1:]
		pending++
		go func() {
			conn, err := s.dial(ctx, server)
			if err != nil {
				conn = nil
			}
			results <- reached{server, conn}
		}()
	}
	tick := time.NewTicker(headStart)
	defer tick.Stop()
	for next(); pending > 0; {
		select {
		case <-tick.C:
			next()
		case r := <-results:
			pending--
			if r.conn != nil {
				return r.server, r.conn
			}
			next()
		}
	}
	return "", nil
}
