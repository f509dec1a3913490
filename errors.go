package culvert

import (
	"errors"
	"fmt"

	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Errors that errors.Is finds in those of this package. They are the codes of
// docs/protocol.md as errors.
var (
	// The server refused the agent.
	ErrTokenInvalid       error = tunnel.CodeError(tunnel.CodeTokenInvalid)
	ErrVersionUnsupported error = tunnel.CodeError(tunnel.CodeVersionUnsupported)
	ErrTooManySessions    error = tunnel.CodeError(tunnel.CodeTooManySessions)
	ErrDraining           error = tunnel.CodeError(tunnel.CodeDraining)

	// The server refused an endpoint.
	ErrNameTaken        error = tunnel.CodeError(tunnel.CodeNameTaken)
	ErrNameInvalid      error = tunnel.CodeError(tunnel.CodeNameInvalid)
	ErrNameReserved     error = tunnel.CodeError(tunnel.CodeNameReserved)
	ErrNotAllowed       error = tunnel.CodeError(tunnel.CodeNotAllowed)
	ErrPortTaken        error = tunnel.CodeError(tunnel.CodePortTaken)
	ErrPortOutsideRange error = tunnel.CodeError(tunnel.CodePortOutsideRange)
	ErrPortsExhausted   error = tunnel.CodeError(tunnel.CodePortsExhausted)
	ErrKindUnsupported  error = tunnel.CodeError(tunnel.CodeKindUnsupported)
	ErrTooManyEndpoints error = tunnel.CodeError(tunnel.CodeTooManyEndpoints)

	// A newer run of the same agent took an endpoint over (Config.State).
	ErrSuperseded error = tunnel.CodeError(tunnel.CodeSuperseded)

	// Whoever answered is not the server that the token or Config.Roots vouch for.
	ErrUntrusted = errors.New("the server can't be trusted")
)

// wrap makes ErrUntrusted of what internal packages tell by a function.
func wrap(err error) error {
	if link.Untrusted(err) {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	return err
}
