package auth

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Domains judges who controls a domain. The zero value asks the system's resolver.
type Domains struct {
	Resolver *net.Resolver
}

// lookupTimeout bounds the look for a TXT record.
const lookupTimeout = 5 * time.Second

// proofLabel is the name below a domain at which the record stands.
const proofLabel = "_culvert"

// Prove is nil if the domain's TXT record names the token. Its error is a *tunnel.BindError
// that says what to set. A token's id is no secret: the record shows who may write to the
// domain, and names the one token that this is for.
func (d Domains) Prove(ctx context.Context, host, token string) error {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	r := d.Resolver
	if r == nil {
		r = net.DefaultResolver
	}
	name := proofLabel + "." + strings.TrimPrefix(host, "*.")
	want := "culvert-token=" + token
	records, err := r.LookupTXT(ctx, name+".") // as it stands, no search list
	if slices.Contains(records, want) {
		return nil
	}
	why := &tunnel.BindError{
		Code:    tunnel.CodeDomainUnproven,
		Message: fmt.Sprintf("%s was another token's before: to show that it is yours, set the TXT record %s to %s, then try again; or ask the server's operator to release it", host, name, want),
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && !dns.IsNotFound {
		why.Message = fmt.Sprintf("%s was another token's before, and its TXT record %s can't be looked up at the moment", host, name)
		why.Retryable = true
	}
	return why
}
