package store

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Token is what is kept of a token: never its secret.
type Token struct {
	ID      string    `json:"id"`
	Hash    string    `json:"hash"` // hex SHA-256 of the secret, which is random: no salt or stretching is owed
	Created time.Time `json:"created"`
	Rights
}

// Rights are what a token is good for. Zero limits are none.
type Rights struct {
	Label          string    `json:"label,omitempty"`
	Allow          []string  `json:"allow,omitempty"` // what it may bind; empty: everything
	MaxEndpoints   int       `json:"max_endpoints,omitempty"`
	MaxSessions    int       `json:"max_sessions,omitempty"`
	MaxConnections int       `json:"max_connections,omitempty"`
	Bandwidth      uint64    `json:"bandwidth,omitempty"` // bytes per second
	NoPool         bool      `json:"no_pool,omitempty"`   // its endpoints share no name
	Expires        time.Time `json:"expires,omitzero"`
	Admin          bool      `json:"admin,omitempty"` // for the admin API alone, not for agents
	Join           bool      `json:"join,omitempty"`  // for servers that join the cluster, not for agents
}

// Expired reports whether the token is of no use any more.
func (r Rights) Expired(now time.Time) bool { return !r.Expires.IsZero() && !now.Before(r.Expires) }

// ErrNoToken says that there is no such token, or that its secret is another.
var ErrNoToken = errors.New("no such token")

func (s *Store) tokenTable() table[Token] { return table[Token]{s, "tokens/"} }

func newToken(fingerprint string, rights Rights) (tunnel.Token, Token) {
	token := tunnel.NewToken(fingerprint)
	return token, Token{ID: token.ID, Hash: hash(token.Secret), Created: time.Now().UTC().Truncate(time.Second), Rights: rights}
}

// CreateToken makes and keeps a token; the returned value holds its secret for the only
// time. The fingerprint is that of the CA that agents shall trust, or empty.
func (s *Store) CreateToken(ctx context.Context, fingerprint string, rights Rights) (tunnel.Token, error) {
	token, kept := newToken(fingerprint, rights)
	rev, err := s.tokenTable().put(ctx, token.ID, 0, kept)
	if err != nil {
		return tunnel.Token{}, fmt.Errorf("create token: %w", err)
	}
	s.tokens.reach(ctx, rev)
	return token, nil
}

// FirstToken makes a token if this store has never had one, whoever of the nodes comes
// first. Else it returns ErrExists.
func (s *Store) FirstToken(ctx context.Context, fingerprint string) (tunnel.Token, error) {
	token, kept := newToken(fingerprint, Rights{Label: "first"})
	text, err := encode(kept)
	if err != nil {
		return tunnel.Token{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	begun := s.prefix + "begun" // stays when the token is revoked
	r, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(begun), "=", 0)).
		Then(clientv3.OpPut(begun, ""), clientv3.OpPut(s.tokenTable().path(token.ID), text)).Commit()
	if err != nil {
		return tunnel.Token{}, fmt.Errorf("create the first token: %w", fault(err))
	}
	if !r.Succeeded {
		return tunnel.Token{}, ErrExists
	}
	s.tokens.reach(ctx, r.Header.Revision)
	return token, nil
}

// RevokeToken forgets a token, on all nodes as soon as they hear of it. It returns
// ErrNoToken if there is none with this id.
func (s *Store) RevokeToken(ctx context.Context, id string) error {
	rev, err := s.tokenTable().drop(ctx, id, 0)
	if errors.Is(err, ErrNotFound) {
		return ErrNoToken
	}
	if err != nil {
		return fmt.Errorf("revoke token: %w", err)
	}
	s.tokens.reach(ctx, rev)
	return nil
}

// Tokens returns all tokens, oldest first.
func (s *Store) Tokens() []Token {
	var list []Token
	for _, r := range s.tokens.All() {
		list = append(list, r.Value)
	}
	slices.SortFunc(list, func(a, b Token) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list
}

// TokensChanged has f told of each token that is made, changed (both given) or revoked.
func (s *Store) TokensChanged(f func(was, is *Token)) { s.tokens.OnChange(f) }

// Token returns what is kept of a token.
func (s *Store) Token(id string) (Token, bool) {
	r, ok := s.tokens.Get(id)
	return r.Value, ok
}

// VerifyToken returns what is kept of a token whose secret is right, else ErrNoToken.
// It takes the same time whether or not the id exists. Expiry is the caller's to judge.
func (s *Store) VerifyToken(token tunnel.Token) (Token, error) {
	have, ok := s.tokens.Get(token.ID)
	same := subtle.ConstantTimeCompare([]byte(have.Value.Hash), []byte(hash(token.Secret))) == 1
	if !ok || !same {
		return Token{}, ErrNoToken
	}
	return have.Value, nil
}

func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}
