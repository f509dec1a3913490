package endpoint

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
)

// CAs are those of which visitors of an endpoint must show a certificate.
type CAs struct {
	PEM string // canonical: nothing but the certificates
	// sums are the certificates' SHA-256. They themselves take ten times the memory, and an
	// agent may have a thousand endpoints.
	sums [][sha256.Size]byte
}

// MaxClientCA bounds CAs.PEM, which an agent sends with its Bind, in bytes.
const MaxClientCA = 16 << 10

// Errors of ParseCAs.
var (
	ErrNoCA       = errors.New("it holds no certificate (PEM)")
	ErrCAKey      = errors.New("it holds a private key too, which is nobody else's to see: name a file with the certificates alone")
	ErrCATooLarge = fmt.Errorf("its certificates are over %d KiB", MaxClientCA>>10)
)

// ParseCAs reads certificates in PEM. What stands between the blocks is left out. A block
// that is no certificate is an error, and so is a certificate that can't be read: a CA left
// out would be noticed by those whom it has certified.
func ParseCAs(text string) (*CAs, error) {
	c := &CAs{}
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch block.Type {
		case "CERTIFICATE":
		case "PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
			return nil, ErrCAKey
		default:
			return nil, fmt.Errorf("it holds a %q, which is no certificate", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, fmt.Errorf("its certificate %d: %w", len(c.sums)+1, err)
		}
		c.sums = append(c.sums, sha256.Sum256(block.Bytes))
		c.PEM += string(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
		if len(c.PEM) > MaxClientCA {
			return nil, ErrCATooLarge
		}
	}
	if len(c.sums) == 0 {
		return nil, ErrNoCA
	}
	return c, nil
}

// Vouched returns the certificate that one of the verified chains leads from to one of the
// CAs; nil: none does.
func (c *CAs) Vouched(chains [][]*x509.Certificate) *x509.Certificate {
	for _, chain := range chains {
		if len(chain) > 0 && slices.Contains(c.sums, sha256.Sum256(chain[len(chain)-1].Raw)) {
			return chain[0]
		}
	}
	return nil
}
