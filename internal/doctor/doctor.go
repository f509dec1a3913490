// Package doctor looks for what keeps an agent or a server from working, and says
// what to do about it. It asks the same questions of the network that agent and server
// do, from the outside: it changes nothing and is no part of the walk.
package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// Status of a finding.
type Status string

// The statuses. Only Fail means that something does not work.
const (
	OK   Status = "ok"
	Warn Status = "warn"
	Fail Status = "fail"
	Skip Status = "skip" // could not be looked at; Detail says why
)

// Finding is the answer to one question.
type Finding struct {
	Check  string `json:"check"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
	Advice string `json:"advice,omitempty"` // what to do, for Warn and Fail
}

// Report gathers findings. Tell, if set, is told each at once.
type Report struct {
	Findings []Finding
	Tell     func(Finding)
}

// OK reports whether nothing failed.
func (r *Report) OK() bool {
	return !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Status == Fail })
}

func (r *Report) add(check string, status Status, advice, format string, args ...any) {
	f := Finding{Check: check, Status: status, Advice: advice, Detail: fmt.Sprintf(format, args...)}
	r.Findings = append(r.Findings, f)
	if r.Tell != nil {
		r.Tell(f)
	}
}

// stepTimeout bounds each question that is asked of the network.
const stepTimeout = 10 * time.Second

// lookup resolves a host. A host that is an address is its own answer.
func lookup(ctx context.Context, resolver *net.Resolver, host string) ([]string, error) {
	if ip := net.ParseIP(host); ip != nil {
		return []string{ip.String()}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	if strings.Contains(host, ".") && !strings.HasSuffix(host, ".") {
		host += "." // as it is, and not with a search domain behind it
	}
	addresses, err := resolver.LookupHost(ctx, host)
	slices.Sort(addresses)
	return addresses, err
}

// plain says what an error of the network means without what the reader knows.
func plain(err error) string {
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return "no such name"
	case errors.As(err, &dns) && dns.IsTimeout, errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.As(err, &dns):
		return dns.Err
	case errors.As(err, &op) && op.Err != nil:
		return op.Err.Error()
	}
	return err.Error()
}

// Times of certificates.
const (
	soon = 14 * 24 * time.Hour // before the end of a certificate, to say so
	day  = 24 * time.Hour
)

// certificate judges how long a certificate is still good for.
func (r *Report) certificate(check, what string, c *x509.Certificate, now time.Time) {
	until := c.NotAfter.UTC().Format(time.DateOnly)
	left := c.NotAfter.Sub(now)
	switch {
	case now.Before(c.NotBefore):
		r.add(check, Fail, "set this machine's clock, or wait", "%s is valid only from %s on", what, c.NotBefore.UTC().Format(time.DateTime))
	case left <= 0:
		r.add(check, Fail, "renew it", "%s has expired on %s", what, until)
	case left < soon && c.NotAfter.Sub(c.NotBefore) > 2*soon:
		r.add(check, Warn, "renew it, and see why that did not happen by itself", "%s expires in %d days, on %s", what, left/day, until)
	default:
		r.add(check, OK, "", "%s is good until %s, from %s", what, until, issuer(c))
	}
}

func issuer(c *x509.Certificate) string {
	if c.Issuer.CommonName != "" {
		return c.Issuer.CommonName
	}
	return strings.Join(c.Issuer.Organization, " ")
}

// presented returns the certificates that a TLS server shows for a name, whether or not
// they can be trusted: nothing is said to it.
func presented(ctx context.Context, resolver *net.Resolver, address, name string, protocols ...string) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	d := tls.Dialer{NetDialer: &net.Dialer{Resolver: resolver}, Config: &tls.Config{
		ServerName: name, NextProtos: protocols, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // to see what is wrong with them; the connection is then closed
	}}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer c.Close() //nolint:errcheck // looked at
	return c.(*tls.Conn).ConnectionState().PeerCertificates, nil
}
