package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/orca"
	"google.golang.org/grpc/status"
)

// maxMessage is over all windows on the way.
const maxMessage = 20 << 20

// grpcServer is the public interop server.
func grpcServer(t *testing.T, opts ...grpc.ServerOption) string {
	t.Helper()
	grpcLogger()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	s := grpc.NewServer(append(opts, orca.CallMetricsServerOption(nil), grpc.MaxRecvMsgSize(maxMessage))...)
	metrics := orca.NewServerMetricsRecorder()
	check(t, orca.Register(s, orca.ServiceOptions{ServerMetricsProvider: metrics}))
	testgrpc.RegisterTestServiceServer(s, interop.NewTestServer(interop.NewTestServerOptions{MetricsRecorder: metrics}))
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

// grpcLog makes the interop client's way to say that a case failed, which is to end the
// process, the present test's. gRPC takes a logger once, before anything else.
type grpcLog struct {
	grpclog.LoggerV2
	t atomic.Pointer[testing.T]
}

var grpcLogger = sync.OnceValue(func() *grpcLog {
	l := &grpcLog{LoggerV2: grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard)}
	grpclog.SetLoggerV2(l)
	return l
})

func (l *grpcLog) Fatal(args ...any)                 { l.t.Load().Fatal(args...) }
func (l *grpcLog) Fatalln(args ...any)               { l.t.Load().Fatal(args...) }
func (l *grpcLog) Fatalf(format string, args ...any) { l.t.Load().Fatalf(format, args...) }

// TestGRPC: the cases of gRPC's own interop client pass between it and its server, behind
// HTTP/2 without and with TLS. Left out are those that need an account of Google's;
// pick_first_unary, for which gRPC's own server in Go does not tell its id; and orca_oob,
// whose interval can be set from within gRPC alone.
func TestGRPC(t *testing.T) {
	n := startServer(t)
	certFile, keyFile := selfSigned(t, "grpc.example")
	creds, err := credentials.NewServerTLSFromFile(certFile, keyFile)
	check(t, err)
	for upstream, args := range map[string][]string{
		"h2c://" + grpcServer(t):                      {"--name", "plain"},
		"https://" + grpcServer(t, grpc.Creds(creds)): {"--name", "secure", "--upstream-ca", certFile, "--upstream-server-name", "grpc.example"},
	} {
		_, url := n.publish(append([]string{"http", upstream}, args...)...)
		t.Run(args[1], func(t *testing.T) { testGRPC(t, n, strings.TrimPrefix(url, "https://")) })
	}
}

func testGRPC(t *testing.T, n *node, host string) {
	ca, err := os.ReadFile(filepath.Join(n.data, "ca.pem"))
	check(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	connect := func(opts ...grpc.DialOption) *grpc.ClientConn {
		c, err := grpc.NewClient("passthrough:///"+host, append(opts, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots})),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", n.https)
			}), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))...)
		check(t, err)
		return c
	}
	conn := connect()
	t.Cleanup(func() { _ = conn.Close() })
	c := testgrpc.NewTestServiceClient(conn)
	zipped := grpc.UseCompressor(gzip.Name)
	soak := interop.SoakTestConfig{
		RequestSize: 271828, ResponseSize: 314159, PerIterationMaxAcceptableLatency: patience, OverallTimeout: patience,
		ServerAddr: host, NumWorkers: 2, Iterations: 10,
		ChannelForTest: func() (*grpc.ClientConn, func()) { return conn, func() {} },
	}
	channelSoak := soak
	channelSoak.ChannelForTest = func() (*grpc.ClientConn, func()) {
		c := connect()
		return c, func() { _ = c.Close() }
	}
	for name, run := range map[string]func(context.Context){
		"empty_unary":                 func(ctx context.Context) { interop.DoEmptyUnaryCall(ctx, c) },
		"large_unary":                 func(ctx context.Context) { interop.DoLargeUnaryCall(ctx, c) },
		"client_streaming":            func(ctx context.Context) { interop.DoClientStreaming(ctx, c) },
		"server_streaming":            func(ctx context.Context) { interop.DoServerStreaming(ctx, c) },
		"ping_pong":                   func(ctx context.Context) { interop.DoPingPong(ctx, c) },
		"empty_stream":                func(ctx context.Context) { interop.DoEmptyStream(ctx, c) },
		"timeout_on_sleeping_server":  func(ctx context.Context) { interop.DoTimeoutOnSleepingServer(ctx, c) },
		"cancel_after_begin":          func(ctx context.Context) { interop.DoCancelAfterBegin(ctx, c) },
		"cancel_after_first_response": func(ctx context.Context) { interop.DoCancelAfterFirstResponse(ctx, c) },
		"status_code_and_message":     func(ctx context.Context) { interop.DoStatusCodeAndMessage(ctx, c) },
		"special_status_message":      func(ctx context.Context) { interop.DoSpecialStatusMessage(ctx, c) },
		"custom_metadata":             func(ctx context.Context) { interop.DoCustomMetadata(ctx, c) },
		"unimplemented_method":        func(ctx context.Context) { interop.DoUnimplementedMethod(ctx, conn) },
		"unimplemented_service": func(ctx context.Context) {
			interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(conn))
		},
		"orca_per_rpc": func(ctx context.Context) {
			c := connect(grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"test_backend_metrics_load_balancer": {}}]}`))
			defer c.Close()
			interop.DoORCAPerRPCTest(ctx, testgrpc.NewTestServiceClient(c))
		},
		"rpc_soak":     func(ctx context.Context) { interop.DoSoakTest(ctx, soak) },
		"channel_soak": func(ctx context.Context) { interop.DoSoakTest(ctx, channelSoak) },
		// The same with compressed messages, and with more than fits any window.
		"compressed_unary":     func(ctx context.Context) { interop.DoLargeUnaryCall(ctx, c, zipped) },
		"compressed_streaming": func(ctx context.Context) { interop.DoPingPong(ctx, c, zipped) },
		"huge_unary": func(ctx context.Context) {
			const size = maxMessage - 1<<20
			res, err := c.UnaryCall(ctx, &testgrpc.SimpleRequest{
				ResponseSize: size, Payload: interop.ClientNewPayload(testgrpc.PayloadType_COMPRESSABLE, size),
			})
			if err != nil || len(res.GetPayload().GetBody()) != size {
				t.Errorf("%d bytes came back: %v", len(res.GetPayload().GetBody()), err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			grpcLogger().t.Store(t)
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			run(ctx)
		})
	}
	t.Run("deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		s, err := c.FullDuplexCall(ctx)
		if err == nil {
			_, err = s.Recv()
		}
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("a call past its deadline: %v", err)
		}
	})
}

// selfSigned writes a certificate for a name, and its key.
func selfSigned(t *testing.T, name string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	check(t, err)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	check(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	check(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	return certFile, keyFile
}
