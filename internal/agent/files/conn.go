package files

import (
	"context"
	"errors"
	"net"
	"net/http"
)

// Dial returns a connection to the server. Its goroutine ends with the connection, so
// that a Server needs no closing.
func (s *Server) Dial(ctx context.Context) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	// Serve returns when it has handed far to a goroutine and asks for another one.
	if err := s.http.Serve(&single{conn: far}); !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
		_ = near.Close()
		return nil, err
	}
	return near, nil
}

// single is a listener with one connection.
type single struct{ conn net.Conn }

func (l *single) Accept() (net.Conn, error) {
	c := l.conn
	l.conn = nil
	if c == nil {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (l *single) Close() error   { return nil }
func (l *single) Addr() net.Addr { return &net.UnixAddr{Net: "pipe"} }
