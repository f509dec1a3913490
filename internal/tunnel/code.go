package tunnel

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// Code names what went wrong in a way programs can compare. Codes cross the wire
// and appear in logs, in the Culvert-Error header and in documentation, so a code
// once published keeps its meaning.
type Code string

// Codes of a Refusal: the link was not accepted.
const (
	CodeBadHello           Code = "bad_hello"
	CodeVersionUnsupported Code = "version_unsupported"
	CodeModeUnsupported    Code = "mode_unsupported"
	CodeTokenInvalid       Code = "token_invalid"
	CodeTokenExpired       Code = "token_expired"
	CodeDraining           Code = "server_draining"
	CodeTooManySessions    Code = "too_many_sessions"
	CodeTooManyLinks       Code = "too_many_links"
)

// Codes of a Refused: the endpoint was not bound.
const (
	CodeNameTaken        Code = "name_taken"
	CodeNameInvalid      Code = "name_invalid"
	CodeNameReserved     Code = "name_reserved"
	CodeNotAllowed       Code = "not_allowed"
	CodePortTaken        Code = "port_taken"
	CodePortOutsideRange Code = "port_outside_range"
	CodePortsExhausted   Code = "ports_exhausted"
	CodeKindUnsupported  Code = "kind_unsupported"
	CodeTooManyEndpoints Code = "too_many_endpoints"
	CodeDomainUnproven   Code = "domain_unproven"
	CodePoolMismatch     Code = "pool_mismatch"
	CodePoolFull         Code = "pool_full"
	CodeStoreUnavailable Code = "store_unavailable"
	CodeInternal         Code = "internal"
)

// Codes of an Unbound and of refusals to bind again.
const (
	CodeSuperseded Code = "superseded"
)

// Codes of a Notice.
const (
	CodeNoCertificate Code = "no_certificate"
)

// Codes of a StreamReply, and of the errors a visitor sees.
const (
	CodeEndpointNotFound    Code = "endpoint_not_found"
	CodeEndpointOffline     Code = "endpoint_offline"
	CodeUpstreamRefused     Code = "upstream_refused"
	CodeUpstreamUnreachable Code = "upstream_unreachable"
	CodeUpstreamTimeout     Code = "upstream_timeout"
	CodeUpstreamTLS         Code = "upstream_tls"
	CodeUpstreamClosed      Code = "upstream_closed"
	CodeMisdirected         Code = "misdirected"
	CodePolicyDenied        Code = "policy_denied"
	CodeCertificateRequired Code = "certificate_required"
	CodeRateLimited         Code = "rate_limited"
	CodeTooManyConnections  Code = "too_many_connections"
	CodeBadRequest          Code = "bad_request"
	CodeMethodRefused       Code = "method_refused"
	CodeRequestTimeout      Code = "request_timeout"
	CodeHeadTooLarge        Code = "head_too_large"
	CodeCodingRefused       Code = "coding_refused"
	CodeVersionRefused      Code = "version_refused"
	CodeUpstreamProtocol    Code = "upstream_protocol"
)

// CodeError is a code as an error: errors.Is(err, CodeError(code)) finds an error that
// carries the code.
type CodeError Code

func (e CodeError) Error() string { return string(e) }

// is answers errors.Is for an error with a code.
func (c Code) is(target error) bool {
	e, ok := target.(CodeError) //nolint:errorlint // what is looked for, not what is looked at
	return ok && Code(e) == c
}

// Is says whether target is the code.
func (e *RefusalError) Is(target error) bool { return e.Code.is(target) }

// Is says whether target is the code.
func (e *BindError) Is(target error) bool { return e.Code.is(target) }

// RefusalError is a Refusal as an error: the node does not accept this link.
type RefusalError struct {
	Code       Code
	Message    string // a sentence for the user, from the node
	Retryable  bool   // whether the same Hello may be accepted later
	RetryAfter time.Duration
}

func (e *RefusalError) Error() string {
	return fmt.Sprintf("server refused this agent: %s (%s)", Clean(e.Message), Clean(string(e.Code)))
}

// BindError says why an endpoint was not bound, or is bound no longer.
type BindError struct {
	Code      Code
	Message   string
	Retryable bool // whether the same Bind may succeed later
}

func (e *BindError) Error() string {
	return fmt.Sprintf("%s (%s)", Clean(e.Message), Clean(string(e.Code)))
}

// StreamError is a StreamReply that says no: the agent could not reach the
// upstream for this stream.
type StreamError struct {
	Code    Code
	Message string
}

func (e *StreamError) Error() string {
	return fmt.Sprintf("agent: %s (%s)", Clean(e.Message), Clean(string(e.Code)))
}

// Clean makes text from the other side fit for a terminal or a log line: control
// characters are replaced, and it is cut at 500 bytes.
func Clean(s string) string {
	if len(s) > 500 {
		s = strings.ToValidUTF8(s[:500], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}
