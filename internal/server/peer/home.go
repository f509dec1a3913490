package peer

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Home is what a node of a cluster with a store of its own knows before that store is
// there: how it and the others know each other, and where they are. It is kept in a
// directory of the data directory.
type Home struct{ dir string }

// Files of a Home.
const (
	authorityFile = "authority.pem" // the CA of the cluster, with its key; the last one to be written
	caFile        = "ca.pem"        // its certificate alone
	identityFile  = "node.pem"      // this node's certificate, with its key
	nodesFile     = "nodes"         // addresses, a line each
)

// ErrDamaged says that the file of the cluster's CA can't be read.
var ErrDamaged = errors.New("this is not the CA of a cluster: restore it, or move the data directory away and start with --join")

// HomeOf is the one in a data directory.
func HomeOf(dataDir string) *Home { return &Home{filepath.Join(dataDir, "cluster")} }

func (h *Home) path(name string) string { return filepath.Join(h.dir, name) }

func (h *Home) identity() string { return h.path(identityFile) }

// Store describes this node for the store of the cluster.
func (h *Home) Store(address string, dialer *Peers) *store.Cluster {
	return &store.Cluster{
		Address: address, Join: slices.DeleteFunc(h.Nodes(), func(a string) bool { return a == address }),
		Dial: dialer.dialStore, Identity: h.identity(), CA: h.path(caFile), Name: nodeName,
	}
}

// Made reports whether the node is of a cluster already.
func (h *Home) Made() (bool, error) {
	_, err := os.Stat(h.path(authorityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Authority returns the CA of the cluster. The first node makes it.
func (h *Home) Authority() (store.Authority, error) {
	made, err := h.Made()
	if err != nil {
		return store.Authority{}, err
	}
	if !made {
		a, err := NewAuthority()
		if err != nil {
			return a, err
		}
		return a, h.Keep(a, nil)
	}
	path := h.path(authorityFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return store.Authority{}, fmt.Errorf("read the cluster's CA: %w", err)
	}
	cert, rest := pem.Decode(b)
	key, _ := pem.Decode(rest)
	if cert == nil || key == nil {
		return store.Authority{}, fmt.Errorf("read %s: %w", path, ErrDamaged)
	}
	return store.Authority{Cert: cert.Bytes, Key: key.Bytes}, nil
}

// Keep makes this node one of a cluster.
func (h *Home) Keep(a store.Authority, nodes []string) error {
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return fmt.Errorf("keep the cluster's CA: %w", err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Cert})
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: a.Key})
	err := h.SetNodes(nodes)
	if err == nil {
		err = store.WriteFile(h.path(caFile), cert)
	}
	if err == nil {
		err = store.WriteFile(h.path(authorityFile), slices.Concat(cert, key))
	}
	if err != nil {
		return fmt.Errorf("keep the cluster's CA: %w", err)
	}
	return nil
}

// Nodes are the addresses of nodes that were known last.
func (h *Home) Nodes() []string {
	b, err := os.ReadFile(h.path(nodesFile))
	if err != nil {
		return nil // who has a member of the store does without
	}
	return strings.Fields(string(b))
}

// SetNodes keeps the addresses of nodes for the next start.
func (h *Home) SetNodes(nodes []string) error {
	nodes = slices.Sorted(slices.Values(nodes))
	if slices.Equal(nodes, h.Nodes()) {
		return nil
	}
	return store.WriteFile(h.path(nodesFile), []byte(strings.Join(nodes, "\n")+"\n"))
}

// Fingerprint is what a node to be knows the cluster's CA by.
func Fingerprint(a store.Authority) (string, error) {
	ca, err := x509.ParseCertificate(a.Cert)
	if err != nil {
		return "", fmt.Errorf("read the cluster's CA: %w", err)
	}
	return tunnel.Fingerprint(ca), nil
}

// writePair keeps a certificate and its key in one file, so that they can't part.
func writePair(path string, chain [][]byte, key crypto.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	var b []byte
	for _, c := range chain {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	b = append(b, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	if _, err := tls.X509KeyPair(b, b); err != nil {
		return err
	}
	return store.WriteFile(path, b)
}
