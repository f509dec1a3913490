package resume

import (
	"net"
	"sync"
)

// Plain makes a Transport of any connection. What is written is collected, and sent by
// a Flush that may wait: there is no telling what would not block.
func Plain(c net.Conn) Transport { return &plain{Conn: c} }

type plain struct {
	net.Conn
	mu struct {
		sync.Mutex
		out []byte
	}
}

func (p *plain) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.out = append(p.mu.out, b...)
	return len(b), nil
}

func (p *plain) Flush(wait bool) (int, bool, error) {
	p.mu.Lock()
	out := p.mu.out
	if len(out) == 0 || !wait {
		p.mu.Unlock()
		return 0, len(out) == 0, nil
	}
	p.mu.out = nil
	p.mu.Unlock()
	n, err := p.Conn.Write(out)
	return n, err == nil, err
}

func (p *plain) Ready(bool) bool { return false }
