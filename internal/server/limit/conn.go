package limit

import (
	"net"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/splice"
)

// paced is a visitor's connection whose bytes are taken from buckets. Reading waits
// behind what it read and writing before what it writes, so that TCP slows the sender
// down; Close and Reset end the waiting.
type paced struct {
	net.Conn
	pace   [2]pace
	closed chan struct{}
	once   sync.Once
}

func newPaced(c net.Conn) *paced { return &paced{Conn: c, closed: make(chan struct{})} }

func (p *paced) wait(direction, n int) error {
	d := p.pace[direction].delay(n)
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-p.closed:
		return net.ErrClosed
	}
}

func (p *paced) Read(b []byte) (int, error) {
	if limit := p.pace[in].chunk(); len(b) > limit {
		b = b[:limit]
	}
	n, err := p.Conn.Read(b)
	if n > 0 {
		if werr := p.wait(in, n); werr != nil && err == nil {
			err = werr
		}
	}
	return n, err
}

func (p *paced) Write(b []byte) (int, error) {
	total := 0
	for len(b) > 0 {
		n := min(len(b), p.pace[out].chunk())
		if err := p.wait(out, n); err != nil {
			return total, err
		}
		m, err := p.Conn.Write(b[:n])
		total += m
		if err != nil {
			return total, err
		}
		b = b[n:]
	}
	return total, nil
}

func (p *paced) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.Conn.Close()
}

// Reset resets the connection below.
func (p *paced) Reset() error {
	p.once.Do(func() { close(p.closed) })
	splice.Reset(p.Conn)
	return nil
}

// CloseWrite half-closes the connection below.
func (p *paced) CloseWrite() error { return splice.CloseWrite(p.Conn) }
