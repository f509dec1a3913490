package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/server/admin"
	"github.com/culvert-tunnel/culvert/internal/socket"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// adminFlags say which server is administered, and how it is reached.
type adminFlags struct {
	data      string // its data directory, on this machine
	url       string // its admin address
	tokenFile string
}

const adminHelp = `They speak to the running server through a unix socket in its data directory, as the
server's user; or, with --admin-url and an admin token in CULVERT_ADMIN_TOKEN or in the file of
--admin-token-file, to its admin address.`

func (f *adminFlags) add(cmd *cobra.Command, env *Env) {
	fs := cmd.PersistentFlags()
	fs.StringVar(&f.data, "data", "", "the server's data directory (default "+defaultData(env)+")")
	fs.StringVar(&f.url, "admin-url", "", "the server's admin address instead, such as http://127.0.0.1:4041")
	fs.StringVar(&f.tokenFile, "admin-token-file", "", "file with an admin token; CULVERT_ADMIN_TOKEN holds one, too")
}

// client makes the client that the flags ask for.
func (f *adminFlags) client(cmd *cobra.Command, env *Env) (*adminClient, error) {
	if err := overlay(cmd, env, nil); err != nil {
		return nil, err
	}
	if f.url == "" {
		if f.data == "" {
			f.data = defaultData(env)
		}
		return newAdminClient(f.data), nil
	}
	token, _ := env.LookupEnv("CULVERT_ADMIN_TOKEN")
	if f.tokenFile != "" {
		b, err := os.ReadFile(f.tokenFile)
		if err != nil {
			return nil, usagef("--admin-token-file: %w", err)
		}
		token = string(b)
	}
	t, err := tunnel.ParseToken(token)
	if err != nil {
		return nil, usagef("--admin-url needs an admin token: put one that culvert token create --admin made into CULVERT_ADMIN_TOKEN")
	}
	u, err := url.Parse(f.url)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || (u.Scheme != "http" && u.Scheme != "https"):
		return nil, usagef("--admin-url %q: write it like http://127.0.0.1:4041", f.url)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return nil, usagef("--admin-url %s: the token would cross the network unencrypted: use https, or a tunnel to the server's loopback address", f.url)
	}
	return &adminClient{base: strings.TrimSuffix(u.String(), "/"), token: t.Credential(), http: http.Client{Timeout: 30 * time.Second}}, nil
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// adminClient speaks to a server.
type adminClient struct {
	socket string // empty: by base and token
	base   string
	token  string
	http   http.Client
}

// newAdminClient speaks through the socket in a data directory.
func newAdminClient(dataDir string) *adminClient {
	c := &adminClient{socket: filepath.Join(dataDir, admin.SocketFile), base: "http://culvert"}
	c.http.Timeout = 30 * time.Second
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			path, err := socket.Shorten(c.socket)
			if err != nil {
				return nil, err
			}
			defer path.Close()
			return (&net.Dialer{}).DialContext(ctx, "unix", path.Name)
		},
		DisableKeepAlives: true,
	}
	return c
}

// call sends in, if not nil, and reads the answer into out, if not nil.
func (c *adminClient) call(ctx context.Context, method, path string, in, out any) error {
	res, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer res.Body.Close() //nolint:errcheck // read
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(res.Body).Decode(out); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return nil
}

// send sends in, if not nil, and returns an answer that is a success, whose body the caller
// closes.
func (c *adminClient) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+"/api/v1"+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	res, err := c.http.Do(req)
	switch {
	case c.socket != "" && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)):
		return nil, fmt.Errorf("no server runs on %s: start it, or name its data directory with --data", filepath.Dir(c.socket))
	case c.socket != "" && errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("no right to open %s: run this as the server's user", c.socket)
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("no server answers at %s: check --admin-url, and the server's --admin", c.base)
	case err != nil:
		return nil, fmt.Errorf("ask the server: %w", err)
	}
	if res.StatusCode >= 300 {
		defer res.Body.Close() //nolint:errcheck // read
		return nil, problem(res)
	}
	return res, nil
}

// problem reads what the server has against a request.
func problem(res *http.Response) error {
	var p admin.ProblemError
	if err := json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&p); err != nil || p.Detail == "" {
		return fmt.Errorf("the server answered %s", res.Status)
	}
	for _, e := range p.Errors {
		p.Detail += "; " + e.Message + " (" + e.Location + ")"
	}
	if p.Code != "" {
		p.Detail += " (" + p.Code + ")"
	}
	return errors.New(tunnel.Clean(p.Detail))
}
