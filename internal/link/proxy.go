package link

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/proxy"
)

// Errors of proxies. They never tell user or password.
var (
	ErrProxy     = errors.New("the proxy does not let agents through")
	ErrProxyAuth = errors.New("the proxy wants a user and a password, or others: write http://USER:PASSWORD@HOST:PORT")
)

// defaultPorts are those of proxies, by the schemes that there are.
var defaultPorts = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}

// ErrProxyURL is what ParseProxy returns. It does not repeat the URL, which may hold a
// password.
var ErrProxyURL = errors.New("a proxy is written http://, https:// or socks5:// and then [USER:PASSWORD@]HOST[:PORT]")

// ParseProxy reads the URL of a proxy; one without a scheme is http.
func ParseProxy(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		u, err = url.Parse("http://" + s)
	}
	if err != nil || u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" {
		return nil, ErrProxyURL
	}
	port, known := defaultPorts[u.Scheme]
	if !known {
		return nil, ErrProxyURL
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), port)
	}
	return u, nil
}

// unreachableError says that there is no TCP connection: other transports over TCP would
// fail like the one that was tried.
type unreachableError struct{ error }

// Unwrap returns what happened.
func (e unreachableError) Unwrap() error { return e.error }

// connect makes a TCP connection to host:port, through a proxy if there is one for it.
// The proxy resolves the name.
func (d *Dialer) connect(ctx context.Context, address string) (net.Conn, error) {
	conn, err := d.connectBy(ctx, address)
	if err != nil {
		return nil, unreachableError{err}
	}
	return conn, nil
}

// Connect makes a TCP connection to an address as Dial does, and no more.
func (d *Dialer) Connect(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := d.limit(ctx)
	defer cancel()
	return d.connect(ctx, address)
}

func (d *Dialer) connectBy(ctx context.Context, address string) (net.Conn, error) {
	dialer := &net.Dialer{KeepAliveConfig: keepAlive, Resolver: d.Resolver}
	var via *url.URL
	if d.Proxy != nil {
		var err error
		if via, err = d.Proxy(address); err != nil {
			return nil, err
		}
	}
	if via == nil {
		return dialer.DialContext(ctx, "tcp", address) // *net.OpError names action and address
	}
	fail := func(err error) error { return fmt.Errorf("dial %s through proxy %s: %w", address, via.Host, err) }
	conn, err := dialer.DialContext(ctx, "tcp", via.Host)
	if err != nil {
		return nil, fail(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	through, err := passProxy(ctx, conn, via, address)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, fail(err)
	}
	return through, nil
}

// passProxy has a proxy, to which conn leads, connect to address.
func passProxy(ctx context.Context, conn net.Conn, via *url.URL, address string) (net.Conn, error) {
	switch via.Scheme {
	case "socks5", "socks5h":
		return conn, passSOCKS(ctx, conn, via, address)
	case "https":
		secure := tls.Client(conn, &tls.Config{MinVersion: tls.VersionTLS12, ServerName: via.Hostname()})
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		conn = secure
	}
	return conn, passHTTP(conn, via, address)
}

// maxProxyHead bounds the head of a proxy's answer, in bytes.
const maxProxyHead = 64 << 10

// passHTTP asks for a tunnel by CONNECT (RFC 9110, section 9.3.6).
func passHTTP(conn net.Conn, via *url.URL, address string) error {
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{"User-Agent": {"culvert"}}}
	if via.User != nil {
		password, _ := via.User.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(via.User.Username()+":"+password)))
	}
	if err := req.Write(conn); err != nil {
		return err
	}
	// What follows the head is not the proxy's: nothing may be read beyond it.
	res, err := http.ReadResponse(bufio.NewReader(io.LimitReader(oneByte{conn}, maxProxyHead)), req)
	if err != nil {
		return fmt.Errorf("%w: it does not answer as an HTTP proxy: %w", ErrProxy, err)
	}
	_ = res.Body.Close() // that of a tunnel is empty, and another one is of no use
	switch res.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusProxyAuthRequired:
		return ErrProxyAuth
	}
	return fmt.Errorf("%w: it answers %d %s", ErrProxy, res.StatusCode, http.StatusText(res.StatusCode))
}

// oneByte reads byte by byte.
type oneByte struct{ io.Reader }

func (r oneByte) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), 1)]) }

// passSOCKS asks for a tunnel by SOCKS5 (RFC 1928, RFC 1929).
func passSOCKS(ctx context.Context, conn net.Conn, via *url.URL, address string) error {
	var auth *proxy.Auth
	if via.User != nil {
		password, _ := via.User.Password()
		auth = &proxy.Auth{User: via.User.Username(), Password: password}
	}
	dialer, err := proxy.SOCKS5("tcp", via.Host, auth, connected{conn})
	if err != nil {
		return err
	}
	// The library wraps the connection; the socket below is what counts here.
	if _, err := dialer.(proxy.ContextDialer).DialContext(ctx, "tcp", address); err != nil {
		return fmt.Errorf("%w: %w", ErrProxy, err)
	}
	return nil
}

// connected is a dialer whose connection is there.
type connected struct{ conn net.Conn }

// Dial implements proxy.Dialer.
func (c connected) Dial(string, string) (net.Conn, error) { return c.conn, nil }

// DialContext implements proxy.ContextDialer.
func (c connected) DialContext(context.Context, string, string) (net.Conn, error) { return c.conn, nil }
