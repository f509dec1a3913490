// Package store holds a node's durable state behind narrow types. It is the only
// package that knows how and where that state is kept.
package store

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Token is what is kept of a token: never its secret.
type Token struct {
	ID      string    `json:"id"`
	Hash    string    `json:"hash"` // hex SHA-256 of the secret, which is random: no salt or stretching is owed
	Label   string    `json:"label,omitempty"`
	Allow   []string  `json:"allow,omitempty"` // what it may bind; empty: everything
	Created time.Time `json:"created"`
}

// Errors of Tokens.
var (
	ErrNoToken   = errors.New("no such token")
	ErrBadTokens = errors.New("the file is damaged: restore it from a backup, or remove it to begin with a new first token")
)

// Tokens are the tokens of a node, kept in one file that is replaced as a whole,
// so that it is always either the old or the new one.
type Tokens struct {
	path string

	mu struct {
		sync.RWMutex
		tokens map[string]Token
	}
}

// OpenTokens reads the tokens in dir, which must exist.
func OpenTokens(dir string) (*Tokens, error) {
	t := &Tokens{path: filepath.Join(dir, "tokens.json")}
	t.mu.tokens = make(map[string]Token)
	b, err := os.ReadFile(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read tokens: %w", err)
	}
	var list []Token
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("read tokens from %s: %w: %w", t.path, ErrBadTokens, err)
	}
	for _, tok := range list {
		t.mu.tokens[tok.ID] = tok
	}
	return t, nil
}

// Create makes and keeps a token; the returned value holds its secret for the only
// time.
func (t *Tokens) Create(fingerprint, label string, allow []string) (tunnel.Token, error) {
	token := tunnel.NewToken(fingerprint)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.tokens[token.ID] = Token{
		ID: token.ID, Hash: hash(token.Secret), Label: label, Allow: allow,
		Created: time.Now().UTC().Truncate(time.Second),
	}
	if err := t.saveLocked(); err != nil {
		delete(t.mu.tokens, token.ID)
		return tunnel.Token{}, err
	}
	return token, nil
}

// Revoke forgets a token. It returns ErrNoToken if there is none with this id.
func (t *Tokens) Revoke(id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	tok, ok := t.mu.tokens[id]
	if !ok {
		return ErrNoToken
	}
	delete(t.mu.tokens, id)
	if err := t.saveLocked(); err != nil {
		t.mu.tokens[id] = tok
		return err
	}
	return nil
}

// List returns all tokens, oldest first.
func (t *Tokens) List() []Token {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.sortedLocked()
}

func (t *Tokens) sortedLocked() []Token {
	list := make([]Token, 0, len(t.mu.tokens))
	for _, tok := range t.mu.tokens {
		list = append(list, tok)
	}
	slices.SortFunc(list, func(a, b Token) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list
}

// Verify returns what is kept of a token whose secret is right, else ErrNoToken.
// It takes the same time whether or not the id exists.
func (t *Tokens) Verify(token tunnel.Token) (Token, error) {
	t.mu.RLock()
	have, ok := t.mu.tokens[token.ID]
	t.mu.RUnlock()
	same := subtle.ConstantTimeCompare([]byte(have.Hash), []byte(hash(token.Secret))) == 1
	if !ok || !same {
		return Token{}, ErrNoToken
	}
	return have, nil
}

func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func (t *Tokens) saveLocked() error {
	b, err := json.MarshalIndent(t.sortedLocked(), "", "  ")
	if err != nil {
		return fmt.Errorf("save tokens: %w", err)
	}
	if err := WriteFile(t.path, append(b, '\n')); err != nil {
		return fmt.Errorf("save tokens: %w", err)
	}
	return nil
}

// WriteFile replaces a file of mode 0600 so that after a crash it holds either the
// old or the new content, whole.
func WriteFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone after the rename
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	err = dir.Sync() // the rename itself must survive too
	if cerr := dir.Close(); err == nil {
		err = cerr
	}
	return err
}
