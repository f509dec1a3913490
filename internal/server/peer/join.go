package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// A node to be dials one of the cluster, whose CA its token has the fingerprint of, and
// sends the token; it is told what makes a node of it. Both messages are JSON.

// nodeName is in the certificates of all nodes of a cluster.
const nodeName = link.NodeName

// Bounds of joining.
const (
	joinTimeout = 10 * time.Second
	maxAsk      = 4 << 10
	maxWelcome  = 256 << 10
)

// Errors of joining.
var (
	ErrNotAdmitted   = errors.New("the cluster does not take this server in")
	errNobodyJoins   = errors.New("servers join this cluster by its etcd: use --etcd")
	errNoFingerprint = errors.New("this is no token to join with: make one with culvert cluster token")
)

// Welcome is what makes a node of the cluster.
type Welcome struct {
	Authority store.Authority `json:"authority"`
	LinkCA    []byte          `json:"link_ca"` // file of the CA that agents trust
	Nodes     []string        `json:"nodes"`   // addresses
}

type (
	ask struct {
		Token string `json:"token"`
	}
	answer struct {
		Welcome *Welcome `json:"welcome,omitempty"`
		Refused string   `json:"refused,omitempty"`
	}
)

// admit answers a node to be.
func (p *Peers) admit(conn net.Conn) error {
	defer conn.Close() //nolint:errcheck // said what there is to say
	_ = conn.SetDeadline(time.Now().Add(joinTimeout))
	var asked ask
	if err := json.NewDecoder(io.LimitReader(conn, maxAsk)).Decode(&asked); err != nil {
		return fmt.Errorf("read what a new node asks: %w", err)
	}
	welcome, err := Welcome{}, errNobodyJoins
	if p.cfg.Admit != nil {
		welcome, err = p.cfg.Admit(asked.Token)
	}
	said := answer{Welcome: &welcome}
	if err != nil {
		said = answer{Refused: err.Error()}
	}
	if werr := json.NewEncoder(conn).Encode(said); err == nil {
		err = werr
	}
	if err == nil {
		p.cfg.Logger.Info("a new server was given the cluster's certificate", "remote", conn.RemoteAddr().String())
	}
	return err
}

// Join asks the nodes at the addresses, one after the other, to take this one in.
func Join(ctx context.Context, addresses []string, token tunnel.Token) (Welcome, error) {
	if token.Fingerprint == "" {
		return Welcome{}, errNoFingerprint
	}
	var errs []error
	for _, a := range addresses {
		w, err := askAt(ctx, a, token)
		if err == nil {
			return w, nil
		}
		errs = append(errs, fmt.Errorf("at %s: %w", a, err))
	}
	return Welcome{}, errors.Join(errs...)
}

func askAt(ctx context.Context, address string, token tunnel.Token) (Welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	conn, err := link.DialPinned(ctx, address, token.Fingerprint, alpnJoin)
	if err != nil {
		return Welcome{}, err
	}
	defer conn.Close() //nolint:errcheck // read
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	var said answer
	err = json.NewEncoder(conn).Encode(ask{Token: token.Credential()})
	if err == nil {
		err = json.NewDecoder(io.LimitReader(conn, maxWelcome)).Decode(&said)
	}
	switch {
	case err != nil:
		return Welcome{}, err
	case said.Welcome == nil:
		return Welcome{}, fmt.Errorf("%w: %s", ErrNotAdmitted, tunnel.Clean(said.Refused))
	}
	return *said.Welcome, nil
}

// dialStore connects to the member of the store that the node at an address has.
func (p *Peers) dialStore(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return link.DialPeer(ctx, address, p.self.dials(nodeName, alpnStore))
}
