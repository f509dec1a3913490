// Package certs owns the certificates a node shows: those given as files, and
// those of the node's own CA, which it makes on first start and which signs its
// link certificate and, for names no given certificate covers, visitors' ones.
package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/culvert-tunnel/culvert/internal/server/store"
)

// Life of the certificates. A leaf lives shorter than a node usually runs, so it is
// made again in time (renewBefore).
const (
	caLife      = 20 * 365 * 24 * time.Hour
	leafLife    = 90 * 24 * time.Hour
	renewBefore = 30 * 24 * time.Hour
)

// CA is a node's own certificate authority.
type CA struct {
	Certificate *x509.Certificate
	key         crypto.Signer
	leafKey     *ecdsa.PrivateKey // one key for all leaves: making one costs more than signing
	resetKey    [32]byte
}

// Files of the CA in the data directory. Both lie in one file with the key, so
// that they can't part (CABundle); CAFile holds the certificate alone, for handing out.
const (
	CABundle = "ca-key.pem"
	CAFile   = "ca.pem"
)

// OpenCA reads the CA in dir, or makes one.
func OpenCA(dir string) (*CA, error) {
	path := filepath.Join(dir, CABundle)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if b, err = makeCA(); err == nil {
			err = store.WriteFile(path, b)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open CA: %w", err)
	}
	pair, err := tls.X509KeyPair(b, b)
	if err != nil {
		return nil, fmt.Errorf("open CA %s: %w: %w", path, ErrBadCA, err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("open CA %s: %w", path, ErrBadCA)
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make leaf key: %w", err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Leaf.Raw})
	if have, err := os.ReadFile(filepath.Join(dir, CAFile)); err != nil || string(have) != string(public) {
		if err := store.WriteFile(filepath.Join(dir, CAFile), public); err != nil {
			return nil, fmt.Errorf("write CA certificate: %w", err)
		}
	}
	ca := &CA{Certificate: pair.Leaf, key: key, leafKey: leafKey}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("open CA: %w", err)
	}
	derived, err := hkdf.Key(sha256.New, secret, nil, "culvert QUIC stateless reset", len(ca.resetKey))
	if err != nil {
		return nil, fmt.Errorf("open CA: %w", err)
	}
	copy(ca.resetKey[:], derived)
	return ca, nil
}

// ReadCA returns the file of the CA in dir, for a node that is to have the same.
func ReadCA(dir string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, CABundle)) }

// ErrOtherCA says that there is a CA already, which agents trust.
var ErrOtherCA = errors.New("the data directory has a CA of its own, which agents may trust: choose a new one")

// AdoptCA makes another node's CA that of dir.
func AdoptCA(dir string, bundle []byte) error {
	switch have, err := ReadCA(dir); {
	case err == nil && string(have) == string(bundle):
		return nil
	case err == nil:
		return ErrOtherCA
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("adopt CA: %w", err)
	}
	if pair, err := tls.X509KeyPair(bundle, bundle); err != nil || !pair.Leaf.IsCA {
		return fmt.Errorf("adopt CA: %w", ErrBadCA)
	}
	return store.WriteFile(filepath.Join(dir, CABundle), bundle)
}

// ErrBadCA says that the file of the CA holds something else. Nothing is put in its
// place: agents trust no other CA.
var ErrBadCA = errors.New("this is not a CA with its key: restore it from a backup (agents trust no other), or remove it and make new tokens")

func makeCA() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Culvert CA " + serial.Text(36)[:8]},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return append(b, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...), nil
}

func serialNumber() (*big.Int, error) {
	limit := new(big.Int).Lsh(big.NewInt(1), 127)
	n, err := rand.Int(rand.Reader, limit)
	if err != nil {
		return nil, err
	}
	return n.Add(n, limit), nil // always 128 bits, so that its text is long enough
}

// Issue makes a certificate for a host name or IP address, with the CA's behind it
// so that who pins the CA finds it.
func (ca *CA) Issue(host string) (*tls.Certificate, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{"Culvert"}},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(leafLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Certificate, ca.leafKey.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for %s: %w", host, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for %s: %w", host, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, ca.Certificate.Raw}, PrivateKey: ca.leafKey, Leaf: leaf}, nil
}
