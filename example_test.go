package culvert_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/culvert-tunnel/culvert"
)

// An http.Server on a public URL. Server and token are those of culvert login, or of
// CULVERT_SERVER and CULVERT_TOKEN.
func Example() {
	l, err := culvert.Listen(context.Background(), culvert.Config{}, culvert.Endpoint{Name: "hello"})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "Hello from behind NAT at", strings.Split(r.Host, ":")[0])
	}))
	fmt.Println(get(l.URL()))
	// Output: Hello from behind NAT at hello.localhost
}

// A gRPC server: the visitors' TLS ends at the Culvert server, from there on it is
// HTTP/2 without TLS.
func ExampleListen_grpc() {
	ctx := context.Background()
	l, err := culvert.Listen(ctx, culvert.Config{}, culvert.Endpoint{Name: "grpc", H2C: true})
	if err != nil {
		log.Fatal(err)
	}
	srv := grpc.NewServer()
	healthpb.RegisterHealthServer(srv, health.NewServer())
	go srv.Serve(l)
	defer srv.Stop()

	conn := visitGRPC(l.Addr().String())
	defer conn.Close()
	answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	fmt.Println(answer.GetStatus(), err)
	// Output: SERVING <nil>
}

// End-to-end TLS: the Culvert server passes on what it can't read.
func ExampleListen_tls() {
	l, err := culvert.Listen(context.Background(), culvert.Config{}, culvert.Endpoint{Kind: culvert.TLS, Name: "secret"})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	certificate, roots := selfSigned("secret.localhost")
	secure := tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate}})
	go func() {
		for {
			c, err := secure.Accept()
			if err != nil {
				return // errors.Is(err, net.ErrClosed) after l.Close
			}
			fmt.Fprintln(c, "for your eyes only")
			c.Close()
		}
	}()

	c, err := tls.Dial("tcp", here.https, &tls.Config{ServerName: "secret.localhost", RootCAs: roots})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	fmt.Print(string(b), err)
	// Output:
	// for your eyes only
	// <nil>
}

// A service outside this process, as culvert http does it.
func ExampleForward() {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "from the service next door")
	}))
	defer service.Close()
	f, err := culvert.Forward(context.Background(), culvert.Config{}, culvert.Endpoint{}, service.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	fmt.Println(get(f.URL()))
	// Output: from the service next door
}

// Several endpoints over one connection, and what happens to them.
func ExampleConnect() {
	a, err := culvert.Connect(context.Background(), culvert.Config{
		Events: func(e culvert.Event) {
			if e.Kind == culvert.Online {
				fmt.Println("online:", e.Endpoint.Name)
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	for _, name := range []string{"one", "two"} {
		l, err := a.Listen(context.Background(), culvert.Endpoint{Name: name})
		if err != nil {
			log.Fatal(err)
		}
		go http.Serve(l, culvert.Visitors(http.NotFoundHandler()))
	}
	// Output:
	// online: one
	// online: two
}

// Errors carry the codes of the protocol.
func ExampleListen_errors() {
	_, err := culvert.Listen(context.Background(), culvert.Config{}, culvert.Endpoint{URL: "https://localhost"})
	fmt.Println(errors.Is(err, culvert.ErrNameReserved))
	fmt.Println(err)
	// Output:
	// true
	// culvert: localhost is the server's own name (name_reserved)
}

// visitGRPC makes a client for which the address leads to the node.
func visitGRPC(address string) *grpc.ClientConn {
	creds := credentials.NewTLS(&tls.Config{RootCAs: here.roots(), MinVersion: tls.VersionTLS12})
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", here.https)
		}))
	if err != nil {
		log.Fatal(err)
	}
	return conn
}

// selfSigned makes a certificate and what trusts it.
func selfSigned(name string) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		log.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}
