package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/config"
	"github.com/culvert-tunnel/culvert/internal/server"
	"github.com/culvert-tunnel/culvert/internal/server/certs"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
	"github.com/culvert-tunnel/culvert/internal/version"
)

func newDemo(env *Env) *cobra.Command {
	var log logFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Try Culvert: server, agent and a sample service in one process",
		Long: `Try Culvert: a server, an agent and a sample service in one process, on loopback.

It keeps nothing: its certificates and tokens go when it stops.`,
		Example: `  culvert demo`,
		Args:    exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := overlay(cmd, env, nil); err != nil {
				return err
			}
			logger, err := log.logger(env)
			if err != nil {
				return err
			}
			return demo(cmd.Context(), env, logger)
		},
	}
	log.level = "warn"
	log.add(cmd)
	return cmd
}

// demo runs until ctx ends.
func demo(ctx context.Context, env *Env, log *slog.Logger) error {
	dir, err := os.MkdirTemp("", "culvert-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the demo: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // the system clears it some day

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel(nil)
	run := func(what string, f func(context.Context) error) {
		tasks.Go(func() {
			if err := f(ctx); err != nil {
				cancel(fmt.Errorf("%s: %w", what, err))
			}
		})
	}

	ready := make(chan server.Ready, 1)
	s, err := server.New(server.Config{
		Domain: "localhost", HTTP: freeAddress(ctx, "127.0.0.1:8080"), HTTPS: freeAddress(ctx, "127.0.0.1:8443"),
		TCPHost: "127.0.0.1", TCPPorts: freePorts(ctx),
		DataDir: filepath.Join(dir, "server"), Drain: time.Second, Version: version.String(), Logger: log,
		Ready: func(r server.Ready) { ready <- r },
	})
	if err != nil {
		return err
	}
	run("server", s.Run)
	secure, plain, ca, err := startSample(dir, run)
	if err != nil {
		return err
	}
	var r server.Ready
	select {
	case r = <-ready:
	case <-ctx.Done():
		return cause(ctx)
	}

	online := make(chan [2]string, 8)
	cfg, err := demoAgent(r, log, plain, secure, online)
	if err != nil {
		return err
	}
	page := make(chan string, 1)
	run("agent", func(ctx context.Context) error {
		return runAgent(ctx, cfg, localFlags{api: "127.0.0.1:4040", ready: func(url string) { page <- url }})
	})

	urls := make(map[string]string)
	for len(urls) < 4 {
		select {
		case u := <-online:
			urls[u[0]] = u[1]
		case u := <-page:
			urls["inspector"] = u
		case <-ctx.Done():
			return cause(ctx)
		}
	}
	showDemo(env.Stdout, urls, r, ca)
	<-ctx.Done()
	_, _ = fmt.Fprintln(env.Stdout, "\nStopping.")
	return cause(ctx)
}

// cause is nil when the user stopped the demo.
func cause(ctx context.Context) error {
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// freeAddress returns address, or one with a port that is free when its own is not.
func freeAddress(ctx context.Context, address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil || !free(ctx, address) || !free(ctx, net.JoinHostPort("::1", port)) {
		return "127.0.0.1:0"
	}
	return address
}

// free reports whether nothing listens on an address. A port taken on ::1 counts,
// because localhost is that first to many programs.
func free(ctx context.Context, address string) bool {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return !errors.Is(err, syscall.EADDRINUSE) && !errors.Is(err, syscall.EACCES)
	}
	_ = l.Close()
	return true
}

// freePorts returns the usual ports of tcp endpoints, or a single free one when all of
// them are taken.
func freePorts(ctx context.Context) registry.PortRange {
	p := registry.PortRange{First: 20000, Last: 20999}
	for port := p.First; port <= p.Last; port++ {
		if n := strconv.Itoa(int(port)); free(ctx, "127.0.0.1:"+n) && free(ctx, "[::1]:"+n) {
			return p
		}
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return p
	}
	defer l.Close() //nolint:errcheck // taken to find it
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	return registry.PortRange{First: port, Last: port}
}

// startSample starts the sample service, once plain and once with TLS of its own,
// and returns the addresses and the file with the CA of the latter.
func startSample(dir string, run func(string, func(context.Context) error)) (secure, plain, caFile string, err error) {
	own := filepath.Join(dir, "service")
	if err := os.Mkdir(own, 0o700); err != nil {
		return "", "", "", err
	}
	ca, err := certs.OpenCA(own)
	if err != nil {
		return "", "", "", err
	}
	cert, err := ca.Issue("secure.localhost")
	if err != nil {
		return "", "", "", err
	}
	serve := func(what string, l net.Listener) string {
		run(what, func(ctx context.Context) error {
			srv := &http.Server{Handler: sampleService(), ReadHeaderTimeout: 10 * time.Second}
			stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
			defer stop()
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		return l.Addr().String()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // does not wait
	if err != nil {
		return "", "", "", err
	}
	plain = serve("sample service", l)
	l, err = net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // does not wait
	if err != nil {
		return "", "", "", err
	}
	secure = serve("sample service", tls.NewListener(l, &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*cert}, NextProtos: []string{"http/1.1"},
	}))
	return secure, plain, filepath.Join(own, certs.CAFile), nil
}

// demoAgent is an agent with an endpoint of each kind.
func demoAgent(r server.Ready, log *slog.Logger, plain, secure string, online chan<- [2]string) (agent.Config, error) {
	cfg := agent.Config{
		Servers: []string{r.HTTPS.String()}, Token: *r.Token, ID: "demo", Generation: 1, Drain: time.Second, Logger: log,
		Metadata: &tunnel.Metadata{Version: version.String()},
		Online:   func(name string, urls []string) { online <- [2]string{name, strings.Join(urls, " ")} },
	}
	for _, e := range []config.Endpoint{
		{Name: "web", URL: "https://hello.localhost", Upstream: plain},
		{Name: "tcp", Kind: "tcp", Upstream: plain},
		{Name: "tls", URL: "tls://secure.localhost", Upstream: secure},
	} {
		built, err := buildEndpoint(e)
		if err != nil {
			return cfg, err
		}
		cfg.Endpoints = append(cfg.Endpoints, built)
	}
	return cfg, nil
}

// showDemo prints the URLs, each with a line to paste.
func showDemo(w io.Writer, urls map[string]string, r server.Ready, serviceCA string) {
	web := strings.Fields(urls["web"])
	tcp, _ := url.Parse(urls["tcp"])
	secure := strings.Replace(urls["tls"], "tls://", "https://", 1)
	_, _ = fmt.Fprintf(w, `
Culvert demo: visitor → edge → link → agent → sample service, all on this machine.

  http   %[1]s
         curl %[1]s/

  https  %[2]s
         curl --cacert %[3]s %[2]s/

  tcp    %[4]s   (the service speaks HTTP on it)
         curl http://%[5]s/

  tls    %[6]s   (the service's own TLS, passed through unread)
         curl --cacert %[7]s %[8]s/

Open %[1]s in a browser, and watch its requests at
%[9]s. Ctrl-C stops the demo.
`, web[1], web[0], shellQuote(r.CAFile), urls["tcp"], tcp.Host, urls["tls"], shellQuote(serviceCA), secure, urls["inspector"])
}
