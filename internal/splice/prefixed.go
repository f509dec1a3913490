package splice

import (
	"io"
	"net"
)

// Prefixed is a connection from which some bytes were read already: they are read
// again first. It keeps the half-close and the reset of the connection below.
type Prefixed struct {
	net.Conn
	prefix []byte
}

// Prepend returns a connection that reads prefix and then what c has. The prefix
// belongs to it from then on.
func Prepend(c net.Conn, prefix []byte) *Prefixed { return &Prefixed{Conn: c, prefix: prefix} }

func (p *Prefixed) Read(b []byte) (int, error) {
	if len(p.prefix) == 0 {
		return p.Conn.Read(b)
	}
	n := copy(b, p.prefix)
	p.prefix = p.prefix[n:]
	if len(p.prefix) == 0 {
		p.prefix = nil
	}
	return n, nil
}

// WriteTo writes the prefix, then lets the connection below move the rest.
func (p *Prefixed) WriteTo(w io.Writer) (int64, error) {
	n, err := p.flush(w)
	if err != nil {
		return n, err
	}
	m, err := io.Copy(w, p.Conn)
	return n + m, err
}

// flush writes what is left of the prefix.
func (p *Prefixed) flush(w io.Writer) (int64, error) {
	if len(p.prefix) == 0 {
		return 0, nil
	}
	n, err := w.Write(p.prefix)
	p.prefix = nil
	return int64(n), err
}

// CloseWrite half-closes the connection below.
func (p *Prefixed) CloseWrite() error { return CloseWrite(p.Conn) }

// Reset resets the connection below.
func (p *Prefixed) Reset() error {
	Reset(p.Conn)
	return nil
}
