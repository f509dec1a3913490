package store

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// External is an etcd that somebody else runs. Secrets come from files: command lines and
// environments are read by others.
type External struct {
	URLs         []string // https://host:2379 …; http:// for a host nobody else listens on
	CAFile       string   // CAs of the members' certificates; empty: the system's
	CertFile     string   // client certificate and its key
	KeyFile      string
	User         string
	PasswordFile string
	Prefix       string // of all keys, with a final slash; default culvert/
}

// ErrExternal says that the description of an external etcd makes no sense.
var ErrExternal = errors.New("wrong description of the external etcd")

// keepAliveTime is the silence after which a connection with something under way is tried.
// etcd ends connections on which that comes more often than every 5 s, or without need.
const keepAliveTime = 7 * time.Second

// config checks the description and reads its files.
func (e External) config() (clientv3.Config, error) {
	c := clientv3.Config{
		Endpoints: e.URLs, Username: e.User, DialTimeout: 5 * time.Second,
		// A member that is gone without a word is noticed, and another one asked.
		DialKeepAliveTime: keepAliveTime, DialKeepAliveTimeout: 3 * time.Second,
	}
	secure := 0
	for _, u := range e.URLs {
		switch scheme, rest, _ := strings.Cut(u, "://"); {
		case rest == "" || strings.Contains(rest, "@"):
			return c, fmt.Errorf("%w: write each URL as https://host:2379, and the user with its password in a file", ErrExternal)
		case scheme == "https":
			secure++
		case scheme != "http":
			return c, fmt.Errorf("%w: the scheme of %q is https, or http", ErrExternal, u)
		}
	}
	if secure != 0 && secure != len(e.URLs) {
		return c, fmt.Errorf("%w: all URLs have the same scheme", ErrExternal)
	}
	if e.Prefix != "" && !strings.HasSuffix(e.Prefix, "/") {
		return c, fmt.Errorf("%w: the prefix ends with a slash", ErrExternal)
	}
	if (e.User == "") != (e.PasswordFile == "") {
		return c, fmt.Errorf("%w: a user needs a file with the password, and the reverse", ErrExternal)
	}
	if e.PasswordFile != "" {
		b, err := os.ReadFile(e.PasswordFile)
		if err != nil {
			return c, fmt.Errorf("%w: read the password: %w", ErrExternal, err)
		}
		c.Password = strings.TrimRight(string(b), "\r\n")
	}
	if secure == 0 {
		if e.CAFile != "" || e.CertFile != "" || e.KeyFile != "" {
			return c, fmt.Errorf("%w: certificates need https URLs", ErrExternal)
		}
		return c, nil
	}
	var err error
	c.TLS, err = e.tls()
	return c, err
}

func (e External) tls() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if e.CAFile != "" {
		b, err := os.ReadFile(e.CAFile)
		if err != nil {
			return nil, fmt.Errorf("%w: read the CA: %w", ErrExternal, err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("%w: %s holds no certificate", ErrExternal, e.CAFile)
		}
	}
	if (e.CertFile == "") != (e.KeyFile == "") {
		return nil, fmt.Errorf("%w: client certificate and key go together", ErrExternal)
	}
	if e.CertFile == "" {
		return cfg, nil
	}
	if _, err := tls.LoadX509KeyPair(e.CertFile, e.KeyFile); err != nil {
		return nil, fmt.Errorf("%w: load the client certificate: %w", ErrExternal, err)
	}
	// Read at each connection: short-lived certificates are renewed in place.
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		cert, err := tls.LoadX509KeyPair(e.CertFile, e.KeyFile)
		return &cert, err
	}
	return cfg, nil
}
