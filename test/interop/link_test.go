package interop

import (
	"context"
	"crypto/tls"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
	"github.com/culvert-tunnel/culvert/yamux"
)

// TestLinks runs our links, Yamux over TLS in batches of records, against the other
// implementations over crypto/tls as it is. Small socket buffers make both sides wait
// for each other in the middle of batches.
func TestLinks(t *testing.T) {
	for name, with := range map[string]maker{"hashicorp": ofHashicorp, "libp2p": ofLibp2p} {
		for _, dials := range []bool{false, true} {
			t.Run(name+"/we-dial="+strconv.FormatBool(dials), func(t *testing.T) {
				conn, other := linkPair(t, dials)
				for _, c := range []net.Conn{conn.(interface{ NetConn() net.Conn }).NetConn(), other.NetConn()} {
					if tcp, ok := c.(*net.TCPConn); ok {
						tcp.SetWriteBuffer(32 << 10)
					}
				}
				a, b := ofLink(t, conn, dials), with(t, other, !dials)
				defer b.close()
				defer a.close()
				var wg sync.WaitGroup
				wg.Go(func() { transfer(t, a, b, 100, 0) })
				if dials { // a node's side takes one stream of an agent
					wg.Go(func() { transfer(t, b, a, 100, 1) })
				}
				wg.Wait()
			})
		}
	}
}

// linkPair connects our link's connection with one of crypto/tls.
func linkPair(t *testing.T, dials bool) (link.Conn, *tls.Conn) {
	t.Helper()
	cert, roots := certificate(t)
	ln, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	address := "localhost:" + strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
	theirs := &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, ServerName: "localhost", NextProtos: []string{tunnel.ALPN}}
	var ours link.Conn
	var other *tls.Conn
	var wg sync.WaitGroup
	if dials {
		wg.Go(func() {
			c, err := ln.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			other = tls.Server(c, theirs)
			if err := other.HandshakeContext(ctx); err != nil {
				t.Error(err)
			}
		})
		dialer := link.Dialer{Roots: roots}
		ours, err = dialer.Dial(ctx, address)
	} else {
		wg.Go(func() {
			c, err := ln.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			cfg := link.ServerConfig(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil })
			if ours, err = link.Accept(ctx, c, nil, cfg, time.Minute); err != nil {
				t.Error(err)
			}
		})
		other, err = tls.Dial("tcp", address, theirs)
	}
	wg.Wait()
	if err != nil || t.Failed() {
		t.Fatal("no connection: ", err)
	}
	return ours, other
}

func ofLink(t *testing.T, conn link.Conn, client bool) session {
	side := link.Server
	if client {
		side = link.Client
	}
	l := side(conn, link.Config{})
	done := running(func() { _ = l.Run(context.Background()) })
	return session{
		open:   func(ctx context.Context) (stream, error) { return l.Open(ctx) },
		accept: func(ctx context.Context) (stream, error) { return l.Accept(ctx) },
		close: func() {
			l.Close()
			<-done
			if l.Queued() != 0 {
				t.Errorf("%d bytes left in our link", l.Queued())
			}
		},
		reset: func(st stream) { st.(*yamux.Stream).Reset() },
	}
}

// running runs f and says when it has ended.
func running(f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	return done
}
