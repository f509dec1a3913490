package peer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/server/store"
)

// Protocols of the port for nodes. etcd's members, who dial each other, name none.
const (
	ALPN      = "culvert-peer/1"  // visitors
	alpnStore = "culvert-store/1" // clients of the other node's member of the store
	alpnJoin  = "culvert-join/1"  // nodes to be, who have a token and no certificate yet
)

// Lives of certificates. A node's own is made anew in memory long before its end.
const (
	caLife   = 20 * 365 * 24 * time.Hour
	leafLife = 7 * 24 * time.Hour
	renewal  = 24 * time.Hour
	backdate = time.Hour // for clocks that differ
)

var errNoSigner = errors.New("the cluster's key can't sign")

// NewAuthority makes a CA for a cluster.
func NewAuthority() (store.Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return store.Authority{}, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "Culvert cluster"},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(caLife), KeyUsage: x509.KeyUsageCertSign,
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return store.Authority{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return store.Authority{Cert: cert, Key: der}, err
}

// identity is this node's certificate, which names it by its id and, as all of the
// cluster's do, by nodeName.
type identity struct {
	node  string
	file  string // where the certificate is kept for who reads it there; empty: nowhere
	ca    *x509.Certificate
	signs crypto.Signer
	roots *x509.CertPool

	mu struct {
		sync.Mutex
		cert *tls.Certificate
		made time.Time
	}
}

func newIdentity(node string, a store.Authority, file string) (*identity, error) {
	ca, err := x509.ParseCertificate(a.Cert)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's CA: %w", err)
	}
	key, err := x509.ParsePKCS8PrivateKey(a.Key)
	if err != nil {
		return nil, errors.Join(errNoSigner, err)
	}
	signs, ok := key.(crypto.Signer)
	if !ok {
		return nil, errNoSigner
	}
	i := &identity{node: node, file: file, ca: ca, signs: signs, roots: x509.NewCertPool()}
	i.roots.AddCert(ca)
	_, err = i.certificate()
	return i, err
}

// certificate returns the present certificate, or a new one when it is getting old.
func (i *identity) certificate() (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.mu.cert != nil && time.Since(i.mu.made) < renewal {
		return i.mu.cert, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "Culvert node"}, DNSNames: []string{i.node, nodeName},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(leafLife), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, i.ca, key.Public(), i.signs)
	if err != nil {
		return nil, fmt.Errorf("issue the node's certificate: %w", err)
	}
	cert := &tls.Certificate{Certificate: [][]byte{der, i.ca.Raw}, PrivateKey: key} // the CA's for who has only its fingerprint
	if i.file != "" {
		if err := writePair(i.file, cert.Certificate, key); err != nil {
			return nil, err
		}
	}
	i.mu.cert, i.mu.made = cert, now
	return cert, nil
}

// accepts is the configuration for who dials this node.
func (i *identity) accepts() *tls.Config {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{ALPN, alpnStore}, DynamicRecordSizingDisabled: true,
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: i.roots, SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return i.certificate() },
	}
	joins := cfg.Clone()
	joins.NextProtos, joins.ClientAuth = []string{alpnJoin}, tls.NoClientCert
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Equal(hello.SupportedProtos, joins.NextProtos) {
			return joins, nil
		}
		return nil, nil //nolint:nilnil // the configuration is cfg
	}
	return cfg
}

// dials is the configuration to dial a node by a name that is in its certificate.
func (i *identity) dials(name, alpn string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{alpn}, DynamicRecordSizingDisabled: true,
		RootCAs: i.roots, ServerName: name,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return i.certificate() },
	}
}
