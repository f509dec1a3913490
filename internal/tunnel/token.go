package tunnel

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"errors"
	"log/slog"
	"strings"
)

// Token is the credential of an agent: cvt_<id>_<secret>[_<fingerprint>], each
// part in lower-case base32 without padding (RFC 4648, section 6).
type Token struct {
	ID          string // names the token in lists and logs; 10 characters, 50 bits
	Secret      string // 32 characters, 160 bits
	Fingerprint string // of the CA that signs the node's link certificate, or empty
}

// ErrTokenForm says that a string is not a token. It never holds the string.
var ErrTokenForm = errors.New("not a Culvert token: it has the form cvt_<id>_<secret>_<fingerprint>")

const (
	tokenPrefix    = "cvt"
	tokenIDLen     = 10
	tokenSecretLen = 32
)

var tokenEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewToken makes a token with a fresh id and secret.
func NewToken(fingerprint string) Token {
	return Token{
		ID:          randomBase32(tokenIDLen),
		Secret:      randomBase32(tokenSecretLen),
		Fingerprint: fingerprint,
	}
}

func randomBase32(chars int) string {
	b := make([]byte, (chars*5+7)/8)
	_, _ = rand.Read(b) // never returns an error (crypto/rand)
	return tokenEncoding.EncodeToString(b)[:chars]
}

// ParseToken reads a token. White space around it is ignored, because tokens are
// pasted.
func ParseToken(s string) (Token, error) {
	parts := strings.Split(strings.TrimSpace(s), "_")
	if len(parts) < 3 || len(parts) > 4 || parts[0] != tokenPrefix {
		return Token{}, ErrTokenForm
	}
	t := Token{ID: parts[1], Secret: parts[2]}
	if len(t.ID) != tokenIDLen || len(t.Secret) != tokenSecretLen || !isBase32(t.ID) || !isBase32(t.Secret) {
		return Token{}, ErrTokenForm
	}
	if len(parts) == 4 {
		t.Fingerprint = parts[3]
		if b, err := tokenEncoding.DecodeString(t.Fingerprint); err != nil || len(b) != sha256.Size {
			return Token{}, ErrTokenForm
		}
	}
	return t, nil
}

func isBase32(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '2' || r > '7')
	}) < 0
}

// Reveal returns the whole token, for showing it once to its owner.
func (t Token) Reveal() string {
	s := t.Credential()
	if t.Fingerprint != "" {
		s += "_" + t.Fingerprint
	}
	return s
}

// Credential returns the part of the token that goes into a Hello.
func (t Token) Credential() string { return tokenPrefix + "_" + t.ID + "_" + t.Secret }

// String hides the secret, so that a token that strays into a message does no harm.
func (t Token) String() string { return tokenPrefix + "_" + t.ID + "_…" }

// GoString hides the secret from %#v.
func (t Token) GoString() string { return t.String() }

// MarshalText hides the secret where a token within something else is encoded; Reveal
// is the one way to the whole.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// LogValue hides the secret in logs.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// Fingerprint identifies a CA by the SHA-256 of its SubjectPublicKeyInfo
// (RFC 7469, section 2.4), in the encoding of tokens.
func Fingerprint(ca *x509.Certificate) string {
	sum := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
	return tokenEncoding.EncodeToString(sum[:])
}
