package certs

import (
	"crypto/x509"
	"slices"
	"strings"
	"time"
)

// Status is what an operator sees of a certificate.
type Status struct {
	Host    string // or a wildcard
	File    bool   // given as file, else by ACME
	Pending bool   // an order is under way
	Issuer  string // empty: there is none
	Expires time.Time
	Err     error     // of the last order, if it failed
	Retry   time.Time // when it is made again
}

// List returns the given certificates and those by ACME, by host. Those of the own CA
// are made when they are asked for, and not listed.
func (m *Manager) List() []Status {
	list := []Status{}
	for _, c := range m.given.all() {
		for _, name := range c.Leaf.DNSNames {
			list = append(list, Status{Host: name, File: true, Issuer: issuer(c.Leaf), Expires: c.Leaf.NotAfter})
		}
	}
	if m.acme != nil {
		for subject, o := range m.acme.orders.states() {
			s := Status{Host: subject, Pending: o.busy, Err: o.err}
			if o.err != nil {
				s.Retry = o.next
			}
			// Any name below stands for a wildcard.
			if c := m.acme.lookup(strings.Replace(subject, "*", "any", 1)); c != nil {
				s.Issuer, s.Expires = issuer(c.Leaf), c.Leaf.NotAfter
			}
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b Status) int { return strings.Compare(a.Host, b.Host) })
	return list
}

func issuer(c *x509.Certificate) string {
	if c.Issuer.CommonName != "" {
		return c.Issuer.CommonName
	}
	return strings.Join(c.Issuer.Organization, ", ")
}
