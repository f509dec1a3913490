package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/culvert-tunnel/culvert/internal/server/store"
)

func reservations(t *testing.T, one, two *store.Store) {
	ctx, name := t.Context(), fresh()
	check(t, one.Reserve(ctx, name, "a"))
	check(t, two.Reserve(ctx, name, "a"))
	var reserved *store.ReservedError
	if err := two.Reserve(ctx, name, "b"); !errors.As(err, &reserved) || reserved.Token != "a" {
		t.Errorf("another's: %v", err)
	}
	eventually(t, "the reservation at the other", func() bool { r, ok := two.Reserved(name); return ok && r.Token == "a" })
	p := join(t, two)
	if _, err := p.Claim(ctx, route(name, "b", 1)); !errors.As(err, &reserved) {
		t.Errorf("bound in spite of a reservation: %v", err)
	}
	if !slices.ContainsFunc(one.Reservations(), func(r store.Reservation) bool { return r.Name == name && r.Kept }) {
		t.Error("not listed")
	}
	check(t, two.Unreserve(ctx, name))
	if err := two.Unreserve(ctx, name); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("released twice: %v", err)
	}
	if _, err := p.Claim(ctx, route(name, "b", 1)); err != nil {
		t.Errorf("after the release: %v", err)
	}
	var held *store.HeldError
	if err := one.Reserve(ctx, name, "a"); !errors.As(err, &held) {
		t.Errorf("reserved what another serves: %v", err)
	}
	check(t, one.Reserve(ctx, name, "token-of-b"))
}

// oneHost: a host belongs to one token, under all its names.
func oneHost(t *testing.T, one, two *store.Store) {
	ctx := t.Context()
	p := join(t, two)
	for reserved, others := range map[string][]string{
		"http://%s":          {"tls://%s", "http://%s/path"},
		"tls://%s":           {"http://%s", "http://%s/path"},
		"http://%s/path":     {"tls://%s"},
		"tls://*.%s":         {"tls://below.%s", "http://below.%s", "http://below.%s/path"},
		"http://%s/a/longer": {"tls://%s"},
	} {
		host := uuid.NewString() + ".example.com"
		name := fmt.Sprintf(reserved, host)
		check(t, one.Reserve(ctx, name, "a"))
		for _, other := range others {
			other = fmt.Sprintf(other, host)
			var barred *store.ReservedError
			if _, err := p.Claim(ctx, route(other, "b", 1)); !errors.As(err, &barred) || barred.Name != name {
				t.Errorf("%s reserved, %s bound: %v", name, other, err)
			}
			if err := two.Reserve(ctx, other, "b"); !errors.As(err, &barred) {
				t.Errorf("%s reserved, %s too: %v", name, other, err)
			}
			c := route(other, "x", 1)
			c.Token = "a"
			rec, err := p.Claim(ctx, c)
			check(t, err)
			check(t, p.Unclaim(ctx, rec))
		}
	}
	host := uuid.NewString() + ".example.com"
	served, err := p.Claim(ctx, route("tls://"+host, "x", 1))
	check(t, err)
	var held *store.HeldError
	if err := one.Reserve(ctx, "http://"+host, "another"); !errors.As(err, &held) {
		t.Errorf("reserved a host that another serves: %v", err)
	}
	check(t, p.Unclaim(ctx, served))
	check(t, one.Reserve(ctx, "http://"+host, "another"))
}

func customDomains(t *testing.T, one, two *store.Store) {
	ctx, name := t.Context(), fresh()
	a, b := join(t, one), join(t, two)
	c := route(name, "x", 1)
	c.Custom, c.Proof = true, true
	first, err := a.Claim(ctx, c)
	check(t, err)
	check(t, a.Unclaim(ctx, first))
	other := route(name, "y", 1)
	other.Custom, other.Proof = true, true
	var proof *store.ProofError
	if _, err := b.Claim(ctx, other); !errors.As(err, &proof) || proof.Last.Token != "token-of-x" {
		t.Errorf("without proof: %v", err)
	}
	for _, more := range []string{"/path", "tls"} {
		c := other
		if c.Name += more; more == "tls" {
			c.Name = "tls" + strings.TrimPrefix(name, "http")
		}
		if _, err := b.Claim(ctx, c); !errors.As(err, &proof) {
			t.Errorf("%s without proof: %v", c.Name, err)
		}
	}
	other.Proven = true
	second, err := b.Claim(ctx, other)
	check(t, err)
	check(t, b.Unclaim(ctx, second))
	if _, err := a.Claim(ctx, c); !errors.As(err, &proof) || proof.Last.Token != "token-of-y" {
		t.Errorf("the domain did not pass to who proved it: %v", err)
	}
	check(t, one.Unreserve(ctx, "tls"+strings.TrimPrefix(name, "http")))
	if _, err := a.Claim(ctx, c); err != nil {
		t.Errorf("after the operator's release: %v", err)
	}
}
