package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/crypto/ocsp"
)

// Times and sizes of OCSP (RFC 6960) for given certificates. CertMagic does the same
// for those by ACME.
const (
	stapleTick    = time.Minute      // how often it is looked for answers to renew
	stapleRetry   = 10 * time.Minute // after a failure
	stapleTimeout = 10 * time.Second // for one answer
	stapleMax     = 64 << 10         // bytes of one
)

// keepStapled gets OCSP answers for the certificates that name a responder, and renews
// each when half of its time is over, until ctx ends.
func (g *given) keepStapled(ctx context.Context, every time.Duration) {
	client := &http.Client{Timeout: stapleTimeout}
	defer client.CloseIdleConnections()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		for i, c := range g.all() {
			if c.responder() == "" || time.Now().Before(c.restaple) {
				continue
			}
			next, err := c.staple(ctx, client)
			if err != nil && ctx.Err() == nil {
				g.log.Warn("no OCSP answer for a given certificate", "cert", g.pairs[i].Cert, "error", err, "retry_in", stapleRetry.String())
			}
			g.replace(i, c, next)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// replace puts next in the place of old, unless the file was read again meanwhile.
func (g *given) replace(i int, old, next *givenCert) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.certs[i] == old {
		g.mu.certs[i] = next
	}
}

// responder is the URL that answers for c; empty: nobody does.
func (c *givenCert) responder() string {
	if c.issuer == nil || len(c.Leaf.OCSPServer) == 0 {
		return ""
	}
	return c.Leaf.OCSPServer[0]
}

// staple returns c with a fresh answer, or, with the error, as long as it is valid
// with the old one.
func (c *givenCert) staple(ctx context.Context, client *http.Client) (*givenCert, error) {
	now := time.Now()
	next := *c
	raw, answer, err := ask(ctx, client, c)
	if err != nil {
		next.restaple = now.Add(stapleRetry)
		if now.After(c.stapledUntil) {
			next.Certificate = withStaple(c.Certificate, nil)
		}
		return &next, err
	}
	next.Certificate = withStaple(c.Certificate, raw)
	next.stapledUntil = answer.NextUpdate
	next.restaple = answer.ThisUpdate.Add(answer.NextUpdate.Sub(answer.ThisUpdate) / 2)
	if soonest := now.Add(stapleTick); next.restaple.Before(soonest) {
		next.restaple = soonest
	}
	return &next, nil
}

func withStaple(c *tls.Certificate, raw []byte) *tls.Certificate {
	stapled := *c
	stapled.OCSPStaple = raw
	return &stapled
}

// errRevoked says that a CA does not stand by a certificate any longer.
var errRevoked = errors.New("the CA has revoked this certificate: replace it")

// ask gets the answer for c.
func ask(ctx context.Context, client *http.Client, c *givenCert) ([]byte, *ocsp.Response, error) {
	request, err := ocsp.CreateRequest(c.Leaf, c.issuer, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("make OCSP request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.responder(), bytes.NewReader(request))
	if err != nil {
		return nil, nil, fmt.Errorf("make OCSP request: %w", err)
	}
	req.Header.Set("Content-Type", "application/ocsp-request")
	res, err := client.Do(req)
	if err != nil {
		return nil, nil, fmt.Errorf("ask for OCSP: %w", err)
	}
	defer res.Body.Close() //nolint:errcheck // read
	raw, err := io.ReadAll(io.LimitReader(res.Body, stapleMax))
	if err != nil {
		return nil, nil, fmt.Errorf("read OCSP answer: %w", err)
	}
	answer, err := ocsp.ParseResponseForCert(raw, c.Leaf, c.issuer)
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("read OCSP answer of %s: %w", res.Status, err)
	case answer.Status == ocsp.Revoked:
		return nil, nil, errRevoked
	case answer.Status != ocsp.Good || !time.Now().Before(answer.NextUpdate):
		return nil, nil, fmt.Errorf("read OCSP answer: %w", errStale)
	}
	return raw, answer, nil
}

var errStale = errors.New("it says nothing about now")
