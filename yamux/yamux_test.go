package yamux

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"sync"
	"testing"
)

func tcpPair(tb testing.TB) (net.Conn, net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	return a, b
}

func TestQuick(t *testing.T) {
	for name, pair := range map[string]func(testing.TB) (net.Conn, net.Conn){"tcp": tcpPair, "pipe": func(testing.TB) (net.Conn, net.Conn) { return net.Pipe() }} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			c, s := Client(a, Config{}), Server(b, Config{})
			var tasks sync.WaitGroup
			tasks.Go(func() { t.Log(c.Run(context.Background())) })
			tasks.Go(func() { t.Log(s.Run(context.Background())) })
			defer tasks.Wait()
			defer c.Close()
			var wg sync.WaitGroup
			wg.Go(func() {
				for range 20 {
					st, err := s.Accept(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					wg.Go(func() {
						io.Copy(st, st)
						st.CloseWrite()
						st.Close()
					})
				}
			})
			for range 20 {
				wg.Go(func() {
					data := make([]byte, 3<<20)
					rand.Read(data)
					st, err := c.Open(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					wg.Go(func() { st.Write(data); st.CloseWrite() })
					got, err := io.ReadAll(st)
					if err != nil || !bytes.Equal(got, data) {
						t.Error(len(got), err)
					}
					st.Close()
				})
			}
			wg.Wait()
		})
	}
}
