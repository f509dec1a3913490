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
	"path/filepath"
	"syscall"
	"time"

	"github.com/culvert-tunnel/culvert/internal/server/admin"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// adminClient speaks to a server through the socket in its data directory.
type adminClient struct {
	socket string
	http   http.Client
}

func newAdminClient(dataDir string) *adminClient {
	c := &adminClient{socket: filepath.Join(dataDir, admin.SocketFile)}
	c.http.Timeout = 30 * time.Second
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
		},
		DisableKeepAlives: true,
	}
	return c
}

// call sends in, if not nil, and reads the answer into out, if not nil.
func (c *adminClient) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://culvert"+path, body)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no server runs on %s: start it, or name its data directory with --data", filepath.Dir(c.socket))
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("no right to open %s: run this as the server's user", c.socket)
	case err != nil:
		return fmt.Errorf("ask the server: %w", err)
	}
	defer res.Body.Close() //nolint:errcheck // read
	if res.StatusCode >= 300 {
		var e admin.Error
		if err := json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&e); err != nil || e.Message == "" {
			return fmt.Errorf("the server answered %s", res.Status)
		}
		return fmt.Errorf("%s (%s)", tunnel.Clean(e.Message), tunnel.Clean(e.Code))
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(res.Body).Decode(out); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return nil
}
