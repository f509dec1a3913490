package link

import (
	"net"
	"sync"
	"testing"
)

// line is a NAT before a node: it carries datagrams between those who send to it and the
// node, each by a port of its own.
type line struct {
	address string
	socket  *net.UDPConn
	node    *net.UDPAddr

	mu struct {
		sync.Mutex
		ports   map[string]*net.UDPConn // by the sender
		blocked int                     // port of a sender
		cut     bool
	}
	tasks sync.WaitGroup
}

func newLine(t *testing.T, node string) *line {
	t.Helper()
	to, err := net.ResolveUDPAddr("udp", node)
	check(t, err)
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	check(t, err)
	l := &line{address: socket.LocalAddr().String(), socket: socket, node: to}
	l.mu.ports = make(map[string]*net.UDPConn)
	l.tasks.Go(l.run)
	t.Cleanup(func() {
		_ = socket.Close()
		l.mu.Lock()
		l.mu.cut = true
		for _, p := range l.mu.ports {
			_ = p.Close()
		}
		l.mu.Unlock()
		l.tasks.Wait()
	})
	return l
}

func (l *line) run() {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := l.socket.ReadFromUDP(buf)
		if err != nil {
			return
		}
		if p := l.port(from); p != nil {
			_, _ = p.Write(buf[:n])
		}
	}
}

// port returns that of a sender.
func (l *line) port(from *net.UDPAddr) *net.UDPConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.cut || l.mu.blocked == from.Port {
		return nil
	}
	p, known := l.mu.ports[from.String()]
	if known {
		return p
	}
	p, err := net.DialUDP("udp", nil, l.node)
	if err != nil {
		return nil
	}
	l.mu.ports[from.String()] = p
	l.tasks.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			n, err := p.Read(buf)
			if err != nil {
				return
			}
			_, _ = l.socket.WriteToUDP(buf[:n], from)
		}
	})
	return p
}

// forget has everybody get another port.
func (l *line) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.mu.ports {
		_ = p.Close()
	}
	clear(l.mu.ports)
}

// block drops what a sender sends from now on, and what is for it, and no one else's any
// more.
func (l *line) block(port int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.blocked = port
	from := (&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}).String()
	if p := l.mu.ports[from]; p != nil {
		_ = p.Close()
	}
	delete(l.mu.ports, from)
}

// cut drops everything.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.cut = true
	for _, p := range l.mu.ports {
		_ = p.Close()
	}
}
