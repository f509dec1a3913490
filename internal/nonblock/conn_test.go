//go:build unix

package nonblock

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"
)

// pair are two ends of a TCP connection, one of them by this package.
func pair() (c1, c2 net.Conn, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, nil, err
	}
	defer l.Close()
	if c1, err = net.Dial("tcp", l.Addr().String()); err != nil {
		return nil, nil, nil, err
	}
	if c2, err = l.Accept(); err != nil {
		return nil, nil, nil, err
	}
	return c1, Of(c2), func() { _, _ = c1.Close(), c2.Close() }, nil
}

// TestConn: it is a connection as any other.
func TestConn(t *testing.T) { nettest.TestConn(t, pair) }

// TestEnds: the ends of the other side, and the own, look as those of a TCP connection.
func TestEnds(t *testing.T) {
	for name, tc := range map[string]struct {
		end  func(other *net.TCPConn, own net.Conn)
		want error
	}{
		"orderly": {func(other *net.TCPConn, _ net.Conn) { _ = other.CloseWrite() }, io.EOF},
		"reset": {func(other *net.TCPConn, _ net.Conn) {
			_ = other.SetLinger(0)
			_ = other.Close()
		}, syscall.ECONNRESET},
		"closed": {func(_ *net.TCPConn, own net.Conn) { _ = own.Close() }, net.ErrClosed},
		"late":   {func(_ *net.TCPConn, own net.Conn) { _ = own.SetReadDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			other, own, stop, err := pair()
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			plain, theirs, stopPlain, err := pair()
			if err != nil {
				t.Fatal(err)
			}
			defer stopPlain()
			bare := theirs.(interface{ Bare() net.Conn }).Bare()
			for end, c := range map[net.Conn]net.Conn{other: own, plain: bare} {
				read := make(chan error)
				go func() {
					_, err := c.Read(make([]byte, 1))
					read <- err
				}()
				tc.end(end.(*net.TCPConn), c)
				err := <-read
				var got *net.OpError
				if !errors.Is(err, tc.want) {
					t.Errorf("%v instead of %v", err, tc.want)
				}
				if tc.want != io.EOF && !errors.As(err, &got) { //nolint:errorlint // the very one
					t.Errorf("%T", err)
				}
			}
		})
	}
}
