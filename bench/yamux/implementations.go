package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"strconv"
	"sync"
	"time"

	hashicorp "github.com/hashicorp/yamux"
	libp2p "github.com/libp2p/go-yamux/v5"

	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/yamux"
)

// errNone: the implementation has nothing to measure in this row.
var errNone = errors.New("nothing to measure")

// session is what the rows need of a multiplexer.
type session struct {
	open   func() (net.Conn, error)
	accept func() (net.Conn, error)
	close  func()
}

// implementation under test. mux is nil for bare connections.
type implementation struct {
	name string
	mux  func(conn net.Conn, client bool) (session, error)
}

var implementations = []implementation{
	{"ours", ours}, {"hashicorp", ofHashicorp}, {"go-yamux", ofLibp2p}, {"bare", nil},
}

func ours(conn net.Conn, client bool) (session, error) {
	make := yamux.Server
	if client {
		make = yamux.Client
	}
	s := make(conn, yamux.Config{})
	var run sync.WaitGroup
	run.Go(func() { _ = s.Run(context.Background()) })
	return session{
		open:   func() (net.Conn, error) { return s.Open(context.Background()) },
		accept: func() (net.Conn, error) { return s.Accept(context.Background()) },
		close:  func() { _ = s.Close(); run.Wait() },
	}, nil
}

func ofHashicorp(conn net.Conn, client bool) (session, error) {
	cfg := hashicorp.DefaultConfig()
	cfg.LogOutput = io.Discard
	make := hashicorp.Server
	if client {
		make = hashicorp.Client
	}
	s, err := make(conn, cfg)
	if err != nil {
		return session{}, err
	}
	return session{
		open:   func() (net.Conn, error) { return s.Open() },
		accept: s.Accept,
		close:  func() { _ = s.Close() },
	}, nil
}

func ofLibp2p(conn net.Conn, client bool) (session, error) {
	cfg := libp2p.DefaultConfig()
	cfg.LogOutput = io.Discard
	make := libp2p.Server
	if client {
		make = libp2p.Client
	}
	s, err := make(conn, cfg, nil)
	if err != nil {
		return session{}, err
	}
	return session{
		open:   func() (net.Conn, error) { return s.Open(context.Background()) },
		accept: s.Accept,
		close:  func() { _ = s.Close() },
	}, nil
}

// pair returns both ends of a loopback connection.
func pair(ctx context.Context) (client, server net.Conn, err error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	client, err = new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	server, err = ln.Accept()
	return client, server, err
}

// secured puts TLS on a pair.
func secured(ctx context.Context, client, server net.Conn) (net.Conn, net.Conn, error) {
	c := tls.Client(client, &tls.Config{RootCAs: roots, ServerName: "localhost", DynamicRecordSizingDisabled: true})
	s := tls.Server(server, &tls.Config{Certificates: []tls.Certificate{certificate}, DynamicRecordSizingDisabled: true})
	done := make(chan error, 1)
	go func() { done <- s.HandshakeContext(ctx) }()
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, nil, err
	}
	return c, s, <-done
}

// linked returns both ends of a link, which is our Yamux over TLS as agents and
// nodes use it: it is the node, which is the server of the connection, that opens streams.
func linked(ctx context.Context) (a, b session, err error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "localhost:0")
	if err != nil {
		return a, b, err
	}
	defer ln.Close()
	type accepted struct {
		conn link.Conn
		err  error
	}
	done := make(chan accepted, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			done <- accepted{nil, err}
			return
		}
		cfg := link.ServerConfig(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &certificate, nil })
		conn, err := link.Accept(ctx, c, nil, cfg, 10*time.Second)
		done <- accepted{conn, err}
	}()
	dialer := link.Dialer{Roots: roots}
	client, err := dialer.Dial(ctx, "localhost:"+strconv.Itoa(ln.Addr().(*net.TCPAddr).Port))
	if err != nil {
		return a, b, err
	}
	server := <-done
	if server.err != nil {
		return a, b, server.err
	}
	return ofLink(ctx, link.Server(server.conn, link.Config{})), ofLink(ctx, link.Client(client, link.Config{})), nil
}

func ofLink(ctx context.Context, l *link.Link) session {
	var run sync.WaitGroup
	run.Go(func() { _ = l.Run(ctx) })
	return session{
		open:   func() (net.Conn, error) { return l.Open(ctx) },
		accept: func() (net.Conn, error) { return l.Accept(ctx) },
		close:  func() { _ = l.Close(); run.Wait() },
	}
}

var certificate, roots = makeCertificate()

func makeCertificate() (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// bed is what a row measures on: connections between two sides, each a stream of
// one session or a connection of its own.
type bed struct {
	impl   implementation
	secure bool
	dial   func() (net.Conn, net.Conn, error) // a new connection below
	a, b   session
}

// newBed makes a bed over loopback.
func newBed(ctx context.Context, impl implementation, secure bool) (*bed, error) {
	return newBedOver(ctx, impl, secure, pair)
}

func newBedOver(ctx context.Context, impl implementation, secure bool, below func(context.Context) (net.Conn, net.Conn, error)) (*bed, error) {
	b := &bed{impl: impl, secure: secure}
	b.dial = func() (net.Conn, net.Conn, error) {
		c, s, err := below(ctx)
		if err == nil && secure {
			c, s, err = secured(ctx, c, s)
		}
		return c, s, err
	}
	if impl.mux == nil {
		return b, nil
	}
	if secure && impl.name == "ours" {
		var err error
		b.a, b.b, err = linked(ctx)
		return b, err
	}
	c, s, err := b.dial()
	if err != nil {
		return nil, err
	}
	if b.a, err = impl.mux(c, true); err != nil {
		return nil, err
	}
	b.b, err = impl.mux(s, false)
	return b, err
}

// open returns both ends of a new stream.
func (b *bed) open() (net.Conn, net.Conn, error) {
	if b.impl.mux == nil {
		return b.dial()
	}
	c, err := b.a.open()
	if err != nil {
		return nil, nil, err
	}
	s, err := b.b.accept()
	return c, s, err
}

func (b *bed) close() {
	if b.impl.mux != nil {
		b.a.close()
		b.b.close()
	}
}
