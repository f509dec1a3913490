package work

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"time"

	"github.com/culvert-tunnel/culvert/bench/line"
	"github.com/culvert-tunnel/culvert/bench/rival"
)

// Serve serves what is behind all tunnels on host until stop is called: Echo and Web in
// this process, Bulk by iperf3.
func Serve(ctx context.Context, host line.Host) (services []rival.Service, stop func(), err error) {
	var closers []io.Closer
	var bulk *rival.Process
	stop = func() {
		for _, c := range closers {
			_ = c.Close()
		}
		if bulk != nil {
			bulk.Stop()
		}
	}
	listen := func(name string) (net.Listener, error) {
		l, err := host.Listen(ctx, net.JoinHostPort(host.IP(), "0"))
		if err == nil {
			closers = append(closers, l)
			services = append(services, rival.Service{Name: name, Address: l.Addr().String()})
		}
		return l, err
	}
	echo, err := listen(rival.Echo)
	if err != nil {
		return nil, stop, err
	}
	go serveEcho(echo)
	web, err := listen(rival.Web)
	if err != nil {
		return nil, stop, err
	}
	server := &http.Server{Handler: pages(), ReadHeaderTimeout: 10 * time.Second}
	closers = append(closers, server)
	go func() { _ = server.Serve(web) }()

	if _, err := exec.LookPath("iperf3"); err != nil {
		return services, stop, nil //nolint:nilerr // the work that needs it is left out
	}
	free, err := host.Listen(ctx, net.JoinHostPort(host.IP(), "0"))
	if err != nil {
		return nil, stop, err
	}
	address := free.Addr().String()
	_ = free.Close()
	_, port, _ := net.SplitHostPort(address)
	bulk, err = rival.Command{Path: "iperf3", Args: []string{"-s", "-B", host.IP(), "-p", port}}.Start(ctx, host)
	if err != nil {
		return nil, stop, fmt.Errorf("start the service of bulk transfers: %w", err)
	}
	return append(services, rival.Service{Name: rival.Bulk, Address: address}), stop, nil
}

// pages answers /1k, /64k and /10m with so many bytes.
func pages() http.Handler {
	mux := http.NewServeMux()
	for path, size := range map[string]int{"/1k": 1 << 10, "/64k": 64 << 10, "/10m": 10 << 20} {
		body := make([]byte, size)
		for i := range body {
			body[i] = 'a' + byte(i%23)
		}
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			_, _ = w.Write(body)
		})
	}
	return mux
}

// serveEcho serves visitors whose first byte says what they want: 'd' bytes for ever, 'u'
// to send for ever, 'e' that byte back and then every 64 bytes.
func serveEcho(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			mode := make([]byte, 1)
			if _, err := io.ReadFull(c, mode); err != nil {
				return
			}
			switch mode[0] {
			case 'd':
				for buf := make([]byte, 64<<10); err == nil; {
					_, err = c.Write(buf)
				}
			case 'u':
				_, _ = io.Copy(io.Discard, c)
			default:
				_, err = c.Write(mode)
				for buf := make([]byte, pingSize); err == nil; {
					if _, err = io.ReadFull(c, buf); err == nil {
						_, err = c.Write(buf)
					}
				}
			}
		}()
	}
}

// pingSize is the bytes of a ping-pong.
const pingSize = 64
